"""Which batches count as loaded, and the newest accepted one of each feed. Recomputed for every config."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.config.model import FeedConfig


def is_accepted(batch: Batch, feed: FeedConfig | None) -> bool | None:
    """Return whether a batch counts as loaded, or None while it is unfinished or its details are unread."""
    if not batch.status.finished or not batch.details_read:
        return None
    if feed is not None and feed.max_failed_ratio and batch.status is BatchStatus.ERROR and batch.total_records:
        return batch.failed_records is not None and batch.failed_records / batch.total_records <= feed.max_failed_ratio
    return batch.status is BatchStatus.SUCCESS


def foresee_accepted(batch: Batch, feed: FeedConfig | None) -> bool | None:
    """Return whether a batch is accepted, or will be once its details are read. None if that depends on them.

    A success needs no details: even if they can never be read, everything was loaded.
    """
    if batch.details_read or not batch.status.finished:
        return bool(is_accepted(batch, feed))
    if batch.status is BatchStatus.ERROR and feed is not None and feed.max_failed_ratio:
        return None
    return batch.status is BatchStatus.SUCCESS


@dataclass(frozen=True, slots=True)
class NewestAccepted:
    """The newest accepted batch of a feed, in seconds since the Unix epoch; 0 if there was none.

    Attributes:
        modified: The latest modification of an accepted batch.
        created: The latest allocation of an accepted batch.
        finished: The latest modification of a finished batch, accepted or not, or allocation of one whose file never
            came.

    """

    modified: float = 0.0
    created: float = 0.0
    finished: float = 0.0


def newest_accepted(batches: Iterable[Batch], feed: FeedConfig) -> NewestAccepted:
    """Find the newest accepted batch of a feed.

    Args:
        batches: Its batches; of those that are still uploading only the expired ones.
        feed: The feed.

    """
    batches = list(batches)
    accepted = [batch for batch in batches if foresee_accepted(batch, feed)]
    return NewestAccepted(
        modified=max((batch.modified or 0.0 for batch in accepted), default=0.0),
        created=max((batch.created or 0.0 for batch in accepted), default=0.0),
        finished=max((_ended(batch) for batch in batches), default=0.0),
    )


def _ended(batch: Batch) -> float:
    """Return when a batch finished or, if it has expired, was allocated; 0: neither, or that is not known."""
    if batch.status is BatchStatus.UPLOADING:
        return batch.created or 0.0
    return (batch.modified or 0.0) if batch.status.finished else 0.0


class PastBatches:
    """Batches that are no longer watched, but may still be the newest accepted one of their feed.

    It keeps the batches, not the verdicts: another `max_failed_ratio` may judge them differently.
    """

    def __init__(self) -> None:
        self._by_feed: dict[str, list[Batch]] = {}
        # Per feed, the newest batch that no rule accepts.
        self._failed: dict[str, Batch] = {}

    def add(self, feed: str, batch: Batch) -> None:
        """Keep a batch, finished or expired, unless a kept one is at least as good under every rule."""
        if _share_of_failures(batch) is None:
            newest = self._failed.get(feed, batch)
            if _ended(batch) >= _ended(newest):
                self._failed[feed] = batch
            return
        kept = self._by_feed.get(feed, [])
        if not any(_outdoes(each, batch) for each in kept):
            self._by_feed[feed] = [each for each in kept if not _outdoes(batch, each)] + [batch]

    def of_feed(self, feed: str) -> Iterable[Batch]:
        """Return the batches kept for a feed."""
        failed = self._failed.get(feed)
        return [*self._by_feed.get(feed, ()), *([] if failed is None else [failed])]

    def forget_all_but(self, feeds: Mapping[str, FeedConfig]) -> None:
        """Forget all other feeds."""
        self._by_feed = {feed: batches for feed, batches in self._by_feed.items() if feed in feeds}
        self._failed = {feed: batch for feed, batch in self._failed.items() if feed in feeds}


def _outdoes(one: Batch, other: Batch) -> bool:
    """Return whether `one` is accepted whenever `other` is, and is not older."""
    share, of_other = _share_of_failures(one), _share_of_failures(other)
    return (
        share is not None
        and of_other is not None
        and share <= of_other
        and (one.modified or 0.0) >= (other.modified or 0.0)
        and (one.created or 0.0) >= (other.created or 0.0)
    )


def _share_of_failures(batch: Batch) -> float | None:
    """Return the share of failed records, negative for a success. None if no rule accepts the batch."""
    if batch.status is BatchStatus.SUCCESS:
        return -1.0
    if batch.status is BatchStatus.ERROR and batch.total_records and batch.failed_records is not None:
        return batch.failed_records / batch.total_records
    return None
