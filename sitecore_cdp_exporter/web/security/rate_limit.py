"""The rate limit of the web config."""

import time
from collections.abc import Callable


class TokenBucket:
    """Lets `burst` requests through at once, and then one an interval.

    Args:
        interval: Seconds until there is room for another one.
        burst: How many may come at once; at least 1.
        clock: A monotonic clock, in seconds.

    """

    def __init__(self, interval: float, burst: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = interval
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._filled = clock()

    def take(self) -> bool:
        """Tell whether a request may go through; if so, it is counted."""
        now = self._clock()
        self._tokens = min(self._burst, self._tokens + (now - self._filled) / self._interval)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
