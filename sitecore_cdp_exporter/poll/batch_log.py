"""What is logged when a batch changes, so that nothing is logged in every scrape."""

import logging

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.api.errors import NO_ANSWER_REASONS, NOT_ASKED_REASONS, PollError
from sitecore_cdp_exporter.poll.memory import Record
from sitecore_cdp_exporter.poll.reading import Outcome
from sitecore_cdp_exporter.watch.watchlist import Watched

logger = logging.getLogger(__name__)

# A poll logs at most this many batches; the metrics name them all.
MAX_LOGGED = 10


def log_status(watched: Watched, status: BatchStatus) -> None:
    """Log that a batch has another status than before."""
    logger.info("a batch has a new status", extra=_about(watched) | {"status": f"{status}"})


def log_end() -> None:
    """Log that a poll has logged as many batches as it may."""
    logger.warning("this poll logs no more batches; the metrics name them all")


def log_change(watched: Watched, record: Record, outcome: Outcome, *, listed: bool) -> bool:
    """Log what an outcome says that the record does not know yet.

    Args:
        watched: The batch.
        record: What is known of it; whether its failure was logged is noted there.
        outcome: What was answered.
        listed: Whether it is on the watch list. Any ref may be probed, so failures of others are logged at level debug.

    Returns:
        Whether anything was logged at level info or above.

    """
    if isinstance(outcome, PollError):
        return _log_failure(watched, record, outcome, listed=listed)
    was_logged, record.warned = record.warned, False
    if was_logged:
        logger.info("a batch can be read again", extra=_about(watched))
    is_new = record.reading is not None and record.reading.batch.status is not outcome.batch.status
    if is_new:
        log_status(watched, outcome.batch.status)
    return was_logged or is_new


def _log_failure(watched: Watched, record: Record, error: PollError, *, listed: bool) -> bool:
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
