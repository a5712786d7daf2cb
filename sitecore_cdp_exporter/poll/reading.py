"""What the API answered, and when."""

from dataclasses import dataclass
from typing import TypeAlias

from sitecore_cdp_exporter.api.batch import Batch
from sitecore_cdp_exporter.api.errors import PollError


@dataclass(frozen=True, slots=True)
class Reading:
    """A batch and when it was read, in seconds since the Unix epoch."""

    batch: Batch
    polled: float


# What came of asking for a batch.
Outcome: TypeAlias = Reading | PollError
