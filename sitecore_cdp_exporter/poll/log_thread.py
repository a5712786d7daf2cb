"""The thread that reads error logs, one at a time, each in a child process."""

import logging
import threading
from collections.abc import Callable
from functools import partial

from sitecore_cdp_exporter.api.error_log import LogReading
from sitecore_cdp_exporter.api.errors import PollError
from sitecore_cdp_exporter.poll.error_logs import Task
from sitecore_cdp_exporter.poll.organisation import Organisation
from sitecore_cdp_exporter.poll.request import answer_of, log_fault

logger = logging.getLogger(__name__)


class LogThread:
    """Reads the error logs of one organisation. Its thread ends when no more are waiting.

    Args:
        organisation: Has the queue of logs, and the client that reads them.
        lock: Guards the organisation and its memory.
        clock: A monotonic clock, in seconds.

    """

    def __init__(self, organisation: Organisation, lock: threading.Lock, clock: Callable[[], float]) -> None:
        self._organisation = organisation
        self._lock = lock
        self._clock = clock

    def wake(self) -> None:
        """Start reading the next log, if one is waiting and none is being read. Called under the lock."""
        try:
            task = self._organisation.memory.error_logs.take(self._clock())
        except Exception as error:  # noqa: BLE001  What is no answer of a batch must not take one with it.
            log_fault(error)
            return
        if task is None:
            return
        try:
            threading.Thread(target=self._work, args=(task,), name="error-log", daemon=True).start()
        except RuntimeError:
            logger.error("no error log can be read: no thread can be started")  # noqa: TRY400  That says it all.
            self._organisation.memory.error_logs.end(task, None, self._clock())

    def _work(self, task: Task | None) -> None:
        try:
            while task is not None:
                task = self._read(task)
        except Exception as error:  # noqa: BLE001  Logged without its message.
            log_fault(error)

    def _read(self, task: Task) -> Task | None:
        """Read a log, and return the next one in the queue."""
        reading = answer_of(partial(self._organisation.api.read_error_log, task.url, task.seconds))
        if isinstance(reading, PollError):
            reading = LogReading(reading.reason)
        with self._lock:
            now = self._clock()
            error_logs = self._organisation.memory.error_logs
            error_logs.end(task, reading, now)
            # A closed client reads no more logs.
            return None if reading is None else error_logs.take(now)
