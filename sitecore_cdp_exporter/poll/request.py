"""Requests to the API: a batch, or a page of the list."""

import logging
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, TypeVar

from sitecore_cdp_exporter.api.batch import Batch, BatchAnswer, BatchPage, BatchStatus
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.error_log import LogReading
from sitecore_cdp_exporter.api.error_log_url import LogUrl
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.poll.discovery import Discovery
from sitecore_cdp_exporter.poll.walk import PageRequest

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)


class BatchReader(Protocol):
    """What the poller needs of `api.client.BatchApi`."""

    def read_credentials(self) -> Credentials:
        """Return the credentials or raise PollError."""

    def read_batch(self, ref: str, credentials: Credentials) -> BatchAnswer:
        """Return the answer of the batch or raise PollError."""

    def read_page(
        self, statuses: tuple[BatchStatus, ...], offset: int, limit: int, credentials: Credentials
    ) -> BatchPage:
        """Return a page of the list of batches or raise PollError."""

    def read_error_log(self, url: LogUrl, seconds: float) -> LogReading | None:
        """Read an error log, with a limit on CPU time in seconds. None: it is no longer needed."""


@dataclass(frozen=True, slots=True)
class AskBatch:
    """A request for one batch. Requests for the same batch are equal.

    Attributes:
        key: Its ref in lower case.
        ref: Its ref in the case that the API uses, if known, otherwise as listed here.
        listed: Its entry in the list, or None.

    """

    key: str
    ref: str = field(compare=False)
    listed: Batch | None = field(compare=False)

    def send(self, api: BatchReader, credentials: Credentials) -> BatchAnswer:
        """Send the request and return its answer, or raise PollError."""
        return api.read_batch(self.ref, credentials)


@dataclass(frozen=True, slots=True)
class AskPage:
    """A request for a page of the list. Requests of one discovery for the same page are equal."""

    discovery: Discovery
    page: PageRequest

    def send(self, api: BatchReader, credentials: Credentials) -> BatchPage:
        """Send the request and return its answer, or raise PollError."""
        return api.read_page(self.page.statuses, self.page.offset, self.page.limit, credentials)


Request: TypeAlias = AskBatch | AskPage


def answer_of(ask: Callable[[], Answer]) -> Answer | PollError:
    """Return the answer, or the PollError that was raised."""
    try:
        return ask()
    except PollError as error:
        # The error is kept, so drop its frames and causes, which hold sockets, URLs and credentials.
        error.__context__ = None
        return error.with_traceback(None)
    except Exception as error:  # noqa: BLE001  One faulty batch must not take the others with it.
        log_fault(error)
        return PollError(Reason.INTERNAL, type(error).__name__)


def log_fault(error: Exception) -> None:
    """Log an exception that should not have been raised."""
    # Without its message, which may quote secrets.
    logger.error(
        "a bug in the exporter: please report it",
        extra={"error": type(error).__name__, "place": "".join(traceback.format_tb(error.__traceback__))},
    )
