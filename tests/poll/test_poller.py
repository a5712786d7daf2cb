"""What a poll asks, in which order, by when, and what it may tell."""

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.model import ApiConfig, Config, WatchedBatch
from sitecore_cdp_exporter.poll.batch_log import MAX_LOGGED
from sitecore_cdp_exporter.poll.memory import MAX_AGE_OF_A_LATE_ANSWER, MAX_REMEMBERED_PROBES
from sitecore_cdp_exporter.poll.poll import MAX_AGE_TO_JOIN
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.snapshot import Snapshot
from sitecore_cdp_exporter.watch.watchlist import Source, Watched
from tests.conditions import wait_until
from tests.fake_api import LONGEST_WAIT, Clock, FakeApi, Lists, batch, ref

DAY = 86400.0
WALL_CLOCK = 1.75e9


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api() -> Iterator[FakeApi]:
    api = FakeApi()
    yield api
    api.open.set()


@pytest.fixture
def watchlist() -> Lists:
    return Lists()


@pytest.fixture
def poller(api: FakeApi, watchlist: Lists, clock: Clock) -> Poller:
    return make_poller(api, watchlist, clock)


def make_poller(
    api: FakeApi,
    watchlist: Lists,
    clock: Clock,
    *,
    concurrency: int = 1,
    recheck_finished: float = DAY,
) -> Poller:
    config = Config(
        api=ApiConfig(base_url="https://api.example", concurrency=concurrency), recheck_finished=recheck_finished
    )
    return Poller(api, config, watchlist, clock=clock, wall_clock=lambda: WALL_CLOCK, wait=clock.wait)


def watch(watchlist: Lists, *numbers: int) -> None:
    watchlist.replace(WatchedBatch(ref=ref(number)) for number in numbers)


def poll(poller: Poller, clock: Clock, seconds: float = LONGEST_WAIT) -> Snapshot:
    return poller.poll(clock.now + seconds)


class Scrape:
    """A poll or a probe in the background, which ends when all is answered or the clock is moved to its deadline."""

    def __init__(self, background: ThreadPoolExecutor, clock: Clock, scrape: Callable[[float], Snapshot]) -> None:
        self._clock = clock
        self._deadline = clock.now + LONGEST_WAIT
        self._result = background.submit(scrape, self._deadline)

    def result(self) -> Snapshot:
        return self._result.result(LONGEST_WAIT)

    def out_of_time(self) -> Snapshot:
        """Move the clock to the deadline, and return what there is then."""
        self._clock.now = self._deadline
        return self.result()


def failures(snapshot: Snapshot) -> list[Reason | None]:
    return [state.failure for state in snapshot.batches]


def statuses(snapshot: Snapshot) -> list[BatchStatus | None]:
    return [state.reading.batch.status if state.reading else None for state in snapshot.batches]


def poll_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "poll"]


def wait_for_poll_threads_to_end() -> None:
    for thread in poll_threads():
        thread.join(LONGEST_WAIT)
    assert not poll_threads()


