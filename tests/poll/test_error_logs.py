"""Which error log is read next, what that may cost, and what is remembered of it."""

from dataclasses import replace

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.error_log import BOUNDS, ErrorLog, LogFailure, LogReading, RecordCause
from sitecore_cdp_exporter.api.error_log_url import LogUrl
from sitecore_cdp_exporter.api.errors import LogReason, Reason
from sitecore_cdp_exporter.config.model import ErrorLogs
from sitecore_cdp_exporter.poll.error_logs import (
    HOUR,
    MAX_AGE_OF_A_URL,
    MAX_LOGS,
    MAX_POLLED_AGAIN,
    MAX_SECONDS_AN_HOUR,
    SECONDS_TO_RETRIES,
    ErrorLogQueue,
    LogState,
)
from tests.fake_api import ref

ON = ErrorLogs()
OFF = ErrorLogs(enabled=False)
READ = ErrorLog({RecordCause.VALIDATION: 3})
TRANSIENT = [reason for reason in Reason if reason not in {Reason.SKIPPED, Reason.DEADLINE, Reason.CREDENTIALS}]


def failed(number: int, *, status: BatchStatus = BatchStatus.ERROR, modified: float | None = None) -> Batch:
    return Batch(ref=ref(number), status=status, error_log_available=True, created=float(number), modified=modified)


class Logs:
    """A queue of logs by a clock that a test moves."""

    def __init__(self, config: ErrorLogs = ON) -> None:
        self.queue = ErrorLogQueue(config)
        self.states: dict[str, LogState] = {}
        self.now = 1000.0

    def answer(self, batch: Batch, *, url: bool = True) -> LogState:
        """Have a batch with a log answer, and return what is remembered of that."""
        log_url = LogUrl(f"https://{batch.ref}.example/") if url else None
        state = self.queue.learn(batch.ref, self.states.get(batch.ref), batch, log_url, self.now)
        assert state is not None
        self.states[batch.ref] = state
        return state

    def read(self, outcome: ErrorLog | LogFailure = READ, *, received: int = 0, seconds: float = 0.0) -> str | None:
        """Read the next log, and return the batch that it is of."""
        task = self.queue.take(self.now)
        if task is None:
            return None
        assert task.url.host.startswith(task.key)
        self.queue.end(task, LogReading(outcome, received, seconds), self.now)
        return task.key

    def wanted(self) -> list[str]:
        return self.queue.wanted(self.states, self.now)

    def skipped(self) -> set[str]:
        return set(self.queue.skipped(self.now))


def test_a_log_is_read_once() -> None:
    logs = Logs()
    state = logs.answer(failed(1))
    assert (state.log, state.failure) == (None, None)
    assert logs.read() == ref(1)
    assert state.log == READ
    logs.answer(failed(1))
    logs.now += 100 * HOUR
    logs.answer(failed(1))
    assert logs.read() is None
    assert logs.wanted() == []


@pytest.mark.parametrize(
    "batch",
    [
        replace(failed(1), error_log_available=False),
        replace(failed(1), error_log_available=None),
        replace(failed(1), status=BatchStatus.PROCESSING),
        replace(failed(1), status=BatchStatus.UNKNOWN),
    ],
)
def test_a_batch_without_a_log_or_that_is_not_finished_has_none_to_read(batch: Batch) -> None:
    logs = Logs()
    assert logs.queue.learn(ref(1), None, batch, LogUrl("https://log.example/"), logs.now) is None
    assert logs.read() is None
    assert logs.wanted() == []
    assert logs.skipped() == set()


def test_the_log_of_a_success_is_read_too_but_after_the_failed_ones() -> None:
    logs = Logs()
    for batch in (failed(1), failed(9, status=BatchStatus.SUCCESS), failed(2), failed(3, status=BatchStatus.CORRUPTED)):
        logs.answer(batch)
    assert [logs.read() for _ in range(5)] == [ref(3), ref(2), ref(1), ref(9), None]


def test_a_batch_that_changes_may_have_another_log() -> None:
    logs = Logs()
    state = logs.answer(failed(1, modified=5.0))
    assert logs.read(Reason.NOT_FOUND) == ref(1)
    logs.answer(failed(1, modified=6.0))
    assert state.failure is None
    assert logs.read() == ref(1)
    assert logs.queue.learn(ref(1), state, replace(failed(1), error_log_available=False), None, logs.now) is None


