"""The API's answers, and when they were read."""

from dataclasses import dataclass
from typing import TypeAlias

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.errors import NO_ANSWER_REASONS, NOT_ASKED_REASONS, PollError, Reason

# The file of a batch that is still uploading so long after its allocation never comes: its upload URL lives for an
# hour, and a file that has arrived may wait in the queue. SitecoreCdpBatchUploadExpired has the same limit.
MAX_UPLOAD_SECONDS = 5400.0


@dataclass(frozen=True, slots=True)
class Reading:
    """A batch and when it was read, in seconds since the Unix epoch."""

    batch: Batch
    polled: float

    @property
    def unfinished_since(self) -> float | None:
        """Since when an unfinished batch has been waiting; None: it is finished.

        It waits for its file from when it was allocated, and for Sitecore CDP from when it last changed. If the API
        says neither, its wait starts anew with each reading.
        """
        batch = self.batch
        if batch.status.finished:
            return None
        uploading = batch.status is BatchStatus.UPLOADING
        times = (batch.created, batch.modified) if uploading else (batch.modified, batch.created)
        return next((time for time in times if time is not None), self.polled)

    @property
    def expired(self) -> bool:
        """Whether the batch still had no file when that could come no more."""
        created = self.batch.created
        is_uploading = self.batch.status is BatchStatus.UPLOADING
        return is_uploading and created is not None and self.polled - created > MAX_UPLOAD_SECONDS


# The result of requesting a batch.
Outcome: TypeAlias = Reading | PollError


def is_answer(error: PollError | None) -> bool:
    """Return whether the API answered, even if with an error. None means success."""
    return error is None or error.reason not in NO_ANSWER_REASONS | NOT_ASKED_REASONS | {Reason.INTERNAL}
