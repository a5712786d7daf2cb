"""Waiting for what will come soon."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds. Each test has a time limit, which ends a wait in vain."""
    while not condition():
        time.sleep(0.002)
