"""Discovery of the organisation's batches from the API's list of the past 30 days. No I/O: the poller sends requests.

In each poll the unfinished are read to the end of their list, then the first page of the finished. The other pages of
the finished are read only when that page does not explain what has changed, and at least every ten minutes: a batch
that has left the unfinished should be on it, and so should those by which the list has grown. That there are fewer
than before only means that some have become too old for the list. The order matters: a batch that finishes in between
is seen twice, not missed.

What a page shows is known from then on. A walk through the finished that a poll could not end goes on in the next one,
so that a slow list is read as well. A list that does not add up has a problem until a later walk finds none.
"""

from collections import Counter
from collections.abc import Mapping

from sitecore_cdp_exporter.api.batch import Batch, BatchPage, BatchStatus
from sitecore_cdp_exporter.poll.reading import Reading
from sitecore_cdp_exporter.poll.walk import FINISHED, UNFINISHED, PageRequest, Walk

SECONDS_BETWEEN_WALKS = 600.0
SECONDS_AFTER_A_PROBLEM = 60.0
# A batch may slip from one page to another while they are read, so one walk without it proves nothing.
WALKS_TO_BELIEVE_THAT_A_BATCH_IS_GONE = 2


class Discovery:
    """What is known of the organisation's batches from poll to poll.

    Attributes:
        known: Each batch as the list last showed it, by ref in lower case. Counts and the error log are not in it. One
            whose status the list did not say in a known word has the status `unknown`.
        revision: Grows whenever a batch in `known` comes, changes or goes.
        seen_unfinished: Those that the list of this poll shows to be unfinished; a mapping of its own for each poll.

    """

    def __init__(self) -> None:
        self.known: dict[str, Reading] = {}
        self.revision = 0
        self.seen_unfinished: dict[str, Reading] = {}
        self._changed: dict[str, Batch] = {}
        self._missing: Counter[str] = Counter()
        self._unfinished = Walk(UNFINISHED, float("-inf"))
        self._finished = Walk(FINISHED, float("-inf"))
        # Whether `_finished` is to be read beyond its first page.
        self._walking = False
        # The result of the last complete walk through the finished batches.
        self._walked = float("-inf")
        self._finished_total = -1
        self._finished_unreadable = 0
        self._finished_problem: str | None = None

    @property
    def complete(self) -> bool:
        """Whether the list of this poll was read."""
        return self._unfinished.complete and self._finished.complete

    @property
    def problem(self) -> str | None:
        """Why a complete list does not add up; None: it does. Fit for a log."""
        return self._unfinished.problem or self._finished_problem

    @property
    def unreadable(self) -> int:
        """How many items of the list were not readable, wholly or in part."""
        return self._unfinished.unreadable + max(self._finished.unreadable, self._finished_unreadable)

    @property
    def statuses(self) -> Mapping[str, BatchStatus]:
        """The status of each batch of the past 30 days, by ref in lower case, once the list is complete.

        Those that have become too old are in it until the next walk.
        """
        finished = {
            key: reading.batch.status
            for key, reading in self.known.items()
            if reading.batch.status.finished and key not in self._missing
        }
        return finished | {key: reading.batch.status for key, reading in self.seen_unfinished.items()}

    @property
    def totals(self) -> Mapping[BatchStatus, int]:
        """How many batches of the past 30 days have each status, once the list is complete."""
        counts = Counter(self.statuses.values())
        return {status: counts[status] for status in UNFINISHED + FINISHED}

    def begin(self, now: float) -> list[PageRequest]:
        """Begin to read the list, and return the first requests. `now` is this moment, of the monotonic clock."""
        self._unfinished = Walk(UNFINISHED, now)
        self.seen_unfinished = {}
        # What an older walk has read may be too old to be counted with the rest.
        if self._walking and now - self._finished.started < SECONDS_BETWEEN_WALKS:
            return [*self._unfinished.outstanding, *self._finished.outstanding]
        self._finished = Walk(FINISHED, now)
        self._walking = False
        return [*self._unfinished.outstanding]

    def wants(self, request: PageRequest) -> bool:
        """Whether a page is still to be read."""
        return request in self._walk_of(request).outstanding

    def receive(self, request: PageRequest, page: BatchPage, now: float, polled: float) -> list[PageRequest]:
        """Take a page and return the requests that follow from it. One that is wanted no more is ignored.

        Args:
            request: What was asked for.
            page: The answer.
            now: This moment, of the monotonic clock.
            polled: When the page was read, in seconds since the Unix epoch.

        """
        if not self.wants(request):
            return []
        # The server may ignore the filter. Then each walk sees batches that belong to the other.
        readings = {
            batch.ref.lower(): Reading(batch, polled)
            for batch in page.batches
            if batch.status in request.statuses or batch.status is BatchStatus.UNKNOWN
        }
        if request.statuses == UNFINISHED:
            more = self._unfinished.receive(request, page)
            if self._unfinished.complete and not self._finished.begun:
                more = [*self._finished.outstanding]
        elif request.offset == 0:
            more = self._receive_first_of_finished(request, page, readings, now)
        else:
            more = self._finished.receive(request, page)
        self._learn(readings)
        if self._walking and self.complete:
            self._conclude(now)
        return more

    def take_changed(self) -> list[Batch]:
        """Return those whose status has changed since the last call."""
        changed, self._changed = self._changed, {}
        return [batch for key, batch in changed.items() if key in self.known]

    def _walk_of(self, request: PageRequest) -> Walk:
        return self._unfinished if request.statuses == UNFINISHED else self._finished

    def _receive_first_of_finished(
        self, request: PageRequest, page: BatchPage, readings: Mapping[str, Reading], now: float
    ) -> list[PageRequest]:
        """Continue with the other pages, or stop after this one."""
        self._walking = self._must_walk(page, readings, now)
        more = self._finished.receive(request, page)
        if self._walking:
            return more
        self._finished.end()
        self._finished_total = page.total or 0
        return []

    def _must_walk(self, page: BatchPage, readings: Mapping[str, Reading], now: float) -> bool:
        """Whether there is more to learn from the whole list of the finished than its first page shows."""
        if page.length == page.total:
            # Then it is the whole list.
            return True
        if self._finished_problem is not None:
            return now - self._walked >= SECONDS_AFTER_A_PROBLEM
        unfinished_before = {key for key, reading in self.known.items() if reading.batch.status in UNFINISHED}
        arrived = [key for key in readings if key not in self.known or key in unfinished_before]
        return (
            now - self._walked >= SECONDS_BETWEEN_WALKS
            or not unfinished_before <= self.seen_unfinished.keys() | readings.keys()
            or page.total is None
            or not 0 < page.length <= page.total <= self._finished_total + len(arrived)
            or page.unreadable > self._finished_unreadable
        )

    def _is_news(self, batch: Batch) -> bool:
        known = self.known.get(batch.ref.lower())
        return known is None or known.batch != batch

    def _learn(self, readings: Mapping[str, Reading]) -> None:
        """Take over what a page showed; a batch that was seen as both has finished in between."""
        for key, reading in readings.items():
            self.revision += self._is_news(reading.batch)
            if key in self.known and self.known[key].batch.status is not reading.batch.status:
                self._changed[key] = reading.batch
            self.known[key] = reading
            self._missing.pop(key, None)
            if reading.batch.status in UNFINISHED:
                self.seen_unfinished[key] = reading
            else:
                self.seen_unfinished.pop(key, None)

    def _conclude(self, now: float) -> None:
        """Learn from a whole walk how many batches there are, and which are gone."""
        self._walking = False
        self._walked = now
        # A batch that was missed while the list moved lets the next first page ask for another walk.
        self._finished_total = min(self._finished.total, self._finished.received)
        self._finished_unreadable = self._finished.unreadable
        self._finished_problem = self._finished.problem
        if self.problem is not None:
            return
        missing = self.known.keys() - self._unfinished.shown - self._finished.shown
        self._missing = Counter({key: self._missing[key] + 1 for key in missing})
        for key, walks in list(self._missing.items()):
            if walks >= WALKS_TO_BELIEVE_THAT_A_BATCH_IS_GONE:
                del self.known[key], self._missing[key]
                self.revision += 1
