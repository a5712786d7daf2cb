"""What is remembered of each batch from poll to poll, and when it is asked again. No I/O.

Moments are of the monotonic clock, in seconds; times are seconds since the Unix epoch.
"""

import logging
from dataclasses import dataclass, replace

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.errors import BATCH_REASONS, NO_ANSWER_REASONS, NOT_ASKED_REASONS, PollError
from sitecore_cdp_exporter.poll.snapshot import Reading
from sitecore_cdp_exporter.watch.watchlist import Watched

logger = logging.getLogger(__name__)

# A batch that the list shows and that refuses its details, by a 404 or 403, may do so for good.
SECONDS_BETWEEN_REFUSED_DETAILS = 600

# What an API that is always slow answers between two scrapes is shown by the second one; in seconds.
MAX_AGE_OF_A_LATE_ANSWER = 120


@dataclass(slots=True)
class Record:
    """The memory of one batch.

    Attributes:
        reading: What it last answered itself.
        listed_modified: What the list said of `modifiedAt` when it was asked for that. The list rounds otherwise than
            the batch's own answer, so it is compared with the list only.
        refused: What the list said of it when it last answered 404 or 403; None: it did not, or the list said nothing.
        failure: Why the last request failed; None: it did not.
        warned: Whether that was logged as a warning.
        asked: When it was last asked.
        recheck: When it is asked again, once it is finished.
        late: What it answered last, if that came too late for a scrape that asked.
        finished_seen: When it was first seen to be finished, in seconds since the Unix epoch; None: it was not.

    """

    reading: Reading | None = None
    listed_modified: float | None = None
    refused: Batch | None = None
    failure: PollError | None = None
    warned: bool = False
    asked: float = float("-inf")
    recheck: float = float("-inf")
    late: Reading | PollError | None = None
    finished_seen: float | None = None

    @property
    def finished(self) -> bool:
        """Whether it has answered, and was finished."""
        return self.reading is not None and self.reading.batch.status.finished

    def is_due(self, listed: Batch | None, now: float) -> bool:
        """Tell whether the batch is to be asked.

        Args:
            listed: What the list says of it; None: nothing.
            now: This moment.

        """
        if listed is not None and listed.status.finished:
            is_refused = self.refused == listed and now < self.asked + SECONDS_BETWEEN_REFUSED_DETAILS
            return not self.is_read(listed) and not is_refused
        return not self.finished or self.recheck <= now

    def is_read(self, listed: Batch) -> bool:
        """Tell whether its own answer is as new as what the list says of it."""
        return (
            self.reading is not None
            and self.reading.batch.status is listed.status
            and self.listed_modified == listed.modified
        )

    def last_known(self, listed: Batch | None) -> Batch | None:
        """Return the batch as it answered itself, or as the list does where that is newer."""
        if self.reading is None or (listed is not None and listed.status.finished and not self.is_read(listed)):
            return listed
        return self.reading.batch

    def dated(self, listed: Reading | None) -> Batch | None:
        """Return the batch as it is last known, with the time since when it is finished in `modified`.

        The API may leave `modifiedAt` out. Then `createdAt` stands in, or else when the batch was first seen finished:
        retention and the newest batch of a feed need some time to go by.

        Args:
            listed: What the list says of it; None: nothing.

        """
        batch = self.last_known(None if listed is None else listed.batch)
        if batch is None or not batch.status.finished or batch.modified is not None:
            return batch
        seen = listed.polled if self.finished_seen is None and listed is not None else self.finished_seen
        return replace(batch, modified=seen if batch.created is None else batch.created)

    def note_listed(self, listed: Reading | None) -> None:
        """Remember when the list first showed it finished."""
        if self.finished_seen is None and listed is not None and listed.batch.status.finished:
            self.finished_seen = listed.polled

    def late_answer(self, now: float) -> Reading | PollError | None:
        """Return what came too late for the scrape before, unless it is too old by now."""
        return self.late if now - self.asked <= MAX_AGE_OF_A_LATE_ANSWER else None

    def learn(
        self,
        outcome: Reading | PollError,
        listed: Batch | None,
        now: float,
        recheck_finished: float,
        *,
        is_late: bool = False,
    ) -> None:
        """Remember the outcome of a request.

        Args:
            outcome: The answer, or why there was none.
            listed: What the list said of the batch when it was asked; None: nothing.
            now: This moment.
            recheck_finished: Seconds after which a finished batch is asked again.
            is_late: Whether a scrape that waited for it has ended without it.

        """
        self.asked = now
        is_answer = isinstance(outcome, Reading) or outcome.reason not in NO_ANSWER_REASONS | NOT_ASKED_REASONS
        self.late = outcome if is_late and is_answer else None
        is_refusal = isinstance(outcome, PollError) and outcome.reason in BATCH_REASONS
        self.refused = listed if is_refusal else None
        if isinstance(outcome, PollError):
            self.failure = outcome
            # Asked again in the next scrape, unless the answer was about the batch: one that has aged out of the API
            # would otherwise be asked for in every scrape from then on.
            if is_refusal:
                self.recheck = now + recheck_finished
            return
        # The first re-check comes early by a share that the ref decides, so that batches which finish together, or are
        # read together after a restart, are not asked again together.
        share = 1.0 if self.finished else (1 + int(outcome.batch.ref[-8:], 16) / 2**32) / 2
        self.recheck = now + recheck_finished * share
        self.failure = None
        self.reading = outcome
        if not self.finished:
            self.finished_seen = None
        elif self.finished_seen is None:
            self.finished_seen = outcome.polled
        self.listed_modified = None if listed is None else listed.modified


def log_status(watched: Watched, status: BatchStatus) -> None:
    """Log that a batch has another status than before."""
    logger.info("a batch has a new status", extra=_about(watched) | {"status": f"{status}"})


def log_change(watched: Watched, record: Record, outcome: Reading | PollError, *, listed: bool) -> bool:
    """Log what an outcome tells that the record does not know yet, so that nothing is logged in every scrape.

    Args:
        watched: The batch.
        record: What is known of it.
        outcome: What was answered.
        listed: Whether it is on the watch list. Any ref may be probed, so what fails of others is for level debug.

    Returns:
        Whether there was anything to log at the level info or above.

    """
    about = _about(watched)
    if isinstance(outcome, PollError):
        # What is not the batch's own is told once for the API as a whole.
        is_its_own = listed and outcome.reason not in NO_ANSWER_REASONS | NOT_ASKED_REASONS
        is_known = record.failure is not None and record.failure.reason == outcome.reason
        if is_known and (record.warned or not is_its_own):
            return False
        record.warned = is_its_own
        level = logging.WARNING if is_its_own else logging.DEBUG
        logger.log(level, "a batch can not be read: %s", outcome, extra=about | {"reason": f"{outcome.reason}"})
        return is_its_own
    was_told, record.warned = record.warned, False
    if was_told:
        logger.info("a batch can be read again", extra=about)
    is_new = record.reading is not None and record.reading.batch.status is not outcome.batch.status
    if is_new:
        log_status(watched, outcome.batch.status)
    return was_told or is_new


def _about(watched: Watched) -> dict[str, str]:
    return {"ref": watched.ref} | ({"feed": watched.feed} if watched.feed else {})
