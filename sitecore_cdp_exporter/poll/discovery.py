"""Discovery of the organisation's batches from the API's list of the past 30 days. No I/O: the poller sends requests.

Each poll reads the whole list of unfinished batches, then the first page of the finished ones. It reads the other pages
of the finished only if that page does not explain what has changed, and at least every ten minutes: batches that are no
longer unfinished should be on it, and so should those by which the list has grown. A shorter list only means that some
batches have become too old. The order matters: a batch that finishes in between is seen twice, not missed.

What a page shows is known from then on. If a poll could not finish a walk through the finished, the next one continues
it, so that a slow list is read as well. A list that does not add up has a problem until a later walk finds none.
"""

from collections import Counter
from collections.abc import Mapping
from math import inf

from sitecore_cdp_exporter.api.batch import Batch, BatchPage, BatchStatus
from sitecore_cdp_exporter.poll.reading import Reading
from sitecore_cdp_exporter.poll.walk import FINISHED, UNFINISHED, PageRequest, Walk

SECONDS_BETWEEN_WALKS = 600.0
SECONDS_AFTER_A_PROBLEM = 60.0
# A batch may move from one page to another while they are read, so its absence from one walk proves nothing.
WALKS_TO_BELIEVE_THAT_A_BATCH_IS_GONE = 2


class Discovery:
    """The organisation's batches, as known from the list.

    Attributes:
        known: Each batch as last listed, by ref in lower case, without counts and error log. A missing or unfamiliar
            status is `unknown`.
        revision: Increases whenever a batch in `known` is added, changed or removed.
        seen_unfinished: Those that the list of this poll shows as unfinished. Each poll gets a new mapping.

    """

    def __init__(self) -> None:
        self.known: dict[str, Reading] = {}
        self.revision = 0
        self.seen_unfinished: dict[str, Reading] = {}
        self._changed: dict[str, Batch] = {}
        self._missing: Counter[str] = Counter()
        self._unfinished = Walk(UNFINISHED)
        self._finished = Walk(FINISHED)
        # Since when `_finished` is read beyond its first page. None: it is not.
        self._walking_since: float | None = None
        # The result of the last complete walk through the finished batches.
        self._walked = -inf
        self._finished_total = 0
        self._finished_unreadable = 0
        self._finished_problem: str | None = None

    @property
    def complete(self) -> bool:
        """Whether this poll has read the list."""
        return self._unfinished.complete and self._finished.complete

    @property
    def problem(self) -> str | None:
        """Why a complete list does not add up, or None. Safe to log."""
        return self._unfinished.problem or self._finished_problem

    @property
    def unreadable(self) -> int:
        """The number of items of the list that could not be read, wholly or in part."""
        return self._unfinished.unreadable + max(self._finished.unreadable, self._finished_unreadable)

    @property
    def statuses(self) -> Mapping[str, BatchStatus]:
        """The status of each batch of the past 30 days, by ref in lower case, once the list is complete.

        Batches that have become too old count until the next walk.
        """
        finished = {
            key: reading.batch.status
            for key, reading in self.known.items()
            if reading.batch.status.finished and key not in self._missing
        }
        return finished | {key: reading.batch.status for key, reading in self.seen_unfinished.items()}

    @property
    def totals(self) -> Mapping[BatchStatus, int]:
        """The number of batches of the past 30 days per status, once the list is complete."""
        counts = Counter(self.statuses.values())
        return {status: counts[status] for status in UNFINISHED + FINISHED}

    def begin(self, now: float) -> list[PageRequest]:
        """Start reading the list, and return the first requests. `now` is of the monotonic clock."""
        self._unfinished = Walk(UNFINISHED)
        self.seen_unfinished = {}
        # The pages of an older walk may be too old to combine with new ones.
        if self._walking_since is not None and now - self._walking_since < SECONDS_BETWEEN_WALKS:
            return [*self._unfinished.outstanding, *self._finished.outstanding]
        self._finished = Walk(FINISHED)
        self._walking_since = None
        return [*self._unfinished.outstanding]

    def wants(self, request: PageRequest) -> bool:
        """Whether a page is still needed."""
        return request in self._walk_of(request).outstanding

    def receive(self, request: PageRequest, page: BatchPage, now: float, polled: float) -> list[PageRequest]:
        """Process a page, and return the requests that follow from it. Pages that are no longer needed are ignored.

        Args:
            request: The request.
            page: The answer.
            now: The current time, of the monotonic clock.
            polled: When the page was read, in seconds since the Unix epoch.

        """
        if not self.wants(request):
            return []
        # If the server ignores the filter, each walk also sees batches that belong to the other.
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
        if self._walking_since is not None and self.complete:
            self._conclude(now)
        return more

    def take_changed(self) -> list[Batch]:
        """Return the batches whose status has changed since the last call."""
        changed, self._changed = self._changed, {}
        return [batch for key, batch in changed.items() if key in self.known]

    def _walk_of(self, request: PageRequest) -> Walk:
        return self._unfinished if request.statuses == UNFINISHED else self._finished

    def _receive_first_of_finished(
        self, request: PageRequest, page: BatchPage, readings: Mapping[str, Reading], now: float
    ) -> list[PageRequest]:
        """Decide whether to continue with the other pages."""
        must_walk = self._must_walk(page, readings, now)
        more = self._finished.receive(request, page)
        if must_walk:
            self._walking_since = now
            return more
        self._finished.end()
        self._finished_total = page.total or 0
        return []

    def _must_walk(self, page: BatchPage, readings: Mapping[str, Reading], now: float) -> bool:
        """Whether the whole list of the finished may show more than its first page explains."""
        if page.length == page.total:
            # The first page is the whole list.
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
        """Store what a page shows. A batch seen as both unfinished and finished has finished in between."""
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
        """Determine from a complete walk how many batches there are, and which are gone."""
        self._walking_since = None
        self._walked = now
        # If the walk missed a batch because the list moved, the next first page triggers another walk.
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
