"""What can be asked of the API: a batch, or a page of the list."""

from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from sitecore_cdp_exporter.api.batch import Batch, BatchPage, BatchStatus
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.poll.discovery import Discovery
from sitecore_cdp_exporter.poll.walk import PageRequest


class BatchReader(Protocol):
    """What the poller needs of `api.client.BatchApi`."""

    def read_credentials(self) -> Credentials:
        """Return the credentials or raise PollError."""

    def read_batch(self, ref: str, credentials: Credentials) -> Batch:
        """Return the batch or raise PollError."""

    def read_page(
        self, statuses: tuple[BatchStatus, ...], offset: int, limit: int, credentials: Credentials
    ) -> BatchPage:
        """Return a page of the list of batches or raise PollError."""


@dataclass(frozen=True, slots=True)
class AskBatch:
    """Ask for one batch. Two are equal if they ask for the same one.

    Attributes:
        key: Its ref in lower case.
        ref: Its ref as the API writes it, or else as it is listed here.
        listed: What the list says of it; None: nothing.

    """

    key: str
    ref: str = field(compare=False)
    listed: Batch | None = field(compare=False)

    def send(self, api: BatchReader, credentials: Credentials) -> Batch:
        """Send the request and return its answer, or raise PollError."""
        return api.read_batch(self.ref, credentials)


@dataclass(frozen=True, slots=True)
class AskPage:
    """Ask for a page of the list. Two are equal if they ask for the same page on behalf of the same discovery."""

    discovery: Discovery
    page: PageRequest

    def send(self, api: BatchReader, credentials: Credentials) -> BatchPage:
        """Send the request and return its answer, or raise PollError."""
        return api.read_page(self.page.statuses, self.page.offset, self.page.limit, credentials)


Request: TypeAlias = AskBatch | AskPage
