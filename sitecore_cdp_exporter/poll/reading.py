"""The API's answers, and when they were read."""

from dataclasses import dataclass
from typing import TypeAlias

from sitecore_cdp_exporter.api.batch import Batch
from sitecore_cdp_exporter.api.errors import NO_ANSWER_REASONS, NOT_ASKED_REASONS, PollError, Reason


@dataclass(frozen=True, slots=True)
class Reading:
    """A batch and when it was read, in seconds since the Unix epoch."""

    batch: Batch
    polled: float


# The result of requesting a batch.
Outcome: TypeAlias = Reading | PollError


def is_answer(error: PollError | None) -> bool:
    """Return whether the API answered, even if with an error. None means success."""
    return error is None or error.reason not in NO_ANSWER_REASONS | NOT_ASKED_REASONS | {Reason.INTERNAL}
