"""A token bucket for the web config's rate limit."""

import time
from collections.abc import Callable


class TokenBucket:
    """Admits `burst` requests at once, and then one per interval.

    Args:
        interval: Seconds per request.
        burst: How many requests are admitted at once; at least 1.
        clock: A monotonic clock, in seconds.

    """

    def __init__(self, interval: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled = clock()

    def take(self) -> bool:
        """Return whether a request is admitted, and count it if so."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) / self._interval)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
