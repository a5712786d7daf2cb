"""Whether the Batch API is up, judged by the outcomes of requests. No I/O. Not thread-safe."""

import logging
from collections import Counter

from sitecore_cdp_exporter.api.errors import REFUSALS, PollError, Reason

logger = logging.getLogger(__name__)


class ApiHealth:
    """Judges the API at the end of each poll by the requests that have ended since the previous poll.

    A request in flight does not count until it ends; then it counts for the next judgement.

    Attributes:
        up: None before the first request has ended.
        failure: Why it is down; None while it is up, or before anything has failed.

    """

    def __init__(self) -> None:
        self.up: bool | None = None
        self.failure: Reason | None = None
        self._works = False
        self._forbidden = False
        # Why the API last refused the credentials, which also explains requests that are then skipped.
        self._refusal: Reason | None = None
        self._failures: list[PollError] = []

    def note(self, error: PollError | None, *, of_batch: bool = True) -> None:
        """Record the outcome of a request for a batch or the list. No error means success."""
        # A missing batch is a failure of that batch; most other failures would affect any batch.
        if error is None or (of_batch and error.reason is Reason.NOT_FOUND):
            self._works = True
        elif of_batch and error.reason is Reason.FORBIDDEN:
            self._forbidden = True
        if error is not None:
            self._failures.append(error)
            if error.reason in REFUSALS:
                self._refusal = error.reason

    def judge(self, *, over: bool, credentials_refused: bool, skipped: bool) -> None:
        """Decide whether the API is up, and log it if that or its cause has changed.

        Args:
            over: Whether the poll is over. Before that, only successes count.
            credentials_refused: Whether the API refuses the credentials. Then a 403 is not about its batch, and skipped
                requests also mean that the API is down.
            skipped: Whether requests were skipped.

        """
        if self._works or (self._forbidden and not credentials_refused):
            self._decide(up=True)
        elif over and (self._failures or (skipped and credentials_refused)):
            self._decide(up=False)
        if over:
            self._works = self._forbidden = False
            self._failures = []

    def _decide(self, *, up: bool) -> None:
        causes = Counter(failure.reason for failure in self._failures)
        cause = causes.most_common(1)[0][0] if causes else self._refusal
        if up:
            if self.up is False:
                logger.info("the Batch API is up again")
            elif self.up is None:
                logger.info("the Batch API is up")
            self.failure = None
        elif self.up is not False or (cause is not None and cause != self.failure):
            text = next(
                (str(failure) for failure in self._failures if failure.reason == cause), "it refuses the credentials"
            )
            what = "cannot query the Batch API" if cause is Reason.CREDENTIALS else "the Batch API is down"
            logger.warning("%s: %s", what, text, extra={"reason": f"{cause}"} if cause else {})
            self.failure = cause
        self.up = up
