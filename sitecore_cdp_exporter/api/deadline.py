"""The deadline of a request."""

import time
from collections.abc import Callable


class Deadline:
    """Counts down the time of one request, across all its steps.

    Args:
        seconds: How long the request may take.
        clock: Gives this moment, in seconds.

    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moment = clock() + seconds

    def left(self) -> float:
        """Return the seconds that are left; raise TimeoutError if none are."""
        left = self._moment - self._clock()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        return left
