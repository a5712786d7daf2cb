"""What a refusal and a Retry-After ask of the client, by the clock."""

import pytest

from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.poll.backoff import CircuitBreaker, Permission

OLD = Credentials("client", "old token")
NEW = Credentials("client", "new token")


@pytest.fixture
def breaker() -> CircuitBreaker:
    return CircuitBreaker()


def test_requests_are_granted_until_something_speaks_against_it(breaker: CircuitBreaker) -> None:
    assert [breaker.ask(OLD, now) for now in (0, 0, 1)] == [Permission.GRANTED] * 3


def test_after_a_401_one_request_a_minute_is_granted(breaker: CircuitBreaker) -> None:
    breaker.record(OLD, PollError.of_status(401), 100)
    assert breaker.ask(OLD, 159) is Permission.DENIED
    assert breaker.ask(OLD, 160) is Permission.GRANTED
    breaker.record(OLD, PollError.of_status(401), 161)
    assert breaker.ask(OLD, 220) is Permission.DENIED
    assert breaker.ask(OLD, 221) is Permission.GRANTED


def test_others_wait_for_the_outcome_of_a_trial(breaker: CircuitBreaker) -> None:
    breaker.record(OLD, PollError.of_status(401), 0)
    assert breaker.ask(OLD, 60) is Permission.GRANTED
    assert breaker.ask(OLD, 60) is Permission.WAIT
    breaker.record(OLD, None, 61)
    assert breaker.ask(OLD, 61) is Permission.GRANTED
    assert not breaker.credentials_refused


@pytest.mark.parametrize("outcome", [None, PollError.of_status(404)])
def test_an_answer_about_the_batch_shows_that_the_credentials_are_good(
    breaker: CircuitBreaker, outcome: PollError | None
) -> None:
    breaker.record(OLD, PollError.of_status(401), 0)
    breaker.ask(OLD, 60)
    breaker.record(OLD, outcome, 61)
    assert breaker.ask(OLD, 61) is Permission.GRANTED


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
    breaker: CircuitBreaker, outcome: PollError
) -> None:
    breaker.record(OLD, PollError.of_status(401), 0)
    breaker.ask(OLD, 60)
    breaker.record(OLD, outcome, 65)
    assert breaker.credentials_refused
    assert breaker.ask(OLD, 119) is Permission.DENIED
    assert breaker.ask(OLD, 120) is Permission.GRANTED


def test_changed_credentials_are_granted_at_once(breaker: CircuitBreaker) -> None:
    breaker.record(OLD, PollError.of_status(401), 0)
    assert breaker.ask(NEW, 1) is Permission.GRANTED
    assert not breaker.credentials_refused


def test_a_late_refusal_of_the_old_credentials_does_not_stop_the_new(breaker: CircuitBreaker) -> None:
    breaker.record(OLD, PollError.of_status(401), 0)
    assert breaker.ask(NEW, 1) is Permission.GRANTED
    breaker.record(OLD, PollError.of_status(401), 2)
    assert breaker.ask(NEW, 3) is Permission.GRANTED


@pytest.mark.parametrize("error", [PollError.of_status(429, 20), PollError.of_status(503, 20)])
def test_no_request_before_retry_after_is_over(breaker: CircuitBreaker, error: PollError) -> None:
    breaker.record(OLD, error, 100)
    assert breaker.ask(OLD, 119.9) is Permission.DENIED
    assert breaker.ask(NEW, 119.9) is Permission.DENIED
    assert breaker.ask(OLD, 120) is Permission.GRANTED


def test_a_shorter_retry_after_does_not_end_a_longer_one(breaker: CircuitBreaker) -> None:
    breaker.record(OLD, PollError.of_status(429, 60), 0)
    breaker.record(OLD, PollError.of_status(429, 1), 1)
    assert breaker.ask(OLD, 59) is Permission.DENIED


@pytest.mark.parametrize(
    "error",
    [PollError.of_status(429), PollError.of_status(503), PollError.of_status(500, 20), PollError.of_status(403, 20)],
)
def test_other_errors_ask_for_no_pause(breaker: CircuitBreaker, error: PollError) -> None:
    breaker.record(OLD, error, 0)
    assert breaker.ask(OLD, 0) is Permission.GRANTED
