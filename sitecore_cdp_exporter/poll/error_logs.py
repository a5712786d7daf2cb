"""Which error log is read next, and what is remembered of those that were. Pure.

A log is read right after its batch has been polled, because its URL is valid only for a short time. URLs wait here for
their turn. One that has waited too long is dropped, and its batch polled again. Times are of the monotonic clock, in
seconds. Nothing here locks: the poller calls it under its own lock.
"""

import logging
import math
from collections import deque
from collections.abc import Container
from dataclasses import dataclass, field

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.error_log import BOUNDS, ErrorLog, LogFailure, LogReading
from sitecore_cdp_exporter.api.error_log_url import LogUrl
from sitecore_cdp_exporter.api.errors import LogReason, Reason
from sitecore_cdp_exporter.config.model import ErrorLogs

logger = logging.getLogger(__name__)

# The newest failed batches matter most. Beyond this many, logs are skipped.
MAX_LOGS = 100
# What reading may cost in any hour: bytes on the wire, and CPU time.
HOUR = 3600.0
MAX_RECEIVED_AN_HOUR = 4 * BOUNDS.packed
MAX_SECONDS_AN_HOUR = 120.0
# Do not start with less CPU time than this.
MIN_SECONDS = 10.0
# A URL is valid for an hour, or less if the credentials behind it end earlier.
MAX_AGE_OF_A_URL = 600.0
# How long after each failure a log is tried again.
SECONDS_TO_RETRIES = (60.0, 600.0, 3600.0)
# How many batches may be polled again for the URLs of their logs, as long as no others wait.
MAX_POLLED_AGAIN = 5
# How long after a batch has finished the alerts about it may wait for the causes in its log.
MAX_SECONDS_AWAITED = 240.0


@dataclass(slots=True)
class LogState:
    """The state of the error log of a batch.

    Attributes:
        log: Its counts. None: it has not been read yet.
        failure: Why the last attempt failed. None: it succeeded, or there was none.
        failures: The number of failed attempts.
        due: When to read it next; infinite: never.
        version: The state of its batch that it belongs to. Another state may have another log.
        rank: Higher ranks are read first: failed batches before others, newest first.

    """

    log: ErrorLog | None = None
    failure: LogFailure | None = None
    failures: int = 0
    due: float = -math.inf
    version: object = None
    rank: tuple[bool, float] = (False, 0.0)

    @property
    def untried(self) -> bool:
        """Whether no attempt to read it has ended yet."""
        return self.log is None and self.failure is None

    def begin(self, version: object) -> None:
        """Start over for a new state of the batch."""
        self.log = self.failure = None
        self.failures, self.due, self.version = 0, -math.inf, version

    def end(self, outcome: ErrorLog | LogFailure, now: float) -> None:
        """Record the outcome of an attempt, and when the next one is due."""
        if isinstance(outcome, ErrorLog):
            self.log, self.failure, self.due = outcome, None, math.inf
            return
        has_expired_again = outcome is LogReason.EXPIRED is self.failure
        self.failure = outcome
        if outcome is LogReason.HOST_NOT_ALLOWED or has_expired_again:
            self.due = math.inf
        elif outcome is LogReason.EXPIRED:
            self.due = now
        else:
            self.due = now + SECONDS_TO_RETRIES[self.failures] if self.failures < len(SECONDS_TO_RETRIES) else math.inf
            self.failures += 1


@dataclass(frozen=True, slots=True)
class Task:
    """A log to read now.

    Attributes:
        key: The ref of its batch, in lower case.
        state: Its state.
        url: Its URL.
        seconds: The CPU time that it may take.

    """

    key: str
    state: LogState
    url: LogUrl = field(repr=False)
    seconds: float


class Budget:
    """What reading logs has cost in the past hour, and what it may still cost."""

    def __init__(self) -> None:
        self._spent: deque[tuple[float, int, float]] = deque()

    def spend(self, received: int, seconds: float, now: float) -> None:
        """Note what a log has cost."""
        self._spent.append((now, received, seconds))

    def seconds_left(self, now: float) -> float:
        """Return the processor time that the next log may take; 0: none is to be read now."""
        while self._spent and self._spent[0][0] <= now - HOUR:
            self._spent.popleft()
        received = sum(received for _, received, _ in self._spent)
        seconds = MAX_SECONDS_AN_HOUR - sum(seconds for _, _, seconds in self._spent)
        is_enough = received + BOUNDS.packed <= MAX_RECEIVED_AN_HOUR and seconds >= MIN_SECONDS
        return seconds if is_enough else 0.0


