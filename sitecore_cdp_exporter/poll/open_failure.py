"""Which batches have failed so that somebody still has to act, and how much of them is missing. Pure."""

import enum
from dataclasses import dataclass

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.config.model import FeedConfig

# Sitecore CDP keeps error logs for about a week. What nobody has uploaded again by then is no news.
MAX_AGE = 7 * 24 * 3600.0
# In smaller batches a single rejected record would be a large share.
MIN_RECORDS_OF_A_SHARE = 20


class FailureKind(enum.StrEnum):
    """How a batch failed: the values of the label `kind`. It depends only on the answer, so it does not change."""

    REJECTED = "rejected"  # records were rejected
    REJECTED_FEW = "rejected_few"  # likewise, in a batch that is too small for its share to mean much
    UNREADABLE = "unreadable"  # no record was read, and there is no error log
    CORRUPTED = "corrupted"  # the file is not the one that was declared
    TOO_FEW_RECORDS = "too_few_records"  # it was loaded, but has fewer records than its feed should have


@dataclass(frozen=True, slots=True)
class OpenFailure:
    """A failure that is not resolved.

    Attributes:
        kind: How the batch failed.
        ratio: The share of its records that failed; 1 if nothing was loaded, or the answer does not say. Of a batch
            with too few records, the share of `min_records` that is missing.

    """

    kind: FailureKind
    ratio: float


def open_failure(
    batch: Batch,
    feed: FeedConfig | None,
    *,
    accepted: bool | None,
    superseded: bool | None,
    finished: float | None,
    now: float,
) -> OpenFailure | None:
    """Return how a batch failed; None: it did not, its details are not read yet, or the failure is resolved or old.

    Args:
        batch: The batch.
        feed: Its feed.
        accepted: Whether it counts as loaded; None: it is unfinished, or its details are unread.
        superseded: Whether an accepted batch supersedes it.
        finished: When it finished, in seconds since the Unix epoch; None: not known.
        now: Seconds since the Unix epoch.

    """
    if superseded or (finished is not None and now - finished > MAX_AGE):
        return None
    if accepted:
        return _too_few_records(batch, feed)
    if batch.status is BatchStatus.CORRUPTED:
        return OpenFailure(FailureKind.CORRUPTED, 1.0)
    return None if accepted is None else _rejected(batch)


def tolerated_ratio(batch: Batch, *, accepted: bool | None, finished: float | None, now: float) -> float | None:
    """Return the share of records that failed of a batch that counts as loaded; None: none did, or it is old.

    The arguments are those of `open_failure`.
    """
    is_tolerated = (
        accepted and batch.status is BatchStatus.ERROR and (batch.failed_records or batch.error_log_available)
    )
    if not is_tolerated or (finished is not None and now - finished > MAX_AGE):
        return None
    return (batch.failed_records or 0) / batch.total_records if batch.total_records else None


def _rejected(batch: Batch) -> OpenFailure:
    total, failed = batch.total_records, batch.failed_records
    if not total:
        unreadable = not batch.error_log_available and not failed
        return OpenFailure(FailureKind.UNREADABLE if unreadable else FailureKind.REJECTED, 1.0)
    if failed is None:
        return OpenFailure(FailureKind.REJECTED, 1.0)
    kind = FailureKind.REJECTED_FEW if total < MIN_RECORDS_OF_A_SHARE else FailureKind.REJECTED
    return OpenFailure(kind, min(failed / total, 1.0))


def _too_few_records(batch: Batch, feed: FeedConfig | None) -> OpenFailure | None:
    if feed is None or batch.total_records is None or batch.total_records >= feed.min_records:
        return None
    return OpenFailure(FailureKind.TOO_FEW_RECORDS, 1 - batch.total_records / feed.min_records)