def test_one_log_is_read_at_a_time() -> None:
    logs = Logs()
    logs.answer(failed(1))
    logs.answer(failed(2))
    task = logs.queue.take(logs.now)
    assert task is not None
    assert logs.queue.take(logs.now) is None
    # What is being read is not asked for again, though its batch answers anew.
    logs.answer(failed(2))
    assert logs.wanted() == []
    logs.queue.end(task, LogReading(READ), logs.now)
    assert logs.read() == ref(1)
    assert logs.read() is None


@pytest.mark.parametrize("reason", TRANSIENT)
def test_a_transient_failure_is_tried_three_times_more(reason: Reason) -> None:
    logs = Logs()
    state = logs.answer(failed(1))
    assert logs.read(reason) == ref(1)
    for seconds in SECONDS_TO_RETRIES:
        logs.now += seconds - 1
        logs.answer(failed(1))
        assert (logs.wanted(), logs.read(), state.failure) == ([], None, reason)
        logs.now += 1
        assert logs.wanted() == [ref(1)]
        logs.answer(failed(1))
        assert logs.wanted() == []
        assert logs.read(reason) == ref(1)
    logs.now += 100 * HOUR
    logs.answer(failed(1))
    assert (logs.wanted(), logs.read(), state.failure) == ([], None, reason)


def test_a_retry_that_succeeds_ends_the_failure() -> None:
    logs = Logs()
    state = logs.answer(failed(1))
    logs.read(Reason.TIMEOUT)
    logs.now += SECONDS_TO_RETRIES[0]
    logs.answer(failed(1))
    assert logs.read() == ref(1)
    assert (state.log, state.failure) == (READ, None)


def test_an_expired_url_is_asked_for_again_once() -> None:
    logs = Logs()
    state = logs.answer(failed(1))
    assert logs.read(LogReason.EXPIRED) == ref(1)
    assert logs.read() is None
    assert logs.wanted() == [ref(1)]
    logs.answer(failed(1))
    assert logs.read(LogReason.EXPIRED) == ref(1)
    logs.now += 100 * HOUR
    assert (logs.wanted(), state.failure) == ([], LogReason.EXPIRED)


def test_a_host_that_is_not_allowed_is_tried_again_only_by_another_config() -> None:
    logs = Logs()
    state = logs.answer(failed(1))
    logs.answer(failed(2))
    assert logs.read() == ref(2)
    assert logs.read(LogReason.HOST_NOT_ALLOWED) == ref(1)
    logs.now += 100 * HOUR
    logs.queue.use(ErrorLogs())
    assert (logs.wanted(), state.failure) == ([], LogReason.HOST_NOT_ALLOWED)
    logs.queue.use(ErrorLogs(hosts=("*.storage.example",)))
    assert (logs.wanted(), state.failure) == ([ref(1)], None)


def test_a_url_that_has_waited_too_long_is_fetched_again() -> None:
    logs = Logs()
    logs.answer(failed(1))
    logs.now += MAX_AGE_OF_A_URL + 1
    assert logs.read() is None
    assert logs.wanted() == [ref(1)]
    logs.answer(failed(1))
    assert logs.read() == ref(1)


def test_an_interrupted_reading_does_not_count_as_an_attempt() -> None:
    logs = Logs()
    state = logs.answer(failed(1))
    task = logs.queue.take(logs.now)
    assert task is not None
    logs.queue.end(task, None, logs.now)
    assert state.failure is None
    assert logs.wanted() == [ref(1)]


def test_a_batch_whose_log_url_is_refused_is_not_polled_in_every_scrape() -> None:
    logs = Logs()
    state = logs.answer(failed(1), url=False)
    for seconds in (*SECONDS_TO_RETRIES, HOUR):
        assert logs.wanted() == [ref(1)]
        logs.queue.refuse(ref(1), Reason.NOT_FOUND, logs.now)
        assert (logs.wanted(), state.failure) == ([], Reason.NOT_FOUND)
        logs.now += seconds
    assert logs.wanted() == []


def test_a_refusal_does_not_touch_a_log_that_was_read() -> None:
    logs = Logs()
    state = logs.answer(failed(1))
    logs.read()
    logs.queue.refuse(ref(1), Reason.NOT_FOUND, logs.now)
    logs.queue.refuse(ref(2), Reason.NOT_FOUND, logs.now)
    assert (state.log, state.failure) == (READ, None)


def test_after_a_restart_with_many_failed_batches_the_newest_are_read_and_the_others_skipped() -> None:
    logs = Logs()
    for number in range(500):
        logs.answer(failed(number))
    newest = [ref(number) for number in range(499, 499 - MAX_LOGS, -1)]
    assert logs.skipped() == {ref(number) for number in range(500)} - set(newest)
    assert [logs.read() for _ in range(MAX_LOGS)] == newest
    assert logs.read() is None
    assert logs.wanted() == []


