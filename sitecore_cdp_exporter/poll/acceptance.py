"""Feeds: recurring uploads, and whether their newest batches were accepted."""

from collections.abc import Iterable

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.config.model import FeedConfig
from sitecore_cdp_exporter.poll.snapshot import FeedState


def is_accepted(batch: Batch, feed: FeedConfig | None) -> bool | None:
    """Tell whether a batch counts as loaded; None while it is not finished, or its details are not read yet."""
    if not batch.status.finished or not batch.details_read:
        return None
    if batch.status is BatchStatus.ERROR and feed is not None and batch.total_records and feed.max_failed_ratio:
        return batch.failed_records is not None and batch.failed_records / batch.total_records <= feed.max_failed_ratio
    return batch.status is BatchStatus.SUCCESS


def foresee_accepted(batch: Batch, feed: FeedConfig | None) -> bool | None:
    """Tell whether a batch is accepted, or will be once its details are read; None: only they can tell."""
    if batch.details_read or not batch.status.finished:
        return bool(is_accepted(batch, feed))
    if batch.status is BatchStatus.ERROR and feed is not None and feed.max_failed_ratio:
        return None
    return batch.status is BatchStatus.SUCCESS


class AcceptedBatches:
    """What is remembered of the accepted batches of each feed, longer than the batches themselves are watched.

    All times are seconds since the Unix epoch.
    """

    def __init__(self) -> None:
        self._last_modified: dict[str, float] = {}
        self._last_created: dict[str, float] = {}

    def remember(self, feed: str, batch: Batch) -> None:
        """Take note of an accepted batch."""
        for memory, time in ((self._last_modified, batch.modified), (self._last_created, batch.created)):
            if time is not None:
                memory[feed] = max(memory.get(feed, time), time)

    def supersede(self, feed: str, batch: Batch) -> bool:
        """Tell whether a batch that was allocated after this one was accepted. Parallel uploads finish in any order."""
        return batch.created is not None and self._last_created.get(feed, 0) > batch.created

    def states(self, feeds: Iterable[FeedConfig]) -> tuple[FeedState, ...]:
        """Return the state of each feed."""
        return tuple(FeedState(feed=feed, last_accepted=self._last_modified.get(feed.name, 0)) for feed in feeds)
