"""When the API may be asked: what its refusals and its Retry-After ask of a client.

Not safe for use by several threads: the poller calls it under its lock.
"""

import enum
from http import HTTPStatus

from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason

# A token that was switched off must not be tried in every scrape: refused log-ins may lock a client key.
SECONDS_BETWEEN_TRIALS = 60


class Permission(enum.Enum):
    """The answer to "may I ask the API now?"."""

    GRANTED = enum.auto()
    DENIED = enum.auto()
    WAIT = enum.auto()  # A trial with refused credentials is under way; its answer decides.


class CircuitBreaker:
    """Open while the credentials are refused (401, or 403 for everything) and until a Retry-After is over.

    With refused credentials one request a minute is let through as a trial, until one succeeds or the credentials
    change.
    """

    def __init__(self) -> None:
        self._not_before = float("-inf")
        self._refused: Credentials | None = None
        self._trial_under_way = False
        self._next_trial = 0.0

    @property
    def credentials_refused(self) -> bool:
        """Whether the last word of the API on the credentials was a refusal."""
        return self._refused is not None

    def ask(self, credentials: Credentials, now: float) -> Permission:
        """Say whether a request may be sent now; whoever is granted one must report its outcome to `record`."""
        if now < self._not_before:
            return Permission.DENIED
        if self._refused != credentials:
            self._refused = None
            return Permission.GRANTED
        if self._trial_under_way:
            return Permission.WAIT
        if now < self._next_trial:
            return Permission.DENIED
        self._trial_under_way = True
        self._next_trial = now + SECONDS_BETWEEN_TRIALS
        return Permission.GRANTED

    def record(self, credentials: Credentials, error: PollError | None, now: float) -> None:
        """Learn from the outcome of a request; None is a success."""
        self._trial_under_way = False
        if error is None or error.reason is Reason.NOT_FOUND:
            self._refused = None
        elif error.reason is Reason.UNAUTHORIZED:
            self.refuse(credentials, now)
        if (
            error is not None
            and error.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
            and error.retry_after is not None
        ):
            self._not_before = max(self._not_before, now + error.retry_after)

    def refuse(self, credentials: Credentials, now: float) -> None:
        """Treat the credentials as refused from now on."""
        self._refused = credentials
        self._next_trial = now + SECONDS_BETWEEN_TRIALS