def test_a_newer_failure_takes_the_place_of_the_oldest() -> None:
    logs = Logs()
    for number in range(MAX_LOGS):
        logs.answer(failed(number))
    assert logs.skipped() == set()
    logs.answer(failed(MAX_LOGS))
    assert logs.skipped() == {ref(0)}
    # What was read already is never left out.
    while logs.read():
        pass
    logs.answer(failed(MAX_LOGS + 1))
    assert logs.skipped() == {ref(0)}


def test_few_batches_are_asked_again_at_a_time() -> None:
    logs = Logs()
    for number in range(20):
        logs.answer(failed(number), url=False)
    first = logs.wanted()
    assert first == [ref(number) for number in range(19, 19 - MAX_POLLED_AGAIN, -1)]
    for number in range(19, 16, -1):
        logs.answer(failed(number))
    assert logs.wanted() == [ref(16), ref(15)]


def test_only_batches_that_a_poll_shows_are_asked_again() -> None:
    logs = Logs()
    logs.answer(failed(1), url=False)
    assert logs.queue.wanted({}, logs.now) == []


@pytest.mark.parametrize(
    ("received", "seconds", "logs_an_hour"),
    [(BOUNDS.packed, 1.0, 4), (BOUNDS.packed // 2, 1.0, 7), (1, 30.0, 4), (1, 120.0, 1), (0, 0.5, 40)],
)
def test_an_hour_has_a_budget_of_bytes_and_of_processor_time(received: int, seconds: float, logs_an_hour: int) -> None:
    logs = Logs()

    def read_all() -> int:
        for number in range(40):
            logs.answer(failed(number))
        count = 0
        while logs.read(received=received, seconds=seconds):
            count += 1
        return count

    assert read_all() == logs_an_hour
    assert logs.skipped() == {ref(number) for number in range(40 - logs_an_hour)}
    assert logs.wanted() == []
    logs.now += HOUR - 1
    assert read_all() == 0
    logs.now += 1
    assert read_all() == min(logs_an_hour, 40 - logs_an_hour)


def test_a_log_gets_what_is_left_of_the_processor_time() -> None:
    logs = Logs()
    logs.answer(failed(1))
    logs.answer(failed(2))
    assert logs.read(seconds=50.0) == ref(2)
    task = logs.queue.take(logs.now)
    assert task is not None
    assert task.seconds == MAX_SECONDS_AN_HOUR - 50.0


def test_switched_off_nothing_is_read_asked_or_skipped() -> None:
    logs = Logs(OFF)
    state = logs.answer(failed(1))
    logs.now += 100 * HOUR
    assert (logs.read(), logs.wanted(), logs.skipped()) == (None, [], set())
    logs.queue.refuse(ref(1), Reason.NOT_FOUND, logs.now)
    assert state.failure is None
    logs.queue.use(ON)
    assert logs.wanted() == [ref(1)]
    logs.answer(failed(1))
    logs.queue.use(OFF)
    assert logs.read() is None


def test_what_is_no_longer_watched_is_forgotten() -> None:
    logs = Logs()
    for number in range(3):
        logs.answer(failed(number))
    logs.queue.forget_all_but({ref(1)})
    assert [logs.read(), logs.read()] == [ref(1), None]
    logs.queue.forget(ref(1))
    logs.queue.forget(ref(7))
    assert logs.skipped() == set()


def test_a_batch_may_be_forgotten_while_its_log_is_read() -> None:
    logs = Logs()
    logs.answer(failed(1))
    logs.answer(failed(2))
    task = logs.queue.take(logs.now)
    assert task is not None
    logs.queue.forget_all_but({ref(1)})
    logs.queue.end(task, LogReading(READ), logs.now)
    assert logs.read() == ref(1)


def test_failures_are_logged_once_for_each_reason(caplog: pytest.LogCaptureFixture) -> None:
    logs = Logs()
    caplog.set_level("INFO")
    outcomes: list[ErrorLog | LogFailure] = [Reason.TIMEOUT, Reason.TIMEOUT, LogReason.HOST_NOT_ALLOWED, READ, READ]
    for number, outcome in enumerate(outcomes):
        logs.answer(failed(number))
        logs.read(outcome)
    assert [(record.levelname, record.getMessage(), getattr(record, "reason", None)) for record in caplog.records] == [
        ("WARNING", "an error log cannot be read", "timeout"),
        ("WARNING", "an error log cannot be read", "host_not_allowed"),
        ("INFO", "error logs can be read again", None),
    ]
    assert "example" not in caplog.text
