"""What a refusal and a Retry-After ask of the client, by the clock."""

import pytest

from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.poll.backoff import Backoff

OLD = Credentials("client", "old token")
NEW = Credentials("client", "new token")


@pytest.fixture
def backoff() -> Backoff:
    return Backoff()


def test_requests_are_allowed_until_something_speaks_against_it(backoff: Backoff) -> None:
    assert backoff.allows(OLD, 0)
    assert not backoff.tries


def test_after_a_401_one_trial_a_minute_is_allowed(backoff: Backoff) -> None:
    backoff.record(OLD, PollError.of_status(401), 100)
    assert not backoff.allows(OLD, 159)
    assert backoff.allows(OLD, 160)
    assert backoff.tries
    backoff.begin_trial(160)
    backoff.record(OLD, PollError.of_status(401), 161)
    assert not backoff.allows(OLD, 220)
    assert backoff.allows(OLD, 221)


@pytest.mark.parametrize("outcome", [None, PollError.of_status(404)])
def test_an_answer_about_the_batch_shows_that_the_credentials_are_valid(
    backoff: Backoff, outcome: PollError | None
) -> None:
    backoff.record(OLD, PollError.of_status(401), 0)
    assert backoff.credentials_refused
    backoff.begin_trial(60)
    backoff.record(OLD, outcome, 61)
    assert not backoff.credentials_refused
    assert not backoff.tries
    assert backoff.allows(OLD, 61)


@pytest.mark.parametrize(
    "outcome",
    [
        PollError(Reason.TIMEOUT),
        PollError(Reason.CONNECTION),
        PollError.of_status(500),
        PollError(Reason.BAD_RESPONSE),
        PollError.of_status(403),
    ],
)
def test_a_trial_without_an_answer_about_the_credentials_leaves_them_refused(
    backoff: Backoff, outcome: PollError
) -> None:
    backoff.record(OLD, PollError.of_status(401), 0)
    backoff.begin_trial(60)
    backoff.record(OLD, outcome, 65)
    assert backoff.credentials_refused
    assert not backoff.allows(OLD, 119)
    assert backoff.allows(OLD, 120)


def test_changed_credentials_are_allowed_at_once(backoff: Backoff) -> None:
    backoff.record(OLD, PollError.of_status(401), 0)
    assert backoff.allows(NEW, 1)
    assert not backoff.tries
    assert not backoff.credentials_refused


def test_a_late_refusal_of_the_old_credentials_does_not_stop_the_new(backoff: Backoff) -> None:
    backoff.record(OLD, PollError.of_status(401), 0)
    assert backoff.allows(NEW, 1)
    backoff.record(OLD, PollError.of_status(401), 2)
    assert backoff.allows(NEW, 3)


@pytest.mark.parametrize("error", [PollError.of_status(429, 20), PollError.of_status(503, 20)])
def test_no_request_before_retry_after_is_over(backoff: Backoff, error: PollError) -> None:
    backoff.record(OLD, error, 100)
    assert not backoff.allows(OLD, 119.9)
    assert not backoff.allows(NEW, 119.9)
    assert backoff.allows(OLD, 120)


def test_a_shorter_retry_after_does_not_end_a_longer_one(backoff: Backoff) -> None:
    backoff.record(OLD, PollError.of_status(429, 60), 0)
    backoff.record(OLD, PollError.of_status(429, 1), 1)
    assert not backoff.allows(OLD, 59)


@pytest.mark.parametrize(
    "error",
    [PollError.of_status(429), PollError.of_status(503), PollError.of_status(500, 20), PollError.of_status(403, 20)],
)
def test_other_errors_ask_for_no_pause(backoff: Backoff, error: PollError) -> None:
    backoff.record(OLD, error, 0)
    assert backoff.allows(OLD, 0)


class TestAnApiInTrouble:
    def test_the_pause_between_two_trials_doubles_up_to_a_minute(self, backoff: Backoff) -> None:
        now = 0.0
        backoff.pause(now)
        for pause in (1, 2, 4, 8, 16, 32, 60, 60):
            assert not backoff.allows(OLD, now + pause - 0.1)
            now += pause
            assert backoff.allows(OLD, now)
            assert backoff.tries
            backoff.begin_trial(now)
            backoff.record(OLD, PollError.of_status(503), now)

    @pytest.mark.parametrize(
        "outcome", [None, PollError.of_status(404), PollError.of_status(403), PollError(Reason.BAD_RESPONSE)]
    )
    def test_any_other_answer_ends_it(self, backoff: Backoff, outcome: PollError | None) -> None:
        backoff.pause(0)
        backoff.begin_trial(5)
        backoff.record(OLD, outcome, 5)
        assert backoff.allows(OLD, 5)
        assert not backoff.tries
        backoff.pause(6)
        assert backoff.allows(OLD, 7), "it starts over"

    @pytest.mark.parametrize(
        "outcome",
        [
            PollError.of_status(429),
            PollError.of_status(500),
            PollError(Reason.TIMEOUT),
            PollError(Reason.CONNECTION),
            PollError(Reason.INTERNAL),
        ],
    )
    def test_no_answer_and_one_of_trouble_do_not(self, backoff: Backoff, outcome: PollError) -> None:
        backoff.pause(0)
        backoff.begin_trial(5)
        backoff.record(OLD, outcome, 6)
        assert backoff.tries
        assert not backoff.allows(OLD, 6.9)
        assert backoff.allows(OLD, 7)

    def test_more_bad_news_does_not_restart_it(self, backoff: Backoff) -> None:
        backoff.pause(0)
        backoff.begin_trial(5)
        backoff.pause(5)
        assert not backoff.allows(OLD, 6.9)

    def test_a_refusal_during_an_outage_is_retried_at_its_own_interval(self, backoff: Backoff) -> None:
        backoff.pause(0)
        backoff.record(OLD, PollError.of_status(401), 1)
        assert not backoff.allows(OLD, 60)
        assert backoff.allows(OLD, 61)
