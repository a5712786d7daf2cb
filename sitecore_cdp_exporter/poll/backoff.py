"""When the API may be asked: what its refusals, its Retry-After and its outages ask of a client.

Moments are of the monotonic clock, in seconds. Not safe for use by several threads: the poller calls it under its lock.
"""

from http import HTTPStatus

from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason

# A token that was switched off must not be tried in every scrape: refused log-ins may lock a client key.
SECONDS_BETWEEN_TRIALS = 60.0


class Backoff:
    """Holds requests back until a Retry-After is over, and lets single trials through while credentials are refused.

    With refused credentials (401, or 403 for everything) there is one trial a minute, until one succeeds or the
    credentials change.
    """

    def __init__(self) -> None:
        self._not_before = float("-inf")
        self._refused: Credentials | None = None
        self._next_trial = float("-inf")

    @property
    def credentials_refused(self) -> bool:
        """Whether the last word of the API on the credentials was a refusal."""
        return self._refused is not None

    @property
    def tries(self) -> bool:
        """Whether a request that is sent now is a trial, and no other may be sent before it has ended."""
        return self._refused is not None

    def allows(self, credentials: Credentials, now: float) -> bool:
        """Return whether a request with these credentials may be sent now."""
        if self._refused != credentials:
            self._refused = None
        return now >= self._not_before and (not self.tries or now >= self._next_trial)

    def begin_trial(self, now: float) -> None:
        """Take note that a trial is sent."""
        self._next_trial = now + SECONDS_BETWEEN_TRIALS

    def record(self, credentials: Credentials, error: PollError | None, now: float) -> None:
        """Learn from the outcome of a request; None is a success."""
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
