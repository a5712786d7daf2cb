"""Backoff: when requests may be sent, after refusals, Retry-After and outages.

Times are of the monotonic clock, in seconds. Not thread-safe: the poller calls it under its lock.
"""

from http import HTTPStatus
from math import inf

from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.poll.reading import is_answer

# A revoked token must not be tried in every scrape: failed logins may lock the client key.
SECONDS_BETWEEN_TRIALS = 60.0
# How long to pause for an API that answers 429 or 5xx to everything. The pause doubles each time.
FIRST_PAUSE = 1.0
MAX_PAUSE = 60.0


def is_trouble(error: PollError | None) -> bool:
    """Return whether an answer is a 429 or 5xx without Retry-After."""
    return (
        error is not None and error.reason in {Reason.RATE_LIMITED, Reason.SERVER_ERROR} and error.retry_after is None
    )


class Backoff:
    """Holds requests back until a Retry-After has passed, and allows only single trials while the API keeps failing.

    While the credentials are refused (401, or 403 for everything), it allows one trial a minute, until one succeeds or
    the credentials change. While the API fails everything, the pause between trials grows until an answer differs.
    """

    def __init__(self) -> None:
        self._not_before = -inf
        # Seconds. 0: the API is not failing everything.
        self._pause = 0.0
        self._refused: Credentials | None = None
        self._next_trial = -inf

    @property
    def credentials_refused(self) -> bool:
        """Whether the API last refused the credentials."""
        return self._refused is not None

    @property
    def tries(self) -> bool:
        """Whether the next request is a trial. No other may be sent before it ends."""
        return self._refused is not None or self._pause > 0

    def allows(self, credentials: Credentials, now: float) -> bool:
        """Return whether a request with these credentials may be sent now."""
        if self._refused != credentials:
            self._refused = None
        return now >= self._not_before and (not self.tries or now >= self._next_trial)

    def begin_trial(self, now: float) -> None:
        """Record that a trial is being sent."""
        self._pause = min(2 * self._pause, MAX_PAUSE)
        self._next_trial = now + (self._pause if self._refused is None else SECONDS_BETWEEN_TRIALS)

    def record(self, credentials: Credentials, error: PollError | None, now: float) -> None:
        """Record the outcome of a request. None is a success."""
        if error is None or error.reason is Reason.NOT_FOUND:
            self._refused = None
        elif error.reason is Reason.UNAUTHORIZED:
            self.refuse(credentials, now)
        if is_answer(error) and (error is None or error.reason not in {Reason.RATE_LIMITED, Reason.SERVER_ERROR}):
            self._pause = 0.0
        if (
            error is not None
            and error.status in {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
            and error.retry_after is not None
        ):
            self._not_before = max(self._not_before, now + error.retry_after)

    def pause(self, now: float) -> None:
        """Record that all answers of a poll were 429 or 5xx."""
        if not self._pause:
            self._pause = FIRST_PAUSE
            self._next_trial = now + FIRST_PAUSE

    def refuse(self, credentials: Credentials, now: float) -> None:
        """Treat the credentials as refused from now on."""
        self._refused = credentials
        self._next_trial = now + SECONDS_BETWEEN_TRIALS
