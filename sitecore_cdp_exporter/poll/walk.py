"""One walk through the API's list of batches, page by page, and whether the pages add up. No I/O.

The list moves while it is read. A batch that arrives or leaves shifts others across page boundaries, so that one is
shown twice or not at all. If a batch was shown twice, one such change is tolerated between every two pages; otherwise
all batches shown must add up to `totalCount`.
"""

from dataclasses import dataclass

from sitecore_cdp_exporter.api.batch import BatchPage, BatchStatus

UNFINISHED = (BatchStatus.UPLOADING, BatchStatus.FILE_UPLOADED, BatchStatus.PROCESSING)
FINISHED = (BatchStatus.SUCCESS, BatchStatus.CORRUPTED, BatchStatus.ERROR)
PAGE_SIZE = 100
# The API keeps 30 days. A larger count is wrong, and must not cause as many requests.
MAX_BATCHES = 100_000


@dataclass(frozen=True, slots=True)
class PageRequest:
    """`GET /v2/batches/inspect?status=...&offset=...&limit=...`."""

    statuses: tuple[BatchStatus, ...]
    offset: int
    limit: int = PAGE_SIZE


class Walk:
    """Reads the list of some statuses to its end. Pages after the first may arrive in any order.

    Attributes:
        outstanding: The requests without an answer, in the order to send them.
        total: The number of batches, by the last usable count.
        shown: The refs of all batches shown, in lower case.
        unreadable: The number of items that could not be read, wholly or in part.

    """

    def __init__(self, statuses: tuple[BatchStatus, ...]) -> None:
        self.outstanding: dict[PageRequest, None] = {PageRequest(statuses, 0): None}
        self.total = 0
        self.shown: set[str] = set()
        self.unreadable = 0
        self._statuses = statuses
        # The server's page size, which may be smaller than requested.
        self._page_size = 0
        self._end = 0
        self._pages = 0
        self._items = 0
        self._totals: set[int] = set()
        self._fault: str | None = None

    @property
    def begun(self) -> bool:
        """Whether the first page has been read."""
        return PageRequest(self._statuses, 0) not in self.outstanding

    @property
    def complete(self) -> bool:
        """Whether all pages have been read."""
        return not self.outstanding

    @property
    def received(self) -> int:
        """The number of distinct batches shown."""
        return len(self.shown)

    @property
    def problem(self) -> str | None:
        """Why the pages of a complete walk do not add up, or None. Safe to log."""
        if self._fault is not None:
            return self._fault
        if self.unreadable:
            return f"unreadable items: {self.unreadable}"
        changes = self._pages - 1 if self._items > self.received else 0
        if min(self._totals) - changes <= self.received <= max(self._totals) + changes:
            return None
        return f"totalCount is {self.total}, but the pages show {self.received} batches"

    def receive(self, request: PageRequest, page: BatchPage) -> list[PageRequest]:
        """Process the answer to an outstanding request, and return the requests for pages that are still missing."""
        del self.outstanding[request]
        if request.offset == 0:
            self._page_size = self._end = page.length
        refs = {batch.ref.lower() for batch in page.batches}
        news = refs - self.shown
        self._pages += 1
        self._items += page.length
        self.unreadable += page.unreadable
        self.shown |= news
        if page.total is not None:
            self.total = page.total
            self._totals.add(page.total)
        # A change of the list may have shifted a single batch to a page of its own.
        if refs and not news and (len(refs) > 1 or self._page_size == 1):
            self._fault = "a page shows nothing but what other pages show"
            self.end()
            return []
        more = self._following(request, page, has_news=bool(news))
        self.outstanding |= dict.fromkeys(more)
        return more

    def end(self) -> None:
        """Stop reading."""
        self.outstanding.clear()

    def _following(self, request: PageRequest, page: BatchPage, *, has_news: bool) -> list[PageRequest]:
        """Return the requests for pages that this one shows to be missing."""
        end, total = request.offset + page.length, page.total
        if total is None or total > MAX_BATCHES or (page.length and total < end):
            self._fault = "totalCount is missing or wrong"
            # Without a count, assume another page after each page with new batches.
            total = end + self._page_size if has_news and end < MAX_BATCHES else end
        if not page.length:
            # An empty page is the end, even if the count says otherwise.
            self.outstanding = {each: None for each in self.outstanding if each.offset < request.offset}
            return []
        # Request the rest of a page that was cut short, and what the count says lies beyond all pages requested so far.
        wanted = min(request.offset + min(request.limit, self._page_size), total)
        rest = [PageRequest(self._statuses, end, wanted - end)] if end < wanted else []
        offsets = range(self._end, total, self._page_size)
        self._end += len(offsets) * self._page_size
        return rest + [PageRequest(self._statuses, offset) for offset in offsets]
