"""The exception for a failed request to the Batch API, and the closed list of its reasons.

Plain data: imports only the standard library.
"""

import enum
from http import HTTPStatus
from typing import Self


class Reason(enum.StrEnum):
    """Why a batch could not be read: the values of the label `reason`."""

    UNAUTHORIZED = "unauthorized"  # 401: the client key or token is wrong, was regenerated or switched off
    FORBIDDEN = "forbidden"  # 403
    NOT_FOUND = "not_found"  # 404: a typo in the ref, the wrong region, not allocated yet, or aged out of the API
    RATE_LIMITED = "rate_limited"  # 429
    HTTP_ERROR = "http_error"  # any other status than 200, redirects included: following one would leak the credentials
    SERVER_ERROR = "server_error"  # 500 to 599
    TIMEOUT = "timeout"  # the request took longer than api.timeout
    CONNECTION = "connection"  # no address, refused, or closed before the answer was complete
    TLS = "tls"  # the handshake failed, or the files of api.tls_config cannot be used
    CREDENTIALS = "credentials"  # no username or password could be read, or it cannot be sent
    BAD_RESPONSE = "bad_response"  # the answer is not HTTP, not a batch, or larger than 1 MiB
    DEADLINE = "deadline"  # the scrape was over before the answer came; its answer serves the next scrape
    SKIPPED = "skipped"  # the API refused the credentials or asked to wait, so no request was sent
    INTERNAL = "internal"  # a bug in the exporter; the log shows where


class LogReason(enum.StrEnum):
    """Why an error log could not be read, beyond the reasons that a batch could not."""

    EXPIRED = "expired"  # its URL had expired; the batch is polled again for a new one
    HOST_NOT_ALLOWED = "host_not_allowed"  # error_logs does not allow the URL, or the address of its host


# Specific to the batch: most other reasons would affect any batch.
BATCH_REASONS = frozenset({Reason.NOT_FOUND, Reason.FORBIDDEN})
# How the API refuses the exporter as a whole. FORBIDDEN may also be about one batch.
REFUSALS = frozenset({Reason.UNAUTHORIZED, Reason.FORBIDDEN, Reason.CREDENTIALS})
# No request was sent.
NOT_ASKED_REASONS = frozenset({Reason.CREDENTIALS, Reason.DEADLINE, Reason.SKIPPED})
# A request was sent, but no complete answer arrived.
NO_ANSWER_REASONS = frozenset({Reason.TIMEOUT, Reason.TLS, Reason.CONNECTION})


def api_state(failure: Reason | None) -> str:
    """Return in words what an API does that is not up, to follow its name; None: why is not known."""
    if failure in NOT_ASKED_REASONS:
        return f"was not asked: {failure}"
    if failure in {Reason.UNAUTHORIZED, Reason.FORBIDDEN}:
        return f"refuses the credentials: {failure}"
    return "is down" if failure is None else f"is down: {failure}"


_STATUS_REASONS: dict[int, Reason] = {
    HTTPStatus.UNAUTHORIZED: Reason.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN: Reason.FORBIDDEN,
    HTTPStatus.NOT_FOUND: Reason.NOT_FOUND,
    HTTPStatus.TOO_MANY_REQUESTS: Reason.RATE_LIMITED,
}


class PollError(Exception):
    """A batch, or a page of the list, could not be read.

    The message is fit for a log: it holds nothing that the API or a secret file said.

    Attributes:
        reason: Why.
        status: The HTTP status of an answer other than 200; None for every other reason.
        retry_after: What Retry-After asked for, in seconds from now, at most 300. None: it was absent or unreadable.

    """

    def __init__(
        self, reason: Reason, message: str = "", *, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message or f"{reason}")
        self.reason = reason
        self.status = status
        self.retry_after = retry_after

    @classmethod
    def of_status(cls, status: int, retry_after: float | None = None) -> Self:
        """Return the error for an answer with a status other than 200."""
        other = Reason.SERVER_ERROR if 500 <= status <= 599 else Reason.HTTP_ERROR  # noqa: PLR2004  Server errors.
        return cls(_STATUS_REASONS.get(status, other), f"HTTP status {status}", status=status, retry_after=retry_after)