class ErrorLogQueue:
    """The error logs of one organisation."""

    def __init__(self, config: ErrorLogs) -> None:
        self._config = config
        self._budget = Budget()
        # Of the batches that have a log, by ref in lower case.
        self._states: dict[str, LogState] = {}
        # Where logs are, and since when that is known.
        self._urls: dict[str, tuple[LogUrl, float]] = {}
        self._reading: str | None = None
        self._logged_failure: LogFailure | None = None

    def use(self, config: ErrorLogs) -> None:
        """Use another config from now on, and retry what the previous one did not allow."""
        if config == self._config:
            return
        self._config = config
        for state in self._states.values():
            if state.failure is LogReason.HOST_NOT_ALLOWED:
                state.begin(state.version)

    def learn(self, key: str, state: LogState | None, batch: Batch, url: LogUrl | None, now: float) -> LogState | None:
        """Note from a batch's own answer whether it has a log, and its current URL.

        Args:
            key: The ref of the batch, in lower case.
            state: The state of its log so far. None: it had none.
            batch: Its answer.
            url: The URL of its log. None: the answer has none.
            now: The current time.

        Returns:
            The state of its log. None: it has none.

        """
        if not batch.status.finished or not batch.error_log_available:
            self.forget(key)
            return None
        state = LogState() if state is None else state
        version = batch.status, batch.modified
        if state.version != version:
            state.begin(version)
        state.rank = batch.status is not BatchStatus.SUCCESS, batch.created or batch.modified or 0.0
        self._states[key] = state
        if url is not None and self._is_due(key, now):
            self._urls[key] = url, now
            if len(self._urls) > 2 * MAX_LOGS:
                self._drop_urls(now)
        return state

    def refuse(self, key: str, reason: Reason, now: float) -> None:
        """Note that a batch refused to answer, so the URL of its log is unknown."""
        if key in self._states and self._is_due(key, now) and key not in self._urls:
            self._states[key].end(reason, now)

    def forget(self, key: str) -> None:
        """Forget the log of a batch."""
        self._states.pop(key, None)
        self._urls.pop(key, None)

    def forget_all_but(self, keys: Container[str]) -> None:
        """Forget the logs of all other batches."""
        for key in [key for key in self._states if key not in keys]:
            self.forget(key)

    def wanted(self, keys: Container[str], now: float) -> list[str]:
        """Return which of these batches to poll again for the URLs of their logs, the newest failed batches first."""
        if not self._is_open(now):
            return []
        self._drop_urls(now)
        due = [key for key in self._chosen() if self._is_due(key, now)]
        missing = [key for key in due if key not in self._urls]
        room = MAX_POLLED_AGAIN - (len(due) - len(missing))
        return [key for key in missing if key in keys][: max(room, 0)]

    def take(self, now: float) -> Task | None:
        """Start reading the next log. None if there is none, or one is being read."""
        if self._reading is not None or not self._urls or not self._is_open(now):
            return None
        self._drop_urls(now)
        key = next((key for key in self._chosen() if key in self._urls), None)
        if key is None:
            return None
        self._reading = key
        url, _ = self._urls.pop(key)
        return Task(key, self._states[key], url, self._budget.seconds_left(now))

    def end(self, task: Task, reading: LogReading | None, now: float) -> None:
        """Record the result of reading a log. None: the exporter was stopped or reloaded before its end."""
        self._reading = None
        if reading is None:
            return
        self._budget.spend(reading.received, reading.seconds, now)
        task.state.end(reading.log, now)
        self._log(task.key, reading.log)

    def skipped(self, now: float) -> frozenset[str]:
        """Return the batches whose logs are currently skipped, by ref in lower case."""
        if not self._config.enabled:
            return frozenset()
        untried = (key for key, state in self._states.items() if state.untried)
        chosen = frozenset(self._chosen()) if self._budget.seconds_left(now) else frozenset()
        return frozenset(untried) - chosen - {self._reading}

    def _is_open(self, now: float) -> bool:
        return self._config.enabled and bool(self._states) and self._budget.seconds_left(now) > 0

    def _is_due(self, key: str, now: float) -> bool:
        return self._config.enabled and self._states[key].due <= now and key != self._reading

    def _chosen(self) -> list[str]:
        """Return the batches whose logs are read, in order."""
        return sorted(self._states, key=lambda key: self._states[key].rank, reverse=True)[:MAX_LOGS]

    def _drop_urls(self, now: float) -> None:
        """Drop URLs that are too old and, once there are many, those of skipped logs."""
        kept = self._urls if len(self._urls) <= 2 * MAX_LOGS else self._chosen()
        self._urls = {
            key: (url, since)
            for key, (url, since) in self._urls.items()
            if key in kept and now - since <= MAX_AGE_OF_A_URL
        }

    def _log(self, key: str, outcome: ErrorLog | LogFailure) -> None:
        """Log that logs cannot be read, once for each reason, and that they can again."""
        failure = None if isinstance(outcome, ErrorLog) else outcome
        if failure is not None and failure is not self._logged_failure:
            logger.warning("an error log cannot be read", extra={"ref": key, "reason": f"{failure}"})
        elif failure is None and self._logged_failure is not None:
            logger.info("error logs can be read again", extra={"ref": key})
        self._logged_failure = failure
