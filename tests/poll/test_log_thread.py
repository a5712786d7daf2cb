"""Error logs are read in the background, right after the answers that name them, and never hold up a scrape."""

import threading
from contextlib import suppress
from dataclasses import replace
from types import FunctionType
from typing import Any

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.error_log import ErrorLog, LogReading, RecordCause
from sitecore_cdp_exporter.api.errors import LogReason, PollError, Reason
from sitecore_cdp_exporter.config.model import ApiConfig, Config, ErrorLogs
from sitecore_cdp_exporter.poll.error_logs import MAX_SECONDS_AWAITED, SECONDS_TO_RETRIES, ErrorLogQueue, LogState
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.snapshot import BatchState
from tests.conditions import wait_until
from tests.fake_api import MAX_WAIT, Clock, FakeApi, Lists, ref
from tests.poll import listing
from tests.poll.polling import NOW, make_poller, new_poller, poll, watch

READ = ErrorLog({RecordCause.VALIDATION: 3})


def failed(number: int) -> Batch:
    created = NOW - 3600 + number
    return Batch(ref=ref(number), status=BatchStatus.ERROR, error_log_available=True, created=created)


def watch_failed(api: FakeApi, watchlist: Lists, *numbers: int) -> None:
    """Watch batches that have failed and have error logs. Those with higher numbers are newer."""
    watch(watchlist, *numbers)
    api.answers |= {ref(number): failed(number) for number in numbers}


def log_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "error-log"]


def scrape(poller: Poller, clock: Clock) -> list[BatchState]:
    """Poll, and return what is shown once all logs are read that can be."""
    poll(poller, clock)
    wait_until(lambda: not log_threads())
    return [*poll(poller, clock).batches]


def test_a_log_is_read_after_the_answer_that_names_it(
    poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
) -> None:
    watch(watchlist, 1, 2)
    api.answers[ref(1)] = failed(1)
    api.logs[ref(1)] = LogReading(READ)
    first, second = scrape(poller, clock)
    assert (first.error_log, first.error_log_failure) == (READ, None)
    assert (second.error_log, second.error_log_failure) == (None, None)
    assert api.logs_asked == [ref(1)]
    for _ in range(3):
        scrape(poller, clock)
    assert api.logs_asked == [ref(1)]
    assert api.asked.count(ref(1)) == 1


def test_a_scrape_does_not_wait_for_logs(poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock) -> None:
    watch_failed(api, watchlist, 1)
    api.logs[ref(1)] = LogReading(READ)
    api.logs_open.clear()
    for _ in range(3):
        (state,) = poll(poller, clock).batches
        # Nothing is said before the first attempt has ended.
        assert (state.error_log, state.error_log_failure) == (None, None)
    api.logs_open.set()
    wait_until(lambda: not log_threads())
    (state,) = poll(poller, clock).batches
    assert state.error_log == READ
    assert len(api.logs_asked) == 1


def test_the_newest_failed_batch_comes_first_and_one_log_at_a_time(
    api: FakeApi, watchlist: Lists, clock: Clock
) -> None:
    poller = make_poller(api, watchlist, clock, concurrency=16)
    watch_failed(api, watchlist, *range(20))
    api.logs_open.clear()
    poll(poller, clock)
    assert len(log_threads()) == 1
    api.logs_open.set()
    wait_until(lambda: not log_threads())
    # The first to answer may be any of them.
    assert api.logs_asked[1:] == sorted(api.logs_asked[1:], reverse=True)
    assert sorted(api.logs_asked) == [ref(number) for number in range(20)]


@pytest.mark.parametrize("outcome", [Reason.TIMEOUT, LogReason.EXPIRED])
def test_a_log_is_tried_again_after_a_fresh_answer(
    poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, outcome: Reason | LogReason
) -> None:
    watch_failed(api, watchlist, 1)
    api.logs[ref(1)] = LogReading(outcome)
    poll(poller, clock)
    wait_until(lambda: not log_threads())
    api.logs[ref(1)] = LogReading(READ)
    clock.now += 0.0 if outcome is LogReason.EXPIRED else SECONDS_TO_RETRIES[0]
    (state,) = scrape(poller, clock)
    assert state.error_log == READ
    assert api.asked.count(ref(1)) == 2


