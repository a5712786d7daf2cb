"""An answer that comes too late for its scrape is shown by the next one."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.model import ApiConfig, Config
from sitecore_cdp_exporter.poll.memory import MAX_AGE_OF_A_LATE_ANSWER
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.snapshot import Snapshot
from tests.fake_api import Clock, FakeApi, Lists, ref
from tests.poll.polling import (
    NOW,
    Hold,
    Scrape,
    failures,
    new_poller,
    poll,
    statuses,
    wait_for_poll_threads_to_end,
    watch,
)


class TestLateAnswers:
    """What comes too late for its scrape is shown by the next one."""

    @pytest.fixture
    def poller(self, api: FakeApi, watchlist: Lists, clock: Clock) -> Poller:
        watch(watchlist, 1)
        config = Config(api=ApiConfig(base_url="https://api.example", concurrency=1))
        return new_poller(api, config, clock, watchlist, wall_clock=lambda: NOW + clock.now)

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
            answered = NOW + clock.now
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
        api.answer(PollError(Reason.TIMEOUT), 1)
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
    def test_a_late_error_shows_its_reason_and_a_late_timeout_shows_nothing(
        self,
        poller: Poller,
        api: FakeApi,
        clock: Clock,
        background: ThreadPoolExecutor,
        error: PollError,
        shown: Reason,
    ) -> None:
        api.answer(error, 1)
        api.open.clear()
        self.too_late(Scrape(background, clock, poller.poll), api)
        assert failures(self.too_late(Scrape(background, clock, poller.poll), api)) == [shown]

    def test_a_scrape_that_left_its_poll_early_gets_the_late_answer(
        self, poller: Poller, api: FakeApi, clock: Clock, hold: Hold
    ) -> None:
        patient = hold(poller.poll, 1)
        assert failures(poller.poll(clock.now)) == [Reason.DEADLINE]
        api.open.set()
        assert statuses(patient.result()) == [BatchStatus.PROCESSING]
        assert statuses(poller.poll(clock.now)) == [BatchStatus.PROCESSING]

    def test_a_probe_shows_a_late_answer_too(
        self, poller: Poller, api: FakeApi, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        probe = partial(poller.probe, ref(1))
        api.open.clear()
        assert failures(self.too_late(Scrape(background, clock, probe), api)) == [Reason.DEADLINE]
        assert statuses(self.too_late(Scrape(background, clock, probe), api)) == [BatchStatus.PROCESSING]
