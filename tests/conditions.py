"""Waiting for what will come soon."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], *, pause: float = 0.002) -> None:
    """Return as soon as the condition holds. Each test has a time limit, which ends a hopeless wait.

    A longer pause, in seconds, is for conditions that are expensive to check and take long.
    """
    while not condition():
        time.sleep(pause)