@pytest.mark.parametrize("outcome", [Reason.TIMEOUT, LogReason.EXPIRED])
def test_a_discovered_batch_is_polled_again_for_its_log_though_the_list_shows_no_change(
    api: FakeApi, clock: Clock, outcome: Reason | LogReason
) -> None:
    poller = listing.make_poller(api, clock)
    key = listing.put(api, 1, BatchStatus.ERROR)
    answer = api.answers[key]
    assert isinstance(answer, Batch)
    api.answers[key] = replace(answer, error_log_available=True)
    api.logs[key] = LogReading(outcome)
    poll(poller, clock)
    wait_until(lambda: not log_threads())
    assert api.take_asked() == [key]
    api.logs[key] = LogReading(READ)
    clock.now += 0.0 if outcome is LogReason.EXPIRED else SECONDS_TO_RETRIES[0]
    (state,) = scrape(poller, clock)
    assert (state.error_log, state.error_log_failure, state.failure) == (READ, None, None)
    assert api.take_asked() == [key]


def test_a_failed_log_does_not_fail_the_batch(poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock) -> None:
    watch_failed(api, watchlist, 1)
    api.logs[ref(1)] = LogReading(LogReason.HOST_NOT_ALLOWED)
    (state,) = scrape(poller, clock)
    assert (state.failure, state.error_log_failure) == (None, LogReason.HOST_NOT_ALLOWED)
    assert poll(poller, clock).api_up