class TestWhatIsAsked:
    def test_an_unfinished_batch_is_asked_in_every_poll(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1)
        assert statuses(poll(poller, clock)) == [BatchStatus.PROCESSING]
        assert statuses(poll(poller, clock)) == [BatchStatus.PROCESSING]
        assert api.take_asked() == [ref(1), ref(1)]

    def test_a_finished_batch_is_remembered_with_the_time_of_its_reading(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1)
        api.answers[ref(1)] = batch(1, BatchStatus.ERROR, total=7)
        first = poll(poller, clock)
        second = poll(poller, clock)
        assert api.take_asked() == [ref(1)]
        assert first.batches == second.batches
        reading = second.batches[0].reading
        assert reading is not None
        assert (reading.batch.total_records, reading.polled) == (7, WALL_CLOCK)

    def test_the_ref_is_asked_for_as_it_is_listed(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        listed = "ABCDEF00-0000-4000-8000-00000000000A"
        watchlist.replace([WatchedBatch(ref=listed)])
        poll(poller, clock)
        assert api.take_asked() == [listed]

    def test_an_empty_watch_list_makes_no_request(self, poller: Poller, api: FakeApi, clock: Clock) -> None:
        clock.now += DAY
        snapshot = poll(poller, clock)
        assert (snapshot.batches, snapshot.api_up, snapshot.api_last_success) == ((), None, None)
        assert api.take_asked() == []

    def test_a_batch_that_leaves_the_list_is_forgotten(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        api.answers[ref(1)] = batch(1, BatchStatus.SUCCESS)
        watch(watchlist, 1)
        poll(poller, clock)
        watch(watchlist, 2)
        assert [state.watched.ref for state in poll(poller, clock).batches] == [ref(2)]
        watch(watchlist, 1)
        api.take_asked()
        poll(poller, clock)
        assert api.take_asked() == [ref(1)]

    def test_under_pressure_unfinished_come_first_then_unread_then_rechecks_each_longest_ago_first(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        for number in (5, 6):
            api.answers[ref(number)] = batch(number, BatchStatus.SUCCESS)
        watch(watchlist, 6)
        poll(poller, clock)
        clock.now += 1
        watch(watchlist, 6, 5)
        poll(poller, clock)
        clock.now += DAY
        watch(watchlist, 6, 5, 2)
        poll(poller, clock)  # Re-checks 6 and 5, reads 2.
        clock.now += DAY
        watch(watchlist, 6, 5, 2, 1)
        api.take_asked()
        poll(poller, clock)
        assert api.take_asked() == [ref(2), ref(1), ref(6), ref(5)]
        clock.now += DAY
        watch(watchlist, 3, 4, 5, 1, 6, 2)
        poll(poller, clock)
        assert api.take_asked() == [ref(1), ref(2), ref(3), ref(4), ref(5), ref(6)]

    def test_a_batch_that_always_fails_does_not_starve_the_others(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock)
        watch(watchlist, 1, 2)
        api.answers |= {ref(1): PollError(Reason.TIMEOUT), ref(2): PollError(Reason.TIMEOUT)}
        api.open.clear()
        # Each poll has time for one request only.
        for asked in (ref(1), ref(2), ref(1)):
            scrape = Scrape(background, clock, poller.poll)
            api.wait_until_asked([asked])
            scrape.out_of_time()
            api.open.set()
            wait_for_poll_threads_to_end()
            assert api.take_asked() == [asked]
            api.open.clear()


class TestRechecks:
    def test_a_finished_batch_is_asked_again_after_its_interval(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1)
        api.answers[ref(1)] = batch(1, BatchStatus.SUCCESS)
        poll(poller, clock)
        clock.now += DAY
        poll(poller, clock)
        clock.now += DAY - 1
        api.take_asked()
        poller.poll(clock.now)  # Too late for a request of the five-minute check.
        clock.now += 1
        poll(poller, clock)
        assert api.take_asked() == [ref(1)]

    def test_first_rechecks_are_spread_over_the_second_half_of_the_interval(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        step = 2**32 // 16
        watch(watchlist, *(step * number for number in range(16)))
        for number in range(16):
            api.answers[ref(step * number)] = batch(step * number, BatchStatus.SUCCESS)
        poll(poller, clock)
        api.take_asked()
        asked = []
        for _ in range(96):
            clock.now += DAY / 96
            # Keeps the five-minute check away, which would ask for one in every poll.
            poller.probe(ref(9999), clock.now + LONGEST_WAIT)
            poll(poller, clock)
            asked.append([key for key in api.take_asked() if key != ref(9999)])
        assert not any(asked[:47])
        assert [len(refs) for refs in asked if refs] == [1] * 16

    def test_an_interval_of_zero_asks_in_every_poll(self, api: FakeApi, watchlist: Lists, clock: Clock) -> None:
        poller = make_poller(api, watchlist, clock, recheck_finished=0)
        watch(watchlist, 1)
        api.answers[ref(1)] = batch(1, BatchStatus.SUCCESS)
        poll(poller, clock)
        poll(poller, clock)
        assert api.take_asked() == [ref(1), ref(1)]

    def test_a_failed_recheck_keeps_the_values_and_is_due_again_in_the_next_poll(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1)
        api.answers[ref(1)] = batch(1, BatchStatus.SUCCESS)
        poll(poller, clock)
        clock.now += DAY
        api.answers[ref(1)] = PollError(Reason.TIMEOUT)
        api.take_asked()
        for _ in range(2):
            snapshot = poll(poller, clock)
            assert (statuses(snapshot), failures(snapshot)) == ([BatchStatus.SUCCESS], [None])
            assert snapshot.api_up is False
        assert api.take_asked() == [ref(1), ref(1)]

    def test_a_finished_batch_that_has_aged_out_of_the_api_is_not_asked_for_in_every_poll(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1)
        api.answers[ref(1)] = batch(1, BatchStatus.SUCCESS)
        poll(poller, clock)
        clock.now += DAY
        api.answers[ref(1)] = PollError.of_status(404)
        poll(poller, clock)
        api.take_asked()
        snapshot = poll(poller, clock)
        assert (statuses(snapshot), failures(snapshot)) == ([BatchStatus.SUCCESS], [None])
        assert snapshot.api_up is True
        assert api.take_asked() == []

    def test_a_batch_that_is_no_longer_finished_is_polled_again(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1)
        api.answers[ref(1)] = batch(1, BatchStatus.SUCCESS)
        poll(poller, clock)
        clock.now += DAY
        del api.answers[ref(1)]
        assert statuses(poll(poller, clock)) == [BatchStatus.PROCESSING]
        api.answers[ref(1)] = PollError(Reason.TIMEOUT)
        assert statuses(poll(poller, clock)) == [None]

    def test_after_five_quiet_minutes_the_finished_batch_read_longest_ago_is_asked(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        for number in (1, 2, 3):
            api.answers[ref(number)] = batch(number, BatchStatus.SUCCESS)
        watch(watchlist, 1, 2, 3)
        poll(poller, clock)
        api.take_asked()
        clock.now += 299
        poll(poller, clock)
        assert api.take_asked() == []
        asked = []
        for _ in range(4):
            clock.now += 300
            poll(poller, clock)
            poll(poller, clock)
            asked += api.take_asked()
        assert len(asked) == 4
        assert set(asked) == {ref(1), ref(2), ref(3)}

    def test_the_five_minute_check_shows_a_dead_token(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1)
        api.answers[ref(1)] = batch(1, BatchStatus.SUCCESS)
        assert poll(poller, clock).api_up is True
        api.answers[ref(1)] = PollError.of_status(401)
        clock.now += 300
        snapshot = poll(poller, clock)
        assert snapshot.api_up is False
        assert statuses(snapshot) == [BatchStatus.SUCCESS]


class TestWhatMayBeTold:
    @pytest.mark.parametrize(
        ("error", "reason", "api_up"),
        [
            (PollError.of_status(401), Reason.UNAUTHORIZED, False),
            (PollError.of_status(403), Reason.FORBIDDEN, True),
            (PollError.of_status(404), Reason.NOT_FOUND, True),
            (PollError.of_status(429), Reason.RATE_LIMITED, False),
            (PollError.of_status(302), Reason.HTTP_ERROR, False),
            (PollError.of_status(500), Reason.SERVER_ERROR, False),
            (PollError(Reason.TIMEOUT), Reason.TIMEOUT, False),
            (PollError(Reason.CONNECTION), Reason.CONNECTION, False),
            (PollError(Reason.TLS), Reason.TLS, False),
            (PollError(Reason.BAD_RESPONSE), Reason.BAD_RESPONSE, False),
            (KeyError("fault"), Reason.INTERNAL, False),
        ],
    )
    def test_a_failure_has_its_reason_and_no_reading(
        self,
        poller: Poller,
        api: FakeApi,
        watchlist: Lists,
        clock: Clock,
        error: Exception,
        reason: Reason,
        api_up: bool,  # noqa: FBT001  A column.
    ) -> None:
        watch(watchlist, 1)
        poll(poller, clock)
        api.answers[ref(1)] = error
        snapshot = poll(poller, clock)
        assert (statuses(snapshot), failures(snapshot)) == ([None], [reason])
        assert snapshot.api_up is api_up

    def test_a_raising_upstream_leaves_the_other_batches(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        watch(watchlist, 1, 2, 3)
        api.answers[ref(2)] = KeyError("secret-in-a-message")
        snapshot = poll(poller, clock)
        assert failures(snapshot) == [None, Reason.INTERNAL, None]
        assert snapshot.api_up is True
        assert "secret-in-a-message" not in caplog.text
        assert "KeyError" in [vars(record).get("error") for record in caplog.records]

    def test_the_api_is_up_if_one_batch_could_be_read(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1, 2)
        api.answers[ref(1)] = PollError.of_status(500)
        assert poll(poller, clock).api_up is True

    def test_a_poll_without_requests_leaves_the_api_as_it_was(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1)
        api.answers[ref(1)] = PollError(Reason.CONNECTION)
        assert poller.poll(clock.now - 1).api_up is None
        assert poll(poller, clock).api_up is False
        assert poller.poll(clock.now - 1).api_up is False

    def test_the_last_success_is_the_time_of_the_last_reading(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1)
        api.answers[ref(1)] = PollError.of_status(404)
        assert poll(poller, clock).api_last_success is None
        del api.answers[ref(1)]
        assert poll(poller, clock).api_last_success == WALL_CLOCK

    def test_unreadable_credentials_fail_every_batch_and_the_api_without_a_request(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1, 2)
        api.credentials = PollError(Reason.CREDENTIALS, "there is no password")
        snapshot = poll(poller, clock)
        assert failures(snapshot) == [Reason.CREDENTIALS] * 2
        assert snapshot.api_up is False
        assert api.take_asked() == []
        api.credentials = Credentials("client", "token")
        assert failures(poll(poller, clock)) == [None, None]

    def test_the_latest_snapshot_is_kept_for_the_landing_page(
        self, poller: Poller, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1)
        assert poller.latest is None
        snapshot = poll(poller, clock)
        assert poller.latest == snapshot

    def test_a_change_is_logged_once_and_not_in_every_poll(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        watch(watchlist, 1)
        api.answers[ref(1)] = PollError.of_status(404)
        for _ in range(3):
            poll(poller, clock)
        del api.answers[ref(1)]
        for _ in range(3):
            poll(poller, clock)
        api.answers[ref(1)] = batch(1, BatchStatus.SUCCESS)
        poll(poller, clock)
        assert [record.getMessage() for record in caplog.records] == [
            "a batch cannot be read: HTTP status 404",
            "the Batch API is up",
            "a batch can be read again",
            "a batch has a new status",
        ]


class TestLog:
    def test_an_outage_is_told_once_with_its_cause(
        self, api: FakeApi, watchlist: Lists, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        poller = make_poller(api, watchlist, clock, concurrency=4)
        watch(watchlist, *range(30))
        poll(poller, clock)
        api.credentials = PollError(Reason.CREDENTIALS, "there is no password")
        for _ in range(3):
            poll(poller, clock)
        api.credentials = Credentials("client", "token")
        poll(poller, clock)
        assert [record.getMessage() for record in caplog.records] == [
            "the Batch API is up",
            "the Batch API is not asked: there is no password",
            "the Batch API is up again",
        ]

    @pytest.mark.parametrize("status", [BatchStatus.ERROR, BatchStatus.CORRUPTED])
    def test_a_batch_that_is_first_seen_failed_is_logged_once_as_a_warning_with_its_counts(
        self,
        poller: Poller,
        api: FakeApi,
        watchlist: Lists,
        clock: Clock,
        caplog: pytest.LogCaptureFixture,
        status: BatchStatus,
    ) -> None:
        caplog.set_level(logging.INFO)
        watchlist.replace([WatchedBatch(ref=ref(number), feed="nightly") for number in (1, 2)])
        answer = batch(1, status, total=120) if status is BatchStatus.ERROR else batch(1, status)
        api.answers[ref(1)] = replace(answer, failed_records=3 if status is BatchStatus.ERROR else None)
        poll(poller, clock)
        api.answers[ref(2)] = replace(api.answers[ref(1)], ref=ref(2))  # type: ignore[type-var]
        for _ in range(3):
            poll(poller, clock)
        warnings = [vars(record) for record in caplog.records if record.levelno == logging.WARNING]
        assert [(each["msg"], each["ref"], each["feed"], each["status"]) for each in warnings] == [
            ("a batch has failed", ref(number), "nightly", status) for number in (1, 2)
        ]
        counts = [(each.get("failed_records"), each.get("total_records")) for each in warnings]
        assert counts == [(3, 120) if status is BatchStatus.ERROR else (None, None)] * 2

    def test_a_restart_does_not_flood_the_log_with_old_failures(
        self, api: FakeApi, watchlist: Lists, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=4)
        watch(watchlist, *range(500))
        api.answers |= {ref(number): batch(number, BatchStatus.ERROR, total=9) for number in range(500)}
        for _ in range(3):
            poll(poller, clock)
        assert len(caplog.records) == MAX_LOGGED + 1

    def test_a_poll_logs_a_few_batches_and_not_thousands(
        self, api: FakeApi, watchlist: Lists, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        poller = make_poller(api, watchlist, clock)
        watch(watchlist, *range(300))
        api.answers |= {ref(number): PollError.of_status(404) for number in range(300)}
        poll(poller, clock)
        assert len(caplog.records) == MAX_LOGGED + 1
        assert caplog.records[-1].getMessage() == "this poll logs no more batches; the metrics name them all"


class TestDeadlines:
    def test_what_is_missing_at_the_deadline_has_that_reason(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=1)
        watch(watchlist, 1, 2)
        api.open.clear()
        scrape = Scrape(background, clock, poller.poll)
        api.wait_until_asked([ref(1)])
        assert failures(scrape.out_of_time()) == [Reason.DEADLINE, Reason.DEADLINE]
        api.open.set()
        wait_for_poll_threads_to_end()
        assert api.take_asked() == [ref(1)], "a poll that is over must ask for nothing more"

    @pytest.mark.parametrize(("answer", "up"), [(batch(1), True), (PollError(Reason.TIMEOUT), False)])
    def test_a_request_that_outlives_its_poll_tells_of_the_api_when_it_ends(
        self,
        api: FakeApi,
        watchlist: Lists,
        clock: Clock,
        background: ThreadPoolExecutor,
        answer: Batch | Exception,
        up: bool,  # noqa: FBT001  A column.
    ) -> None:
        poller = make_poller(api, watchlist, clock)
        watch(watchlist, 1)
        api.answers[ref(1)] = answer
        api.open.clear()
        scrape = Scrape(background, clock, poller.poll)
        api.wait_until_asked([ref(1)])
        assert scrape.out_of_time().api_up is None, "it is slow, or dead: nobody knows yet"
        api.open.set()
        wait_for_poll_threads_to_end()
        assert poller.poll(clock.now - 1).api_up is up

    def test_a_late_answer_of_a_finished_batch_serves_the_next_poll(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock)
        watch(watchlist, 1)
        api.answers[ref(1)] = batch(1, BatchStatus.SUCCESS)
        api.open.clear()
        scrape = Scrape(background, clock, poller.poll)
        api.wait_until_asked([ref(1)])
        assert failures(scrape.out_of_time()) == [Reason.DEADLINE]
        api.open.set()
        wait_for_poll_threads_to_end()
        assert statuses(poller.poll(clock.now + LONGEST_WAIT)) == [BatchStatus.SUCCESS]
        assert api.take_asked() == [ref(1)]

    def test_a_request_under_way_is_waited_for_and_not_sent_twice(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock)
        watch(watchlist, 1)
        api.open.clear()
        first = Scrape(background, clock, poller.poll)
        api.wait_until_asked([ref(1)])
        first.out_of_time()
        second = background.submit(poller.poll, clock.now + LONGEST_WAIT)
        third = background.submit(poller.probe, ref(1), clock.now + LONGEST_WAIT)
        api.open.set()
        assert statuses(second.result()) == statuses(third.result()) == [BatchStatus.PROCESSING]
        # The second poll may have begun after the answer to the first.
        assert len(api.take_asked()) <= 2

    def test_a_deadline_that_has_passed_asks_nothing_and_tells_what_is_known(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        api.answers[ref(1)] = batch(1, BatchStatus.SUCCESS)
        watch(watchlist, 1, 2)
        poll(poller, clock)
        api.take_asked()
        snapshot = poller.poll(clock.now - 0.4)
        assert (statuses(snapshot), failures(snapshot)) == (
            [BatchStatus.SUCCESS, None],
            [None, Reason.DEADLINE],
        )
        assert api.take_asked() == []


class TestLateAnswers:
    """What comes too late for its scrape is shown by the next one."""

    @pytest.fixture
    def poller(self, api: FakeApi, watchlist: Lists, clock: Clock) -> Poller:
        watch(watchlist, 1)
        config = Config(api=ApiConfig(base_url="https://api.example", concurrency=1))
        return Poller(api, config, watchlist, clock=clock, wall_clock=lambda: WALL_CLOCK + clock.now, wait=clock.wait)

    @staticmethod
    def too_late(scrape: Scrape, api: FakeApi) -> Snapshot:
        """Let the scrape end before its answer comes."""
        api.wait_until_asked([ref(1)])
        snapshot = scrape.out_of_time()
        api.open.set()
        wait_for_poll_threads_to_end()
        assert api.take_asked() == [ref(1)]
        api.open.clear()
        return snapshot

    def test_an_api_that_is_always_slow_is_shown_with_the_time_of_its_answer(
        self, poller: Poller, api: FakeApi, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        api.open.clear()
        assert failures(self.too_late(Scrape(background, clock, poller.poll), api)) == [Reason.DEADLINE]
        for _ in range(3):
            answered = WALL_CLOCK + clock.now
            clock.now += 5
            snapshot = self.too_late(Scrape(background, clock, poller.poll), api)
            assert (statuses(snapshot), failures(snapshot)) == ([BatchStatus.PROCESSING], [None])
            assert snapshot.batches[0].reading is not None
            assert snapshot.batches[0].reading.polled == answered

    def test_an_answer_of_more_than_two_minutes_ago_is_too_old(
        self, poller: Poller, api: FakeApi, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        api.open.clear()
        self.too_late(Scrape(background, clock, poller.poll), api)
        clock.now += MAX_AGE_OF_A_LATE_ANSWER
        assert statuses(poller.poll(clock.now)) == [BatchStatus.PROCESSING]
        clock.now += 0.1
        assert failures(poller.poll(clock.now)) == [Reason.DEADLINE]

    def test_an_answer_that_its_scrape_has_shown_is_not_shown_again(self, poller: Poller, clock: Clock) -> None:
        assert statuses(poll(poller, clock)) == [BatchStatus.PROCESSING]
        assert failures(poller.poll(clock.now)) == [Reason.DEADLINE]

    def test_it_is_forgotten_as_soon_as_the_batch_answers_otherwise(
        self, poller: Poller, api: FakeApi, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        api.open.clear()
        self.too_late(Scrape(background, clock, poller.poll), api)
        api.open.set()
        api.answers[ref(1)] = PollError(Reason.TIMEOUT)
        assert failures(poll(poller, clock)) == [Reason.TIMEOUT]
        assert failures(poller.poll(clock.now)) == [Reason.DEADLINE]

    @pytest.mark.parametrize(
        ("error", "shown"),
        [
            (PollError.of_status(404), Reason.NOT_FOUND),
            (PollError(Reason.BAD_RESPONSE), Reason.BAD_RESPONSE),
            (PollError(Reason.TIMEOUT), Reason.DEADLINE),
        ],
    )
    def test_an_answer_that_is_an_error_names_its_reason_and_no_answer_is_no_news(
        self,
        poller: Poller,
        api: FakeApi,
        clock: Clock,
        background: ThreadPoolExecutor,
        error: PollError,
        shown: Reason,
    ) -> None:
        api.answers[ref(1)] = error
        api.open.clear()
        self.too_late(Scrape(background, clock, poller.poll), api)
        assert failures(self.too_late(Scrape(background, clock, poller.poll), api)) == [shown]

    def test_a_scrape_that_left_its_poll_early_is_not_left_out(
        self, poller: Poller, api: FakeApi, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        api.open.clear()
        patient = Scrape(background, clock, poller.poll)
        api.wait_until_asked([ref(1)])
        assert failures(poller.poll(clock.now)) == [Reason.DEADLINE]
        api.open.set()
        assert statuses(patient.result()) == [BatchStatus.PROCESSING]
        assert statuses(poller.poll(clock.now)) == [BatchStatus.PROCESSING]

    def test_a_probe_shows_it_as_well(
        self, poller: Poller, api: FakeApi, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        probe = partial(poller.probe, ref(1))
        api.open.clear()
        assert failures(self.too_late(Scrape(background, clock, probe), api)) == [Reason.DEADLINE]
        assert statuses(self.too_late(Scrape(background, clock, probe), api)) == [BatchStatus.PROCESSING]


class TestSharing:
    def test_scrapes_that_overlap_share_one_poll(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=4)
        watch(watchlist, 1, 2, 3)
        api.open.clear()
        deadline = clock.now + LONGEST_WAIT
        first = background.submit(poller.poll, deadline)
        api.wait_until_asked([ref(1), ref(2), ref(3)])
        others = [background.submit(poller.poll, deadline) for _ in range(20)]
        api.open.set()
        assert all(statuses(scrape.result()) == [BatchStatus.PROCESSING] * 3 for scrape in [first, *others])
        # A scrape that came after the end of the shared poll has begun one of its own.
        assert len(api.take_asked()) <= 6

    def test_a_short_deadline_does_not_spoil_the_poll_of_those_who_wait_longer(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock)
        watch(watchlist, 1, 2)
        api.open.clear()
        patient = background.submit(poller.poll, clock.now + LONGEST_WAIT)
        api.wait_until_asked([ref(1)])
        assert failures(poller.poll(clock.now - 0.4)) == [Reason.DEADLINE] * 2
        hasty = background.submit(poller.poll, clock.now + 1)
        clock.now += 1
        assert failures(hasty.result(LONGEST_WAIT)) == [Reason.DEADLINE] * 2
        api.open.set()
        assert failures(patient.result()) == [None, None]
        assert sorted(api.take_asked()) == [ref(1), ref(2)]

    def test_a_longer_deadline_extends_the_poll_that_it_joins(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock)
        watch(watchlist, 1, 2)
        api.open.clear()
        hasty = Scrape(background, clock, poller.poll)
        api.wait_until_asked([ref(1)])
        clock.now += 1
        (poll_of_both,) = poller._polls
        patient = Scrape(background, clock, poller.poll)
        wait_until(lambda: poll_of_both.deadline == clock.now + LONGEST_WAIT)
        assert failures(hasty.out_of_time()) == [Reason.DEADLINE] * 2
        api.open.set()
        assert failures(patient.result()) == [None, None]
        assert sorted(api.take_asked()) == [ref(1), ref(2)]

    def test_scrapers_that_overlap_for_ever_do_not_keep_one_poll_for_ever(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=2)
        watch(watchlist, 1, 2, 3)
        api.open.clear()
        deadline = clock.now + LONGEST_WAIT
        first = background.submit(poller.poll, deadline)
        api.wait_until_at_once(2)
        clock.now += MAX_AGE_TO_JOIN
        second = background.submit(poller.poll, deadline)
        api.open.set()
        assert statuses(first.result()) == statuses(second.result()) == [BatchStatus.PROCESSING] * 3
        assert first.result().poll_duration != second.result().poll_duration
        # What both waited for was asked once.
        assert sorted(set(api.asked)) == [ref(1), ref(2), ref(3)]

    def test_an_answer_serves_every_poll_that_waits_for_the_batch(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=1)
        watch(watchlist, *range(20))
        api.open.clear()
        polls = []
        for _ in range(3):
            polls.append(background.submit(poller.poll, clock.now + LONGEST_WAIT))
            api.wait_until_at_once(1)
            wait_until(lambda: len(poller._polls) == len(polls))
            clock.now += MAX_AGE_TO_JOIN
        api.open.set()
        assert all(failures(each.result()) == [None] * 20 for each in polls)
        assert len(api.take_asked()) == 20

    def test_an_early_leaver_does_not_declare_the_api_down(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock)
        watch(watchlist, 1)
        api.open.clear()
        patient = background.submit(poller.poll, clock.now + LONGEST_WAIT)
        api.wait_until_asked([ref(1)])
        assert poller.poll(clock.now).api_up is None
        api.open.set()
        assert patient.result().api_up is True

    def test_requests_under_way_never_exceed_the_concurrency_whoever_asks(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=4)
        watch(watchlist, *range(20))
        api.open.clear()
        deadline = clock.now + LONGEST_WAIT
        scrapes: list[Future[Snapshot]] = [background.submit(poller.poll, deadline)]
        scrapes += [background.submit(poller.probe, ref(100 + number), deadline) for number in range(10)]
        api.wait_until_at_once(4)
        api.open.set()
        assert all(failure is None for scrape in scrapes for failure in failures(scrape.result()))
        assert api.most_at_once == 4

    def test_no_thread_outlives_its_poll(self, api: FakeApi, watchlist: Lists, clock: Clock) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=16)
        watch(watchlist, *range(50))
        for _ in range(5):
            poller.poll(clock.now + LONGEST_WAIT)
        wait_for_poll_threads_to_end()

    def test_stop_lets_everybody_go_with_what_is_there(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock)
        watch(watchlist, 1, 2)
        api.open.clear()
        scrape = background.submit(poller.poll, clock.now + LONGEST_WAIT)
        api.wait_until_asked([ref(1)])
        probe = background.submit(poller.probe, ref(3), clock.now + LONGEST_WAIT)
        poller.stop()
        assert failures(scrape.result()) == [Reason.DEADLINE] * 2
        assert failures(probe.result()) == [Reason.DEADLINE]
        stopped = poller.poll(clock.now + LONGEST_WAIT)
        assert failures(stopped) == [Reason.DEADLINE] * 2
        assert stopped.api_up is None, "to stop says nothing of the API"
        api.open.set()
        wait_for_poll_threads_to_end()
        assert api.take_asked() == [ref(1)]


class TestRefusals:
    def test_after_a_401_the_rest_is_skipped_and_one_request_a_minute_is_sent(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1, 2, 3)
        api.answers |= {ref(number): PollError.of_status(401) for number in (1, 2, 3)}
        assert failures(poll(poller, clock)) == [Reason.UNAUTHORIZED, Reason.SKIPPED, Reason.SKIPPED]
        clock.now += 59
        snapshot = poll(poller, clock)
        assert failures(snapshot) == [Reason.SKIPPED] * 3
        assert snapshot.api_up is False
        assert api.take_asked() == [ref(1)]
        clock.now += 1
        assert failures(poll(poller, clock)) == [Reason.SKIPPED, Reason.UNAUTHORIZED, Reason.SKIPPED]

    def test_a_trial_that_succeeds_lets_the_rest_of_the_poll_go_on(
        self, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=4)
        watch(watchlist, *range(10))
        api.answers |= {ref(number): PollError.of_status(401) for number in range(10)}
        poll(poller, clock)
        api.answers.clear()
        clock.now += 60
        snapshot = poll(poller, clock)
        assert failures(snapshot) == [None] * 10
        assert snapshot.api_up is True

    def test_new_credentials_are_tried_at_once(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1, 2)
        api.answers |= {ref(1): PollError.of_status(401), ref(2): PollError.of_status(401)}
        poll(poller, clock)
        api.answers.clear()
        api.credentials = Credentials("client", "new token")
        assert failures(poll(poller, clock)) == [None, None]

    def test_probes_share_the_refusal(self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock) -> None:
        watch(watchlist, 1)
        api.answers[ref(1)] = PollError.of_status(401)
        poll(poller, clock)
        assert failures(poller.probe(ref(2), clock.now + LONGEST_WAIT)) == [Reason.SKIPPED]

    def test_three_403_at_the_start_of_a_poll_are_a_refusal_of_us(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, *range(6))
        api.answers |= {ref(number): PollError.of_status(403) for number in range(6)}
        snapshot = poll(poller, clock)
        assert failures(snapshot) == [Reason.FORBIDDEN] * 3 + [Reason.SKIPPED] * 3
        assert snapshot.api_up is False
        api.answers.clear()
        clock.now += 60
        assert failures(poll(poller, clock)) == [None] * 6

    def test_two_403_and_a_reading_are_the_403_of_their_batches(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, *range(6))
        api.answers |= {ref(number): PollError.of_status(403) for number in (0, 1, 3, 4)}
        snapshot = poll(poller, clock)
        assert failures(snapshot) == [
            Reason.FORBIDDEN,
            Reason.FORBIDDEN,
            None,
            Reason.FORBIDDEN,
            Reason.FORBIDDEN,
            None,
        ]
        assert snapshot.api_up is True

    def test_batches_that_were_forbidden_before_do_not_look_like_a_refusal_when_nothing_else_is_left(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 9, 1, 2, 3)
        api.answers |= {ref(number): PollError.of_status(403) for number in (1, 2, 3)}
        api.answers[ref(9)] = batch(9, BatchStatus.SUCCESS)
        poll(poller, clock)
        for _ in range(2):
            snapshot = poll(poller, clock)
            assert failures(snapshot) == [None, *[Reason.FORBIDDEN] * 3]
            assert snapshot.api_up is True

    def test_no_request_before_retry_after_is_over(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1, 2)
        api.answers[ref(1)] = PollError.of_status(429, 30)
        assert failures(poll(poller, clock)) == [Reason.RATE_LIMITED, Reason.SKIPPED]
        clock.now += 29
        assert failures(poll(poller, clock)) == [Reason.SKIPPED, Reason.SKIPPED]
        assert api.take_asked() == [ref(1)]
        clock.now += 1
        api.answers.clear()
        assert failures(poll(poller, clock)) == [None, None]

    @pytest.mark.parametrize("error", [PollError.of_status(429), PollError.of_status(503)])
    def test_without_retry_after_the_error_belongs_to_its_batch(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, error: PollError
    ) -> None:
        watch(watchlist, 1, 2)
        api.answers[ref(1)] = error
        assert failures(poll(poller, clock)) == [error.reason, None]


class TestAnApiInTrouble:
    """It answers 429 or 5xx to everything, and does not say how long to wait."""

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_it_gets_one_request_and_then_a_pause_that_grows_up_to_a_minute(
        self, api: FakeApi, watchlist: Lists, clock: Clock, status: int
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=16)
        watch(watchlist, *range(200))
        api.answers |= {ref(number): PollError.of_status(status) for number in range(200)}
        poll(poller, clock)
        assert len(api.take_asked()) == 200
        asked = []
        for _ in range(16):
            clock.now += 15
            snapshot = poll(poller, clock)
            asked.append(len(api.take_asked()))
            assert failures(snapshot).count(Reason.SKIPPED) == 200 - asked[-1]
            assert snapshot.api_up is False
        assert asked == [1, 1, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]

    def test_when_the_one_request_succeeds_the_rest_is_asked_in_the_same_poll(
        self, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=4)
        watch(watchlist, *range(20))
        api.answers |= {ref(number): PollError.of_status(500) for number in range(20)}
        poll(poller, clock)
        api.answers.clear()
        clock.now += 5
        api.take_asked()
        assert failures(poll(poller, clock)) == [None] * 20
        assert len(api.take_asked()) == 20

    def test_a_few_that_always_fail_do_not_keep_a_new_batch_from_being_asked(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1, 2, 3)
        poll(poller, clock)
        api.answers |= {ref(number): PollError.of_status(500) for number in (1, 2, 3)}
        clock.now += 15
        poll(poller, clock)
        watch(watchlist, 1, 2, 3, 4)
        clock.now += 15
        assert failures(poll(poller, clock)) == [*[Reason.SERVER_ERROR] * 3, None]

    def test_one_good_answer_makes_the_others_the_fault_of_their_batches(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, *range(6))
        api.answers |= {ref(number): PollError.of_status(500) for number in range(5)}
        for _ in range(3):
            assert failures(poll(poller, clock)) == [*[Reason.SERVER_ERROR] * 5, None]

    def test_a_poll_of_two_requests_is_no_burden(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1, 2)
        api.answers |= {ref(number): PollError.of_status(500) for number in (1, 2)}
        for _ in range(3):
            assert failures(poll(poller, clock)) == [Reason.SERVER_ERROR] * 2

    def test_a_probe_waits_as_well_and_begins_no_pause(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        api.answers |= {ref(number): PollError.of_status(500) for number in range(9)}
        for number in range(4):
            assert failures(poller.probe(ref(number), clock.now + LONGEST_WAIT)) == [Reason.SERVER_ERROR]
        watch(watchlist, 1, 2, 3)
        poll(poller, clock)
        assert failures(poller.probe(ref(8), clock.now + LONGEST_WAIT)) == [Reason.SKIPPED]


class TestProbes:
    def test_a_probe_asks_for_one_batch(self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock) -> None:
        watch(watchlist, 1, 2)
        snapshot = poller.probe(ref(7), clock.now + LONGEST_WAIT)
        assert [state.watched for state in snapshot.batches] == [Watched(ref(7))]
        assert statuses(snapshot) == [BatchStatus.PROCESSING]
        assert api.take_asked() == [ref(7)]

    def test_a_probe_of_a_listed_batch_has_its_labels_and_its_memory(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        listed = WatchedBatch(ref=ref(10), feed="nightly-guests", labels={"team": "crm"})
        watchlist.replace([listed])
        api.answers[ref(10)] = batch(10, BatchStatus.SUCCESS)
        poll(poller, clock)
        snapshot = poller.probe(ref(10).upper(), clock.now + LONGEST_WAIT)
        assert snapshot.batches[0].watched == Watched(ref(10), "nightly-guests", {"team": "crm"}, Source.FILE)
        assert statuses(snapshot) == [BatchStatus.SUCCESS]
        assert api.take_asked() == [ref(10)]

    def test_a_finished_batch_is_remembered_from_probe_to_probe(
        self, poller: Poller, api: FakeApi, clock: Clock
    ) -> None:
        api.answers[ref(1)] = batch(1, BatchStatus.SUCCESS)
        for _ in range(3):
            assert statuses(poller.probe(ref(1), clock.now + LONGEST_WAIT)) == [BatchStatus.SUCCESS]
        assert api.take_asked() == [ref(1)]

    def test_what_is_not_listed_fails_in_silence(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        watch(watchlist, 1)
        poll(poller, clock)
        caplog.set_level(logging.INFO)
        for number in (1, 2):
            api.answers[ref(number)] = PollError.of_status(404)
            poller.probe(ref(number), clock.now + LONGEST_WAIT)
        api.answers.clear()
        for number in (1, 2):
            poller.probe(ref(number), clock.now + LONGEST_WAIT)
        told = [(record.getMessage(), vars(record)["ref"]) for record in caplog.records]
        assert told == [("a batch cannot be read: HTTP status 404", ref(1)), ("a batch can be read again", ref(1))]

    def test_what_was_probed_before_it_was_listed_is_told_when_it_is(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        poll(poller, clock)
        caplog.set_level(logging.WARNING)
        api.answers[ref(1)] = PollError.of_status(404)
        poller.probe(ref(1), clock.now + LONGEST_WAIT)
        watch(watchlist, 1)
        for _ in range(3):
            poll(poller, clock)
        assert [record.getMessage() for record in caplog.records] == ["a batch cannot be read: HTTP status 404"]

    def test_the_ref_probed_longest_ago_is_forgotten_beyond_a_thousand(
        self, poller: Poller, api: FakeApi, clock: Clock
    ) -> None:
        for number in range(MAX_REMEMBERED_PROBES + 1):
            api.answers[ref(number)] = batch(number, BatchStatus.SUCCESS)
            poller.probe(ref(number), clock.now + LONGEST_WAIT)
        api.take_asked()
        poller.probe(ref(1), clock.now + LONGEST_WAIT)
        poller.probe(ref(0), clock.now + LONGEST_WAIT)
        assert api.take_asked() == [ref(0)]

    def test_a_probe_never_changes_whether_the_api_is_up(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        api.answers[ref(1)] = PollError(Reason.CONNECTION)
        assert poller.probe(ref(1), clock.now + LONGEST_WAIT).api_up is None
        watch(watchlist, 2)
        assert poll(poller, clock).api_up is True
        assert poller.probe(ref(1), clock.now + LONGEST_WAIT).api_up is True

    def test_a_probe_waits_for_the_request_of_the_same_batch(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=4)
        watch(watchlist, 1)
        api.open.clear()
        deadline = clock.now + LONGEST_WAIT
        scrape = background.submit(poller.poll, deadline)
        api.wait_until_asked([ref(1)])
        assert failures(poller.probe(ref(1), clock.now)) == [Reason.DEADLINE]
        probe = Scrape(background, clock, partial(poller.probe, ref(1)))
        wait_until(lambda: len(poller._polls) == 2)
        api.open.set()
        assert failures(scrape.result()) == failures(probe.result()) == [None]
        assert api.take_asked() == [ref(1)]


outcomes = st.sampled_from(
    [
        *(batch(0, status) for status in BatchStatus),
        PollError.of_status(404),
        PollError.of_status(302),
        PollError(Reason.TIMEOUT),
        PollError(Reason.BAD_RESPONSE),
    ]
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.floats(min_value=0, max_value=2 * DAY),
            st.lists(st.tuples(st.integers(0, 5), outcomes), max_size=4),
            st.sets(st.integers(0, 5), min_size=1),
        ),
        max_size=12,
    )
)
def test_whatever_happens_a_snapshot_tells_only_what_was_seen(
    steps: list[tuple[float, list[tuple[int, object]], set[int]]],
) -> None:
    """Drive the poller with random answers, times and watch lists, and compare it with a model of a few lines."""
    api, watchlist, clock = FakeApi(), Lists(), Clock()
    poller = make_poller(api, watchlist, clock, concurrency=3)
    finished: dict[int, BatchStatus] = {}
    for seconds, changes, listed in steps:
        clock.now += seconds
        for number, outcome in changes:
            api.answers[ref(number)] = outcome if isinstance(outcome, Exception) else batch(number, outcome.status)  # type: ignore[attr-defined]
        watch(watchlist, *listed)
        finished = {number: status for number, status in finished.items() if number in listed}
        snapshot = poll(poller, clock)
        asked = api.take_asked()
        assert len(asked) == len(set(asked)), "a poll asks for a batch at most once"
        for number, state in zip(listed, snapshot.batches, strict=True):
            answer = api.answers.get(ref(number), batch(number))
            was_read = ref(number) in asked and not isinstance(answer, Exception)
            if was_read:
                finished.pop(number, None)
            if was_read and answer.status.finished:  # type: ignore[union-attr]
                finished[number] = answer.status  # type: ignore[union-attr]
            assert ref(number) in asked or number in finished, "an unfinished batch is asked in every poll"
            if number in finished:
                assert state.failure is None
                assert state.reading is not None
                assert state.reading.batch.status is finished[number]
            elif isinstance(answer, PollError):
                assert (state.reading, state.failure) == (None, answer.reason)
            else:
                assert state.reading is not None
                assert state.reading.batch == answer


class TestNoMoreThreads:
    @pytest.fixture
    def grant(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
        start = threading.Thread.start

        def grant(threads: int) -> None:
            left = iter(range(threads))

            def start_if_granted(thread: threading.Thread) -> None:
                if next(left, None) is None:
                    raise RuntimeError("can't start new thread")
                start(thread)

            monkeypatch.setattr(threading.Thread, "start", start_if_granted)

        return grant

    def test_the_threads_that_there_are_ask_for_everything(
        self, poller: Poller, watchlist: Lists, clock: Clock, grant: Callable[[int], None]
    ) -> None:
        watchlist.replace(WatchedBatch(ref=ref(number)) for number in range(5))
        grant(1)
        snapshot = poller.poll(clock.now + LONGEST_WAIT)
        assert [state.failure for state in snapshot.batches] == [None] * 5

    def test_without_any_the_poll_ends_at_once_and_the_next_one_is_well(
        self, poller: Poller, watchlist: Lists, clock: Clock, grant: Callable[[int], None]
    ) -> None:
        watchlist.replace(WatchedBatch(ref=ref(number)) for number in range(5))
        grant(0)
        snapshot = poller.poll(clock.now + LONGEST_WAIT)
        assert [state.failure for state in snapshot.batches] == [Reason.INTERNAL] * 5
        grant(5)
        snapshot = poller.poll(clock.now + LONGEST_WAIT)
        assert [state.failure for state in snapshot.batches] == [None] * 5


def test_a_poll_makes_nothing_anew_of_what_is_listed_as_before(poller: Poller, watchlist: Lists, clock: Clock) -> None:
    def watched() -> list[Watched]:
        return [state.watched for state in poller.poll(clock.now + LONGEST_WAIT).batches]

    watchlist.replace(WatchedBatch(ref=ref(number)) for number in range(3))
    before = watched()
    assert [new is old for new, old in zip(watched(), before, strict=True)] == [True] * 3
    watchlist.replace(WatchedBatch(ref=ref(number), feed="nightly-guests") for number in range(2))
    assert [each.feed for each in watched()] == ["nightly-guests"] * 2
