"""Which batches the organisation has, by the API's list of the past 30 days. No I/O: the poller sends the requests.

In each poll the unfinished are read to the end of their list, then the first page of the finished. The other pages of
the finished are read only when that page, its count or the unfinished say that something has changed, and at least
every ten minutes. The order matters: a batch that finishes in between is seen twice, not missed.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sitecore_cdp_exporter.api import Reason
from sitecore_cdp_exporter.batch import Batch, BatchPage, BatchStatus
from sitecore_cdp_exporter.snapshot import Reading

UNFINISHED = (BatchStatus.UPLOADING, BatchStatus.FILE_UPLOADED, BatchStatus.PROCESSING)
FINISHED = (BatchStatus.SUCCESS, BatchStatus.CORRUPTED, BatchStatus.ERROR)
PAGE_SIZE = 100
SECONDS_BETWEEN_WALKS = 600.0
# A batch may slip from one page to another while they are read, so one walk without it proves nothing.
WALKS_TO_BELIEVE_THAT_A_BATCH_IS_GONE = 2
# The API keeps 30 days. A count beyond this is no count of batches, and must not become as many requests.
MOST_BATCHES = 100_000


class EndlessListError(Exception):
    """The API counts more batches than any organisation can have."""


@dataclass(frozen=True, slots=True)
class PageRequest:
    """`GET /v2/batches/inspect?status=...&offset=...&limit=...`."""

    statuses: tuple[BatchStatus, ...]
    offset: int
    limit: int = PAGE_SIZE


class _Walk:
    """Reads the list of some statuses to its end; the pages after the first may be read in any order."""

    def __init__(self, statuses: tuple[BatchStatus, ...]) -> None:
        self._statuses = statuses
        self._outstanding = 1
        # How many batches the server grants in a page, which may be fewer than were asked for.
        self._page_size = 0
        self._end = 0
        self.total = 0
        self.readings: dict[str, Reading] = {}

    @property
    def first(self) -> PageRequest:
        return PageRequest(self._statuses, 0)

    @property
    def complete(self) -> bool:
        return not self._outstanding

    def receive(self, request: PageRequest, page: BatchPage, polled: float) -> list[PageRequest]:
        """Take a page, and return the requests for what it shows to be missing."""
        if page.total > MOST_BATCHES:
            raise EndlessListError
        self._outstanding -= 1
        self.total = page.total
        for batch in page.batches:
            self.readings[batch.ref.lower()] = Reading(batch, polled)
        if request.offset == 0:
            self._page_size = page.length
            self._end = page.length
        more = self._rest_of(request, page)
        if self._page_size:
            more += [PageRequest(self._statuses, offset) for offset in range(self._end, page.total, self._page_size)]
            self._end = max(self._end, *(request.offset + self._page_size for request in more), 0)
        self._outstanding += len(more)
        return more

    def _rest_of(self, request: PageRequest, page: BatchPage) -> list[PageRequest]:
        """Ask again from where a page ended early. An empty page is the end, whatever the count says."""
        end = request.offset + page.length
        wanted = min(request.offset + min(request.limit, self._page_size), page.total)
        if not page.length or end >= wanted:
            return []
        return [PageRequest(self._statuses, end, wanted - end)]


class Discovery:
    """What is known of the organisation's batches from poll to poll.

    Attributes:
        known: Each batch as the list last showed it, by ref in lower case. Counts and the error log are not in it.
        seen_unfinished: Those that the list of this poll shows to be unfinished.
        changed: Those whose status the list of this poll shows to have changed.
        failure: Why the list could not be read in the last poll; None: it was.

    """

    def __init__(self) -> None:
        self.known: dict[str, Reading] = {}
        self.seen_unfinished: Mapping[str, Reading] = {}
        self.changed: list[Batch] = []
        self.failure: Reason | None = None
        self._missing: Counter[str] = Counter()
        self._finished_total = -1
        self._finished_counts: Counter[BatchStatus] = Counter()
        self._last_walk = float("-inf")
        self._unfinished = _Walk(UNFINISHED)
        self._finished = _Walk(FINISHED)

    @property
    def complete(self) -> bool:
        """Whether the list of this poll was read."""
        return self.failure is None

    @property
    def totals(self) -> Mapping[BatchStatus, int] | None:
        """How many batches of the past 30 days have each status; None if the list could not be read."""
        if self.failure is not None:
            return None
        unfinished = Counter(reading.batch.status for reading in self.seen_unfinished.values())
        return {status: (unfinished + self._finished_counts)[status] for status in UNFINISHED + FINISHED}

    def begin(self) -> PageRequest:
        """Begin to read the list, and return the first request."""
        self._unfinished = _Walk(UNFINISHED)
        self._finished = _Walk(FINISHED)
        self.seen_unfinished = {}
        self.changed = []
        self.failure = Reason.DEADLINE
        return self._unfinished.first

    def receive(self, request: PageRequest, page: BatchPage, now: float, polled: float) -> list[PageRequest]:
        """Take a page and return the requests that follow from it.

        Args:
            request: What was asked for.
            page: The answer.
            now: This moment, of the monotonic clock.
            polled: When the page was read, in seconds since the Unix epoch.

        Raises:
            EndlessListError: The list can not be read to its end.

        """
        if request.statuses == UNFINISHED:
            more = self._unfinished.receive(request, page, polled)
            return [self._finished.first] if self._unfinished.complete else more
        more = self._finished.receive(request, page, polled)
        if request.offset == 0 and not self._must_walk(page, now):
            self._learn(complete=False, now=now)
            return []
        if self._finished.complete:
            self._learn(complete=True, now=now)
        return more

    def fail(self, reason: Reason) -> None:
        """Give the list up for this poll."""
        self.failure = reason
        self.seen_unfinished = {}

    def _must_walk(self, page: BatchPage, now: float) -> bool:
        unfinished_before = {key for key, reading in self.known.items() if not reading.batch.status.finished}
        return (
            now - self._last_walk >= SECONDS_BETWEEN_WALKS
            or page.total != self._finished_total
            or bool(self._missing)
            or not unfinished_before <= self._unfinished.readings.keys()
            or any(self._is_news(batch) for batch in page.batches)
        )

    def _is_news(self, batch: Batch) -> bool:
        known = self.known.get(batch.ref.lower())
        return known is None or known.batch != batch

    def _learn(self, *, complete: bool, now: float) -> None:
        """Take over what the list showed; a batch that was seen as both has finished in between."""
        finished = self._finished.readings
        self.seen_unfinished = {key: each for key, each in self._unfinished.readings.items() if key not in finished}
        seen = self.seen_unfinished | finished
        self.changed = [
            each.batch
            for key, each in seen.items()
            if key in self.known and self.known[key].batch.status is not each.batch.status
        ]
        self.known |= seen
        self.failure = None
        if not complete:
            return
        self._last_walk = now
        self._finished_total = self._finished.total
        self._finished_counts = Counter(reading.batch.status for reading in finished.values())
        self._missing = Counter({key: self._missing[key] + 1 for key in self.known.keys() - seen.keys()})
        for key, walks in list(self._missing.items()):
            if walks >= WALKS_TO_BELIEVE_THAT_A_BATCH_IS_GONE:
                del self.known[key], self._missing[key]