def test_a_reader_that_raises_is_an_internal_failure(
    poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(api, "read_error_log", fail)
    watch_failed(api, watchlist, 1)
    (state,) = scrape(poller, clock)
    assert state.error_log_failure is Reason.INTERNAL


@pytest.mark.parametrize("step", [ErrorLogQueue.take, LogState.end, ErrorLogQueue.learn, ErrorLogQueue.wanted])
def test_a_fault_of_the_queue_stops_no_later_log(
    poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, monkeypatch: pytest.MonkeyPatch, step: FunctionType
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    watch_failed(api, watchlist, 1)
    with monkeypatch.context() as patch:
        patch.setattr(f"{step.__module__}.{step.__qualname__}", fail)
        with suppress(ZeroDivisionError):
            poll(poller, clock)
        wait_until(lambda: not log_threads())
    watch_failed(api, watchlist, 1, 2)
    api.logs[ref(2)] = LogReading(READ)
    clock.now += MAX_WAIT
    assert scrape(poller, clock)[1].error_log == READ


def test_a_probed_batch_has_its_log_read_too(poller: Poller, api: FakeApi, clock: Clock) -> None:
    api.answers[ref(1)] = failed(1)
    api.logs[ref(1)] = LogReading(READ)
    poller.probe(ref(1), clock.now + MAX_WAIT)
    wait_until(lambda: not log_threads())
    (state,) = poller.probe(ref(1), clock.now + MAX_WAIT).batches
    assert state.error_log == READ


def test_a_batch_that_has_aged_out_is_not_polled_for_its_log_in_every_scrape(
    poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
) -> None:
    watch_failed(api, watchlist, 1)
    api.logs[ref(1)] = LogReading(Reason.TIMEOUT)
    scrape(poller, clock)
    api.answer(PollError.of_status(404), 1)
    clock.now += SECONDS_TO_RETRIES[0]
    api.take_asked()
    for _ in range(5):
        (state,) = scrape(poller, clock)
    assert api.take_asked() == [ref(1)]
    assert (state.failure, state.error_log_failure) == (None, Reason.NOT_FOUND)
    assert state.reading is not None


def test_a_reload_interrupts_a_reading_and_restarts_it(
    poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
) -> None:
    watch_failed(api, watchlist, 1)
    api.logs[ref(1)] = None
    poll(poller, clock)
    wait_until(lambda: not log_threads())
    later = FakeApi(api.answers)
    later.logs[ref(1)] = LogReading(READ)
    poller.reconfigure(later, poller.config.model_copy(update={"recheck_finished": 5.0}))
    (state,) = scrape(poller, clock)
    assert state.error_log == READ
    assert len(later.logs_asked) == 1


def test_another_organisation_has_its_own_logs(poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock) -> None:
    watch_failed(api, watchlist, 1)
    scrape(poller, clock)
    other = FakeApi(api.answers)
    other.logs[ref(1)] = LogReading(READ)
    poller.reconfigure(other, Config(api=ApiConfig(base_url="https://other.example", concurrency=1)))
    (state,) = scrape(poller, clock)
    assert state.error_log == READ


@pytest.mark.parametrize(
    ("changes", "awaited"),
    [
        ({"modified": NOW - MAX_SECONDS_AWAITED + 1}, True),
        ({"modified": NOW - MAX_SECONDS_AWAITED}, False),
        ({"created": NOW - 1}, True),
        ({"modified": NOW, "status": BatchStatus.SUCCESS}, False),
        ({"modified": NOW, "error_log_available": False}, False),
        ({"modified": NOW, "status": BatchStatus.PROCESSING}, False),
    ],
)
def test_the_log_of_a_batch_that_has_just_failed_is_awaited_until_it_was_read(
    changes: dict[str, Any], *, awaited: bool, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
) -> None:
    watch(watchlist, 1)
    api.answers[ref(1)] = replace(failed(1), **changes)
    api.logs[ref(1)] = LogReading(READ)
    api.logs_open.clear()
    (state,) = poll(poller, clock).batches
    assert state.error_log_awaited is awaited
    api.logs_open.set()
    (state,) = scrape(poller, clock)
    assert not state.error_log_awaited


@pytest.mark.parametrize("outcome", [LogReason.HOST_NOT_ALLOWED, Reason.TIMEOUT])
def test_a_log_that_could_not_be_read_is_awaited_no_more(
    outcome: LogReason | Reason, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
) -> None:
    watch(watchlist, 1)
    api.answers[ref(1)] = replace(failed(1), modified=NOW)
    api.logs[ref(1)] = LogReading(outcome)
    (state,) = scrape(poller, clock)
    assert (state.error_log_awaited, state.error_log_failure) == (False, outcome)


def test_switched_off_no_log_is_read_until_it_is_switched_on(api: FakeApi, watchlist: Lists, clock: Clock) -> None:
    off = Config(api=ApiConfig(base_url="https://api.example", concurrency=1), error_logs=ErrorLogs(enabled=False))
    poller = new_poller(api, off, clock, watchlist)
    watch_failed(api, watchlist, 1)
    api.answers[ref(1)] = replace(failed(1), modified=NOW)
    api.logs[ref(1)] = LogReading(READ)
    for _ in range(3):
        (state,) = scrape(poller, clock)
    assert (api.logs_asked, state.error_log, state.error_log_failure) == ([], None, None)
    assert not state.error_log_awaited
    poller.reconfigure(api, off.model_copy(update={"error_logs": ErrorLogs()}))
    (state,) = scrape(poller, clock)
    assert state.error_log == READ


def test_after_a_restart_all_failed_batches_are_asked_once_and_the_newest_logs_are_read(
    api: FakeApi, watchlist: Lists, clock: Clock
) -> None:
    poller = make_poller(api, watchlist, clock, concurrency=16)
    watch_failed(api, watchlist, *range(500))
    api.logs_open.clear()
    poll(poller, clock)
    api.logs_open.set()
    states = scrape(poller, clock)
    assert len(api.asked) == 500
    read = [state.error_log is not None for state in states]
    # The first to answer may be any of them.
    assert 100 <= sum(read) <= 101
    assert all(read[400:])
    assert {state.error_log_failure for state in states} == {None, Reason.SKIPPED}


def test_a_url_is_dropped_after_its_attempt(poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock) -> None:
    watch_failed(api, watchlist, 1)
    (state,) = scrape(poller, clock)
    assert ".example" not in f"{state}"
    assert poller._organisation.memory.error_logs._urls == {}
