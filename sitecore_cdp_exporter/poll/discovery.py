"""Which batches the organisation has, by the API's list of the past 30 days. No I/O: the poller sends the requests.

In each poll the unfinished are read to the end of their list, then the first page of the finished. The other pages of
the finished are read only when that page does not explain what has changed, and at least every ten minutes: a batch
that has left the unfinished should be on it, and so should those by which the list has grown. That there are fewer
than before says only that some have become too old for the list. The order matters: a batch that finishes in between
is seen twice, not missed.

What a page shows is known from then on. A walk through the finished that a poll could not end goes on in the next one,
so that a slow list is read as well.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sitecore_cdp_exporter.api.batch import Batch, BatchPage, BatchStatus
from sitecore_cdp_exporter.poll.snapshot import Reading

UNFINISHED = (BatchStatus.UPLOADING, BatchStatus.FILE_UPLOADED, BatchStatus.PROCESSING)
FINISHED = (BatchStatus.SUCCESS, BatchStatus.CORRUPTED, BatchStatus.ERROR)
PAGE_SIZE = 100
SECONDS_BETWEEN_WALKS = 600.0
# A batch may slip from one page to another while they are read, so one walk without it proves nothing.
WALKS_TO_BELIEVE_THAT_A_BATCH_IS_GONE = 2
# The API keeps 30 days. A count beyond this is no count of batches, and must not become as many requests.
MOST_BATCHES = 100_000


class BrokenListError(Exception):
    """The API counts more batches than any organisation can have, or counts some and shows none."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """`GET /v2/batches/inspect?status=...&offset=...&limit=...`."""

    statuses: tuple[BatchStatus, ...]
    offset: int
    limit: int = PAGE_SIZE


class _Walk:
    """Reads the list of some statuses to its end; the pages after the first may be read in any order.

    Attributes:
        outstanding: The requests that are still to be answered, in the order in which they are to be sent.
        total: How many batches there are, by the last page's count.
        readings: What the pages have shown, by ref in lower case.

    """

    def __init__(self, statuses: tuple[BatchStatus, ...], started: float) -> None:
        self.started = started
        self.outstanding: dict[PageRequest, None] = {PageRequest(statuses, 0): None}
        self.total = 0
        self.readings: dict[str, Reading] = {}
        self._statuses = statuses
        # How many batches the server grants in a page, which may be fewer than were asked for.
        self._page_size = 0
        self._end = 0

    @property
    def begun(self) -> bool:
        return PageRequest(self._statuses, 0) not in self.outstanding

    @property
    def complete(self) -> bool:
        return not self.outstanding

    def receive(self, request: PageRequest, page: BatchPage, readings: Mapping[str, Reading]) -> list[PageRequest]:
        """Take a page and what it shows, and return the requests for what it shows to be missing."""
        if page.total > MOST_BATCHES or (page.total and not page.length and not request.offset):
            raise BrokenListError
        del self.outstanding[request]
        self.total = page.total
        self.readings |= readings
        if request.offset == 0:
            self._page_size = self._end = page.length
        # An empty page is the end, whatever the count says.
        more = self._rest_of(request, page) if page.length else []
        self.outstanding |= dict.fromkeys(more)
        return more

    def end(self) -> None:
        """Read no more pages."""
        self.outstanding.clear()

    def _rest_of(self, request: PageRequest, page: BatchPage) -> list[PageRequest]:
        """Ask from where the page ended early, and for what the count shows to be behind all that was asked for."""
        end = request.offset + page.length
        wanted = min(request.offset + min(request.limit, self._page_size), page.total)
        rest = [PageRequest(self._statuses, end, wanted - end)] if end < wanted else []
        offsets = range(self._end, page.total, self._page_size)
        self._end += len(offsets) * self._page_size
        return rest + [PageRequest(self._statuses, offset) for offset in offsets]


class Discovery:
    """What is known of the organisation's batches from poll to poll.

    Attributes:
        known: Each batch as the list last showed it, by ref in lower case. Counts and the error log are not in it.
        revision: Grows whenever a batch in `known` comes, changes or goes.
        seen_unfinished: Those that the list of this poll shows to be unfinished; a mapping of its own for each poll.

    """

    def __init__(self) -> None:
        self.known: dict[str, Reading] = {}
        self.revision = 0
        self.seen_unfinished: dict[str, Reading] = {}
        self._changed: dict[str, Batch] = {}
        self._missing: Counter[str] = Counter()
        self._finished_total = -1
        self._last_walk = float("-inf")
        self._unfinished = _Walk(UNFINISHED, float("-inf"))
        self._finished = _Walk(FINISHED, float("-inf"))
        self._walking = False

    @property
    def complete(self) -> bool:
        """Whether the list of this poll was read."""
        return self._unfinished.complete and self._finished.complete

    @property
    def totals(self) -> Mapping[BatchStatus, int]:
        """How many batches of the past 30 days have each status, once the list is complete.

        Those that have become too old are counted until the next walk.
        """
        counts = Counter(reading.batch.status for reading in self.seen_unfinished.values())
        counts.update(
            reading.batch.status
            for key, reading in self.known.items()
            if reading.batch.status.finished and key not in self._missing
        )
        return {status: counts[status] for status in UNFINISHED + FINISHED}

    def begin(self, now: float) -> list[PageRequest]:
        """Begin to read the list, and return the first requests. `now` is this moment, of the monotonic clock."""
        self._unfinished = _Walk(UNFINISHED, now)
        self.seen_unfinished = {}
        # What an older walk has read may be too old to be counted with the rest.
        if self._walking and now - self._finished.started < SECONDS_BETWEEN_WALKS:
            return [*self._unfinished.outstanding, *self._finished.outstanding]
        self._finished = _Walk(FINISHED, now)
        self._walking = False
        return [*self._unfinished.outstanding]

    def receive(self, request: PageRequest, page: BatchPage, now: float, polled: float) -> list[PageRequest]:
        """Take a page and return the requests that follow from it. One that nobody waits for any more is ignored.

        Args:
            request: What was asked for.
            page: The answer.
            now: This moment, of the monotonic clock.
            polled: When the page was read, in seconds since the Unix epoch.

        Raises:
            BrokenListError: The list can not be read to its end.

        """
        walk = self._unfinished if request.statuses == UNFINISHED else self._finished
        if request not in walk.outstanding:
            return []
        # A status that does not fit the filter is one that this version does not know, or the filter is not heeded.
        readings = {
            batch.ref.lower(): Reading(batch, polled)
            for batch in page.batches
            if batch.status.finished is (request.statuses == FINISHED)
        }
        is_first = walk is self._finished and not walk.begun
        must_walk = is_first and self._must_walk(page, readings, now)
        more = walk.receive(request, page, readings)
        self._learn(readings, unfinished=walk is self._unfinished)
        if is_first and not must_walk:
            walk.end()
            self._finished_total = page.total
            return []
        self._walking |= must_walk
        if self._walking and self.complete:
            self._conclude(now)
        if walk is self._unfinished and walk.complete and not self._finished.begun:
            return [*self._finished.outstanding]
        return more

    def take_changed(self) -> list[Batch]:
        """Return those whose status has changed since the last call."""
        changed, self._changed = self._changed, {}
        return [batch for key, batch in changed.items() if key in self.known]

    def _must_walk(self, page: BatchPage, readings: Mapping[str, Reading], now: float) -> bool:
        """Tell whether the first page of the finished is less than what there is to learn from their whole list."""
        unfinished_before = {key for key, reading in self.known.items() if not reading.batch.status.finished}
        arrived = [key for key in readings if key not in self.known or key in unfinished_before]
        return (
            # Then it is the whole list.
            page.length == page.total
            or now - self._last_walk >= SECONDS_BETWEEN_WALKS
            or not unfinished_before <= self._unfinished.readings.keys() | readings.keys()
            or page.total > self._finished_total + len(arrived)
        )

    def _is_news(self, batch: Batch) -> bool:
        known = self.known.get(batch.ref.lower())
        return known is None or known.batch != batch

    def _learn(self, readings: Mapping[str, Reading], *, unfinished: bool) -> None:
        """Take over what a page showed; a batch that was seen as both has finished in between."""
        for key, reading in readings.items():
            self.revision += self._is_news(reading.batch)
            if key in self.known and self.known[key].batch.status is not reading.batch.status:
                self._changed[key] = reading.batch
            self.known[key] = reading
            self._missing.pop(key, None)
            if unfinished:
                self.seen_unfinished[key] = reading
            else:
                self.seen_unfinished.pop(key, None)

    def _conclude(self, now: float) -> None:
        """Learn from a whole walk how many batches there are, and which are gone."""
        self._walking = False
        self._last_walk = now
        self._finished_total = self._finished.total
        missing = self.known.keys() - self.seen_unfinished.keys() - self._finished.readings.keys()
        self._missing = Counter({key: self._missing[key] + 1 for key in missing})
        for key, walks in list(self._missing.items()):
            if walks >= WALKS_TO_BELIEVE_THAT_A_BATCH_IS_GONE:
                del self.known[key], self._missing[key]
                self.revision += 1
