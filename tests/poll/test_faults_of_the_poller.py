"""A fault at any step of a poll frees what was held: the poll and its threads end, and the next poll succeeds."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.api.errors import PollError
from sitecore_cdp_exporter.poll import answers, poller
from sitecore_cdp_exporter.poll.backoff import Backoff
from sitecore_cdp_exporter.poll.discovery import Discovery
from sitecore_cdp_exporter.poll.health import ApiHealth
from sitecore_cdp_exporter.poll.memory import Memory, Record
from sitecore_cdp_exporter.poll.organisation import Organisation
from sitecore_cdp_exporter.poll.poll import Poll
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.request import AskBatch, AskPage
from tests.conditions import wait_until
from tests.fake_api import MAX_WAIT, Clock, FakeApi, ref
from tests.poll.listing import by_ref, make_poller, poll, put

STEPS: list[tuple[Any, str]] = [
    (FakeApi, "read_credentials"),
    (FakeApi, "read_batch"),
    (FakeApi, "read_page"),
    (AskBatch, "send"),
    (AskPage, "send"),
    (Memory, "watch"),
    (Memory, "records_of"),
    (Memory, "newest_accepted"),
    (Memory, "forget_refusals"),
    (Discovery, "begin"),
    (Discovery, "receive"),
    (Discovery, "wants"),
    (Discovery, "take_changed"),
    (Organisation, "take"),
    (Organisation, "leave"),
    (Organisation, "drop_those_over"),
    (Organisation, "wanted_threads"),
    (Backoff, "allows"),
    (Backoff, "begin_trial"),
    (Backoff, "record"),
    (ApiHealth, "note"),
    (ApiHealth, "judge"),
    (Record, "learn"),
    (Poll, "show"),
    (Poll, "ask_pages"),
    (Poll, "end_discovery"),
    (Poll, "ask_batches"),
    (Poll, "note"),
    (Poll, "wants"),
    (answers, "log_change"),
    (answers, "log_status"),
    (poller, "learn_of_api"),
    (poller, "learn_batch"),
    (poller, "end_list"),
    (poller, "judge_api"),
    (poller, "take_snapshot"),
]


class Fault(BaseException):
    """Nothing catches it by its class."""


@pytest.fixture
def throw_once(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, str, type[BaseException]], threading.Event]:
    def throw_once(place: Any, name: str, fault: type[BaseException]) -> threading.Event:  # noqa: ANN401  A class or module.
        original, thrown = getattr(place, name), threading.Event()

        def throwing(*args: object, **keywords: object) -> object:
            if not thrown.is_set():
                thrown.set()
                raise fault("a secret of the message")
            return original(*args, **keywords)

        monkeypatch.setattr(place, name, throwing)
        return thrown

    return throw_once


def queue_is_empty(poller: Poller) -> bool:
    organisation = poller._organisation
    return not (organisation.threads or organisation.trial or organisation._under_way)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("fault", [KeyError, Fault])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0].__name__}.{step[1]}")
def test_a_fault_at_any_step_frees_what_it_held(
    api: FakeApi,
    clock: Clock,
    background: ThreadPoolExecutor,
    throw_once: Callable[[Any, str, type[BaseException]], threading.Event],
    caplog: pytest.LogCaptureFixture,
    step: tuple[Any, str],
    fault: type[BaseException],
) -> None:
    caplog.set_level(logging.DEBUG)
    batches = [ref(8), ref(9)]
    poller = make_poller(api, clock, batches=batches)
    keys = {put(api, 1, BatchStatus.PROCESSING), put(api, 2), put(api, 3, BatchStatus.PROCESSING), *batches}
    # The next request is a trial, and the list has changed since it was read.
    poll(poller, clock)
    put(api, 1, BatchStatus.ERROR)
    put(api, 4)
    api.list_error = PollError.of_status(401)
    poll(poller, clock)
    api.list_error = None
    clock.now += 60
    thrown = throw_once(*step, fault)
    polling = background.submit(poller.poll, clock.now + MAX_WAIT)
    wait_until(lambda: thrown.is_set() and (polling.done() or queue_is_empty(poller)))
    clock.now += MAX_WAIT
    error = polling.exception(MAX_WAIT)
    assert error is None or isinstance(error, fault)
    wait_until(lambda: queue_is_empty(poller))
    clock.now += 60
    snapshot = poll(poller, clock)
    assert snapshot.discovery is not None
    assert snapshot.discovery.failure is None
    assert {ref: state.failure for ref, state in by_ref(snapshot).items()} == dict.fromkeys([*keys, ref(4)])
    assert snapshot.unread == 0
    assert "a secret of the message" not in caplog.text
