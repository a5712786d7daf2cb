"""What a soak does, at its time, in one thread: so nothing needs a lock, and a seed makes the same plan again."""

import sched
import time
from collections.abc import Callable


class Schedule:
    """Actions that come due. They run in `run_for`; one that is late runs at once."""

    def __init__(self) -> None:
        self._scheduler = sched.scheduler(time.monotonic)

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Run an action once."""
        self._scheduler.enter(seconds, 0, action)

    def every(self, seconds: float, action: Callable[[], object]) -> None:
        """Run an action repeatedly, from now on."""
        action()
        self.after(seconds, lambda: self.every(seconds, action))

    def run_for(self, seconds: float) -> None:
        """Run the actions that come due within this many seconds."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            pause = self._scheduler.run(blocking=False)
            time.sleep(left if pause is None else min(pause, left))
