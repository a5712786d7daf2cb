"""Whether the Batch API is up, by how the requests to it end. No I/O, and not safe for use by several threads."""

import logging
from collections import Counter

from sitecore_cdp_exporter.api.errors import PollError, Reason

logger = logging.getLogger(__name__)


class ApiHealth:
    """Judges the API at the end of each poll by the requests that have ended since the poll before.

    A request that is still under way says nothing yet: it counts when it ends, for the next judgement.

    Attributes:
        up: None before the first request has ended.
        failure: Why it is down; None while it is up, or before anything has failed.

    """

    def __init__(self) -> None:
        self.up: bool | None = None
        self.failure: Reason | None = None
        self._works = False
        self._forbidden = False
        self._failures: list[PollError] = []

    def note(self, error: PollError | None, *, of_batch: bool = True) -> None:
        """Note how a request for a batch or the list ended; no error means success."""
        # A missing batch is a failure of that batch; most other failures would affect any batch.
        if error is None or (of_batch and error.reason is Reason.NOT_FOUND):
            self._works = True
        elif of_batch and error.reason is Reason.FORBIDDEN:
            self._forbidden = True
        if error is not None:
            self._failures.append(error)

    def judge(self, *, over: bool, credentials_refused: bool, skipped: bool) -> None:
        """Decide whether the API is up, and log it if that or its cause has changed.

        Args:
            over: Whether the poll is over. Before that, only good news is believed.
            credentials_refused: Whether the API refuses us. Then its 403 is not of the batch, and to have skipped
                everything is no news from the API either.
            skipped: Whether something was not asked.

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
        cause = causes.most_common(1)[0][0] if causes else None
        if up:
            if self.up is False:
                logger.info("the Batch API is up again")
            elif self.up is None:
                logger.info("the Batch API is up")
            self.failure = None
        # Skipped requests have no cause of their own; the last logged one still applies.
        elif self.up is not False or (cause is not None and cause != self.failure):
            text = next(
                (str(failure) for failure in self._failures if failure.reason == cause), "it refuses the credentials"
            )
            what = "cannot query the Batch API" if cause is Reason.CREDENTIALS else "the Batch API is down"
            logger.warning("%s: %s", what, text, extra={"reason": f"{cause}"} if cause else {})
            self.failure = cause
        self.up = up
