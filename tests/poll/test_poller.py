"""What a poll asks, in which order, by when, and what it may show."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.model import WatchedBatch
from sitecore_cdp_exporter.poll.poll import MAX_AGE_TO_JOIN
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.watch.watchlist import Watched
from tests.conditions import wait_until
from tests.fake_api import MAX_WAIT, Clock, FakeApi, Lists, batch, ref
from tests.poll.polling import (
    DAY,
    NOW,
    Hold,
    Scrape,
    failures,
    make_poller,
    poll,
    statuses,
    wait_for_poll_threads_to_end,
    watch,
)


class TestWhatIsAsked:
    def test_an_unfinished_batch_is_polled_every_time(
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
        assert (reading.batch.total_records, reading.polled) == (7, NOW)

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
        api.answer(BatchStatus.SUCCESS, 1)
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
        api.answer(BatchStatus.SUCCESS, 5, 6)
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
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        watch(watchlist, 1, 2)
        api.answer(PollError(Reason.TIMEOUT), 1, 2)
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
    @pytest.fixture
    def due(self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock) -> Poller:
        """A poller that has read one finished batch, whose re-check is due."""
        watch(watchlist, 1)
        api.answer(BatchStatus.SUCCESS, 1)
        poll(poller, clock)
        api.take_asked()
        clock.now += DAY
        return poller

    def test_a_finished_batch_is_polled_again_after_its_interval(self, due: Poller, api: FakeApi, clock: Clock) -> None:
        poll(due, clock)
        clock.now += DAY - 1
        api.take_asked()
        due.poll(clock.now)  # Too late for a request of the five-minute check.
        clock.now += 1
        poll(due, clock)
        assert api.take_asked() == [ref(1)]

    def test_first_rechecks_are_spread_over_the_second_half_of_the_interval(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        numbers = range(0, 2**32, 2**32 // 16)
        watch(watchlist, *numbers)
        api.answer(BatchStatus.SUCCESS, *numbers)
        poll(poller, clock)
        api.take_asked()
        asked = []
        for _ in range(96):
            clock.now += DAY / 96
            # Keeps the five-minute check away, which would ask for one in every poll.
            poller.probe(ref(9999), clock.now + MAX_WAIT)
            poll(poller, clock)
            asked.append([key for key in api.take_asked() if key != ref(9999)])
        assert not any(asked[:47])
        assert [len(refs) for refs in asked if refs] == [1] * 16

    def test_with_an_interval_of_zero_every_poll_requests_a_finished_batch(
        self, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        poller = make_poller(api, watchlist, clock, recheck_finished=0)
        watch(watchlist, 1)
        api.answer(BatchStatus.SUCCESS, 1)
        poll(poller, clock)
        poll(poller, clock)
        assert api.take_asked() == [ref(1), ref(1)]

    def test_a_failed_recheck_keeps_the_values_and_is_due_again_in_the_next_poll(
        self, due: Poller, api: FakeApi, clock: Clock
    ) -> None:
        api.answer(PollError(Reason.TIMEOUT), 1)
        for _ in range(2):
            snapshot = poll(due, clock)
            assert (statuses(snapshot), failures(snapshot)) == ([BatchStatus.SUCCESS], [None])
            assert snapshot.api_up is False
        assert api.take_asked() == [ref(1), ref(1)]

    def test_a_finished_batch_that_has_aged_out_of_the_api_is_not_polled_every_time(
        self, due: Poller, api: FakeApi, clock: Clock
    ) -> None:
        api.answer(PollError.of_status(404), 1)
        poll(due, clock)
        api.take_asked()
        snapshot = poll(due, clock)
        assert (statuses(snapshot), failures(snapshot)) == ([BatchStatus.SUCCESS], [None])
        assert snapshot.api_up is True
        assert api.take_asked() == []

    def test_a_batch_that_is_no_longer_finished_is_polled_again(self, due: Poller, api: FakeApi, clock: Clock) -> None:
        api.answer(BatchStatus.PROCESSING, 1)
        assert statuses(poll(due, clock)) == [BatchStatus.PROCESSING]
        api.answer(PollError(Reason.TIMEOUT), 1)
        assert statuses(poll(due, clock)) == [None]

    def test_after_five_quiet_minutes_the_finished_batch_read_longest_ago_is_polled(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        api.answer(BatchStatus.SUCCESS, 1, 2, 3)
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
        api.answer(BatchStatus.SUCCESS, 1)
        assert poll(poller, clock).api_up is True
        api.answer(PollError.of_status(401), 1)
        clock.now += 300
        snapshot = poll(poller, clock)
        assert snapshot.api_up is False
        assert statuses(snapshot) == [BatchStatus.SUCCESS]


class TestWhatIsShown:
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
        api.answer(error, 1)
        snapshot = poll(poller, clock)
        assert (statuses(snapshot), failures(snapshot)) == ([None], [reason])
        assert snapshot.api_up is api_up

    def test_a_raising_upstream_leaves_the_other_batches(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        watch(watchlist, 1, 2, 3)
        api.answer(KeyError("secret-in-a-message"), 2)
        snapshot = poll(poller, clock)
        assert failures(snapshot) == [None, Reason.INTERNAL, None]
        assert snapshot.api_up is True
        assert "secret-in-a-message" not in caplog.text
        assert "KeyError" in [vars(record).get("error") for record in caplog.records]

    def test_the_api_is_up_if_one_batch_could_be_read(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1, 2)
        api.answer(PollError.of_status(500), 1)
        assert poll(poller, clock).api_up is True

    def test_a_poll_without_requests_leaves_the_api_as_it_was(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1)
        api.answer(PollError(Reason.CONNECTION), 1)
        assert poller.poll(clock.now - 1).api_up is None
        assert poll(poller, clock).api_up is False
        assert poller.poll(clock.now - 1).api_up is False

    def test_the_last_success_is_the_time_of_the_last_reading(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1)
        api.answer(PollError.of_status(404), 1)
        assert poll(poller, clock).api_last_success is None
        del api.answers[ref(1)]
        assert poll(poller, clock).api_last_success == NOW

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
        api.answer(PollError.of_status(404), 1)
        for _ in range(3):
            poll(poller, clock)
        del api.answers[ref(1)]
        for _ in range(3):
            poll(poller, clock)
        api.answer(BatchStatus.SUCCESS, 1)
        poll(poller, clock)
        assert [record.getMessage() for record in caplog.records] == [
            "a batch cannot be read: HTTP status 404",
            "the Batch API is up",
            "a batch can be read again",
            "a batch has a new status",
        ]


class TestDeadlines:
    def test_what_is_missing_at_the_deadline_has_that_reason(
        self, poller: Poller, api: FakeApi, watchlist: Lists, hold: Hold
    ) -> None:
        watch(watchlist, 1, 2)
        scrape = hold(poller.poll, 1)
        assert failures(scrape.out_of_time()) == [Reason.DEADLINE, Reason.DEADLINE]
        api.open.set()
        wait_for_poll_threads_to_end()
        assert api.take_asked() == [ref(1)], "a poll that is over must ask for nothing more"

    @pytest.mark.parametrize(("answer", "up"), [(BatchStatus.PROCESSING, True), (PollError(Reason.TIMEOUT), False)])
    def test_a_request_that_outlives_its_poll_counts_for_the_api_when_it_ends(
        self,
        poller: Poller,
        api: FakeApi,
        watchlist: Lists,
        clock: Clock,
        hold: Hold,
        answer: BatchStatus | Exception,
        up: bool,  # noqa: FBT001  A column.
    ) -> None:
        watch(watchlist, 1)
        api.answer(answer, 1)
        scrape = hold(poller.poll, 1)
        assert scrape.out_of_time().api_up is None, "it is slow, or dead: nobody knows yet"
        api.open.set()
        wait_for_poll_threads_to_end()
        assert poller.poll(clock.now - 1).api_up is up

    def test_a_late_answer_of_a_finished_batch_serves_the_next_poll(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, hold: Hold
    ) -> None:
        watch(watchlist, 1)
        api.answer(BatchStatus.SUCCESS, 1)
        scrape = hold(poller.poll, 1)
        assert failures(scrape.out_of_time()) == [Reason.DEADLINE]
        api.open.set()
        wait_for_poll_threads_to_end()
        assert statuses(poller.poll(clock.now + MAX_WAIT)) == [BatchStatus.SUCCESS]
        assert api.take_asked() == [ref(1)]

    def test_a_request_under_way_is_waited_for_and_not_sent_twice(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor, hold: Hold
    ) -> None:
        watch(watchlist, 1)
        first = hold(poller.poll, 1)
        first.out_of_time()
        second = background.submit(poller.poll, clock.now + MAX_WAIT)
        third = background.submit(poller.probe, ref(1), clock.now + MAX_WAIT)
        api.open.set()
        assert statuses(second.result()) == statuses(third.result()) == [BatchStatus.PROCESSING]
        # The second poll may have begun after the answer to the first.
        assert len(api.take_asked()) <= 2

    def test_a_deadline_that_has_passed_asks_nothing_and_shows_what_is_known(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        api.answer(BatchStatus.SUCCESS, 1)
        watch(watchlist, 1, 2)
        poll(poller, clock)
        api.take_asked()
        snapshot = poller.poll(clock.now - 0.4)
        assert (statuses(snapshot), failures(snapshot)) == (
            [BatchStatus.SUCCESS, None],
            [None, Reason.DEADLINE],
        )
        assert api.take_asked() == []


class TestSharing:
    def test_scrapes_that_overlap_share_one_poll(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=4)
        watch(watchlist, 1, 2, 3)
        api.open.clear()
        deadline = clock.now + MAX_WAIT
        first = background.submit(poller.poll, deadline)
        api.wait_until_asked([ref(1), ref(2), ref(3)])
        others = [background.submit(poller.poll, deadline) for _ in range(20)]
        api.open.set()
        assert all(statuses(scrape.result()) == [BatchStatus.PROCESSING] * 3 for scrape in [first, *others])
        # A scrape that came after the end of the shared poll has begun one of its own.
        assert len(api.take_asked()) <= 6

    def test_a_short_deadline_does_not_shorten_a_shared_poll(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor, hold: Hold
    ) -> None:
        watch(watchlist, 1, 2)
        patient = hold(poller.poll, 1)
        assert failures(poller.poll(clock.now - 0.4)) == [Reason.DEADLINE] * 2
        hasty = background.submit(poller.poll, clock.now + 1)
        clock.now += 1
        assert failures(hasty.result(MAX_WAIT)) == [Reason.DEADLINE] * 2
        api.open.set()
        assert failures(patient.result()) == [None, None]
        assert sorted(api.take_asked()) == [ref(1), ref(2)]

    def test_a_longer_deadline_extends_the_poll_that_it_joins(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor, hold: Hold
    ) -> None:
        watch(watchlist, 1, 2)
        hasty = hold(poller.poll, 1)
        clock.now += 1
        (poll_of_both,) = poller._polls
        patient = Scrape(background, clock, poller.poll)
        wait_until(lambda: poll_of_both.deadline == clock.now + MAX_WAIT)
        assert failures(hasty.out_of_time()) == [Reason.DEADLINE] * 2
        api.open.set()
        assert failures(patient.result()) == [None, None]
        assert sorted(api.take_asked()) == [ref(1), ref(2)]

    def test_overlapping_scrapes_cannot_extend_one_poll_indefinitely(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=2)
        watch(watchlist, 1, 2, 3)
        api.open.clear()
        deadline = clock.now + MAX_WAIT
        first = background.submit(poller.poll, deadline)
        api.wait_until_at_once(2)
        clock.now += MAX_AGE_TO_JOIN
        second = background.submit(poller.poll, deadline)
        api.open.set()
        assert statuses(first.result()) == statuses(second.result()) == [BatchStatus.PROCESSING] * 3
        assert (first.result().poll_duration, second.result().poll_duration) == (MAX_AGE_TO_JOIN, 0.0)
        # What both waited for was asked once.
        assert sorted(set(api.asked)) == [ref(1), ref(2), ref(3)]

    def test_an_answer_serves_every_poll_that_waits_for_the_batch(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        watch(watchlist, *range(20))
        api.open.clear()
        polls = []
        for _ in range(3):
            polls.append(background.submit(poller.poll, clock.now + MAX_WAIT))
            api.wait_until_at_once(1)
            wait_until(lambda: len(poller._polls) == len(polls))
            clock.now += MAX_AGE_TO_JOIN
        api.open.set()
        assert all(failures(each.result()) == [None] * 20 for each in polls)
        assert len(api.take_asked()) == 20

    def test_a_scrape_that_leaves_early_does_not_report_the_api_down(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, hold: Hold
    ) -> None:
        watch(watchlist, 1)
        patient = hold(poller.poll, 1)
        assert poller.poll(clock.now).api_up is None
        api.open.set()
        assert patient.result().api_up is True

    def test_requests_under_way_never_exceed_the_concurrency_whoever_asks(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=4)
        watch(watchlist, *range(20))
        api.open.clear()
        deadline = clock.now + MAX_WAIT
        scrapes = [background.submit(poller.poll, deadline)]
        scrapes += [background.submit(poller.probe, ref(100 + number), deadline) for number in range(10)]
        api.wait_until_at_once(4)
        api.open.set()
        assert all(failure is None for scrape in scrapes for failure in failures(scrape.result()))
        assert api.max_at_once == 4

    def test_no_thread_outlives_its_poll(self, api: FakeApi, watchlist: Lists, clock: Clock) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=16)
        watch(watchlist, *range(50))
        for _ in range(5):
            poller.poll(clock.now + MAX_WAIT)
        wait_for_poll_threads_to_end()

    def test_stopping_returns_to_every_scrape_what_is_known(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor, hold: Hold
    ) -> None:
        watch(watchlist, 1, 2)
        scrape = hold(poller.poll, 1)
        probe = background.submit(poller.probe, ref(3), clock.now + MAX_WAIT)
        poller.stop()
        assert failures(scrape.result()) == [Reason.DEADLINE] * 2
        assert failures(probe.result()) == [Reason.DEADLINE]
        stopped = poller.poll(clock.now + MAX_WAIT)
        assert failures(stopped) == [Reason.DEADLINE] * 2
        assert stopped.api_up is None, "to stop says nothing of the API"
        api.open.set()
        wait_for_poll_threads_to_end()
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
def test_a_snapshot_shows_only_what_was_seen(
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

    def test_the_threads_that_could_be_started_poll_everything(
        self, poller: Poller, watchlist: Lists, clock: Clock, grant: Callable[[int], None]
    ) -> None:
        watch(watchlist, *range(5))
        grant(1)
        assert failures(poll(poller, clock)) == [None] * 5

    def test_without_any_thread_the_poll_ends_at_once_and_the_next_one_succeeds(
        self, poller: Poller, watchlist: Lists, clock: Clock, grant: Callable[[int], None]
    ) -> None:
        watch(watchlist, *range(5))
        grant(0)
        assert failures(poll(poller, clock)) == [Reason.INTERNAL] * 5
        grant(5)
        assert failures(poll(poller, clock)) == [None] * 5


def test_an_unchanged_watch_list_is_not_rebuilt(poller: Poller, watchlist: Lists, clock: Clock) -> None:
    def watched() -> list[Watched]:
        return [state.watched for state in poller.poll(clock.now + MAX_WAIT).batches]

    watch(watchlist, *range(3))
    before = watched()
    assert [new is old for new, old in zip(watched(), before, strict=True)] == [True] * 3
    watchlist.replace(WatchedBatch(ref=ref(number), feed="nightly-guests") for number in range(2))
    assert [each.feed for each in watched()] == ["nightly-guests"] * 2
