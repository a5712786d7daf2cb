"""Log a batch when it changes, not in every scrape."""

import logging

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.errors import NO_ANSWER_REASONS, NOT_ASKED_REASONS, PollError
from sitecore_cdp_exporter.config.model import FeedConfig
from sitecore_cdp_exporter.poll.acceptance import is_accepted
from sitecore_cdp_exporter.poll.memory import Record
from sitecore_cdp_exporter.poll.reading import Outcome
from sitecore_cdp_exporter.watch.watchlist import Watched

logger = logging.getLogger(__name__)

# A poll logs at most this many batches that the list shows changed, and as many that answered; the metrics name all.
MAX_LOGGED = 10


def log_status(watched: Watched, status: BatchStatus) -> None:
    """Log that the status of a batch has changed."""
    logger.info("a batch has a new status", extra=_about(watched) | {"status": f"{status}"})


def log_end() -> None:
    """Log that a poll has reached its limit of logged batches."""
    logger.warning("this poll logs no more batches; the metrics name them all")


def log_change(watched: Watched, record: Record, outcome: Outcome, feed: FeedConfig | None, *, listed: bool) -> bool:
    """Log what is new in an outcome.

    Args:
        watched: The batch.
        record: Its record, which also notes whether its failure was logged.
        outcome: The answer.
        feed: Its feed, if it is in the config.
        listed: Whether it is on the watch list. Any ref may be probed, so failures of others are logged at level debug.

    Returns:
        Whether anything was logged at level info or above.

    """
    if isinstance(outcome, PollError):
        return _log_failed_request(watched, record, outcome, listed=listed)
    was_logged, record.warned = record.warned, False
    if was_logged:
        logger.info("a batch can be read again", extra=_about(watched))
    batch = outcome.batch
    if record.reading is not None and record.reading.batch.status is batch.status:
        return was_logged
    if is_accepted(batch, feed) is False:
        logger.log(logging.WARNING if listed else logging.DEBUG, "a batch has failed", extra=_counts(watched, batch))
        return was_logged or listed
    if record.reading is None:
        return was_logged
    log_status(watched, batch.status)
    return True


def _counts(watched: Watched, batch: Batch) -> dict[str, object]:
    counts = {"failed_records": batch.failed_records, "total_records": batch.total_records}
    known = {name: count for name, count in counts.items() if count is not None}
    return {**_about(watched), "status": f"{batch.status}", **known}


def _log_failed_request(watched: Watched, record: Record, error: PollError, *, listed: bool) -> bool:
    # Other failures are logged once for the API as a whole.
    is_its_own = listed and error.reason not in NO_ANSWER_REASONS | NOT_ASKED_REASONS
    is_known = record.failure is not None and record.failure.reason == error.reason
    if is_known and (record.warned or not is_its_own):
        return False
    record.warned = is_its_own
    level = logging.WARNING if is_its_own else logging.DEBUG
    logger.log(level, "a batch cannot be read: %s", error, extra=_about(watched) | {"reason": f"{error.reason}"})
    return is_its_own


def _about(watched: Watched) -> dict[str, str]:
    return {"ref": watched.ref} | ({"feed": watched.feed} if watched.feed else {})
