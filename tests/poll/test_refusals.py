"""An API that refuses the credentials, asks to wait, or is in trouble is asked no more than it must be."""

import pytest

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.poll.poller import Poller
from tests.fake_api import MAX_WAIT, Clock, FakeApi, Lists, ref
from tests.poll.polling import failures, make_poller, poll, watch


class TestRefusals:
    def test_after_a_401_the_rest_is_skipped_and_one_request_a_minute_is_sent(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1, 2, 3)
        api.answer(PollError.of_status(401), 1, 2, 3)
        assert failures(poll(poller, clock)) == [Reason.UNAUTHORIZED, Reason.SKIPPED, Reason.SKIPPED]
        clock.now += 59
        snapshot = poll(poller, clock)
        assert failures(snapshot) == [Reason.SKIPPED] * 3
        assert snapshot.api_up is False
        assert api.take_asked() == [ref(1)]
        clock.now += 1
        assert failures(poll(poller, clock)) == [Reason.SKIPPED, Reason.UNAUTHORIZED, Reason.SKIPPED]

    def test_after_a_successful_trial_the_poll_continues(self, api: FakeApi, watchlist: Lists, clock: Clock) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=4)
        watch(watchlist, *range(10))
        api.answer(PollError.of_status(401), *range(10))
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
        api.answer(PollError.of_status(401), 1, 2)
        poll(poller, clock)
        api.answers.clear()
        api.credentials = Credentials("client", "new token")
        assert failures(poll(poller, clock)) == [None, None]

    def test_probes_share_the_refusal(self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock) -> None:
        watch(watchlist, 1)
        api.answer(PollError.of_status(401), 1)
        poll(poller, clock)
        assert failures(poller.probe(ref(2), clock.now + MAX_WAIT)) == [Reason.SKIPPED]

    def test_three_403_at_the_start_of_a_poll_are_a_refusal_of_us(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, *range(6))
        api.answer(PollError.of_status(403), *range(6))
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
        api.answer(PollError.of_status(403), 0, 1, 3, 4)
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
        api.answer(PollError.of_status(403), 1, 2, 3)
        api.answer(BatchStatus.SUCCESS, 9)
        poll(poller, clock)
        for _ in range(2):
            snapshot = poll(poller, clock)
            assert failures(snapshot) == [None, *[Reason.FORBIDDEN] * 3]
            assert snapshot.api_up is True

    def test_no_request_before_retry_after_is_over(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1, 2)
        api.answer(PollError.of_status(429, 30), 1)
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
        api.answer(error, 1)
        assert failures(poll(poller, clock)) == [error.reason, None]


class TestAnApiInTrouble:
    """It answers 429 or 5xx to everything, and does not say how long to wait."""

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_it_gets_one_request_and_then_a_pause_that_grows_up_to_a_minute(
        self, api: FakeApi, watchlist: Lists, clock: Clock, status: int
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=16)
        watch(watchlist, *range(40))
        api.answer(PollError.of_status(status), *range(40))
        poll(poller, clock)
        assert len(api.take_asked()) == 40
        asked = []
        for _ in range(16):
            clock.now += 15
            snapshot = poll(poller, clock)
            asked.append(len(api.take_asked()))
            assert failures(snapshot).count(Reason.SKIPPED) == 40 - asked[-1]
            assert snapshot.api_up is False
        assert asked == [1, 1, 1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]

    def test_when_the_one_request_succeeds_the_rest_is_asked_in_the_same_poll(
        self, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=4)
        watch(watchlist, *range(20))
        api.answer(PollError.of_status(500), *range(20))
        poll(poller, clock)
        api.answers.clear()
        clock.now += 5
        api.take_asked()
        assert failures(poll(poller, clock)) == [None] * 20
        assert len(api.take_asked()) == 20

    def test_a_few_failing_batches_do_not_keep_a_new_one_from_being_polled(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1, 2, 3)
        poll(poller, clock)
        api.answer(PollError.of_status(500), 1, 2, 3)
        clock.now += 15
        poll(poller, clock)
        watch(watchlist, 1, 2, 3, 4)
        clock.now += 15
        assert failures(poll(poller, clock)) == [*[Reason.SERVER_ERROR] * 3, None]

    def test_one_success_makes_the_other_failures_those_of_their_batches(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, *range(6))
        api.answer(PollError.of_status(500), *range(5))
        for _ in range(3):
            assert failures(poll(poller, clock)) == [*[Reason.SERVER_ERROR] * 5, None]

    def test_a_poll_of_two_requests_needs_no_pause(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        watch(watchlist, 1, 2)
        api.answer(PollError.of_status(500), 1, 2)
        for _ in range(3):
            assert failures(poll(poller, clock)) == [Reason.SERVER_ERROR] * 2

    def test_a_probe_obeys_a_pause_but_does_not_start_one(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        api.answer(PollError.of_status(500), *range(9))
        for number in range(4):
            assert failures(poller.probe(ref(number), clock.now + MAX_WAIT)) == [Reason.SERVER_ERROR]
        watch(watchlist, 1, 2, 3)
        poll(poller, clock)
        assert failures(poller.probe(ref(8), clock.now + MAX_WAIT)) == [Reason.SKIPPED]
