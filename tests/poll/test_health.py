"""Whether the API is up, by how requests end."""

import logging

import pytest

from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.poll.health import ApiHealth


def judged(health: ApiHealth, *errors: PollError | None, over: bool = True, refused: bool = False) -> bool | None:
    for error in errors:
        health.note(error)
    health.judge(over=over, credentials_refused=refused, skipped=refused)
    return health.up


@pytest.mark.parametrize(
    ("errors", "up"),
    [
        ([], None),
        ([None], True),
        ([PollError.of_status(404)], True),
        ([PollError.of_status(403)], True),
        ([None, PollError(Reason.TIMEOUT)], True),
        ([PollError(Reason.TIMEOUT), None], True),
        ([PollError.of_status(404), PollError.of_status(500)], True),
        ([PollError.of_status(500)], False),
        ([PollError(Reason.BAD_RESPONSE)], False),
        ([PollError(Reason.CONNECTION), PollError(Reason.TIMEOUT)], False),
        ([PollError(Reason.CREDENTIALS, "there is no password")], False),
        ([PollError.of_status(401)], False),
    ],
)
def test_the_api_is_down_when_every_request_failed_for_a_reason_that_is_not_the_batchs_own(
    errors: list[PollError | None],
    up: bool | None,  # noqa: FBT001  A column.
) -> None:
    assert judged(ApiHealth(), *errors) is up


def test_before_anything_has_failed_there_is_no_reason_to_be_down() -> None:
    assert ApiHealth().failure is None


def test_403_is_the_apis_own_when_it_refuses_us() -> None:
    assert judged(ApiHealth(), PollError.of_status(403), refused=True) is False


def test_to_skip_everything_after_a_refusal_is_to_be_down() -> None:
    health = ApiHealth()
    assert judged(health, None) is True
    assert judged(health, refused=True) is False


@pytest.mark.parametrize(("refused", "skipped"), [(True, False), (False, True)])
def test_a_refusal_changes_up_only_if_requests_were_skipped_and_a_skip_only_after_a_refusal(
    refused: bool,  # noqa: FBT001  A column.
    skipped: bool,  # noqa: FBT001  Likewise.
) -> None:
    health = ApiHealth()
    assert judged(health, None) is True
    health.judge(over=True, credentials_refused=refused, skipped=skipped)
    assert health.up is True


@pytest.mark.parametrize("status", [403, 404])
def test_the_list_has_no_403_or_404_of_its_own(status: int) -> None:
    health = ApiHealth()
    health.note(PollError.of_status(status), of_batch=False)
    assert judged(health) is False


@pytest.mark.parametrize("answer", [None, PollError.of_status(403)])
def test_a_success_counts_for_one_poll(answer: PollError | None) -> None:
    health = ApiHealth()
    assert judged(health, answer) is True
    assert judged(health, PollError(Reason.TIMEOUT)) is False


def test_what_was_refused_stays_the_reason_while_everything_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    health = ApiHealth()
    judged(health, PollError.of_status(401), refused=True)
    for _ in range(3):
        assert judged(health, refused=True) is False
    assert health.failure is Reason.UNAUTHORIZED
    assert len(caplog.records) == 1


@pytest.mark.parametrize("error", [PollError.of_status(401), PollError.of_status(403)])
def test_a_refusal_in_a_poll_that_had_successes_is_the_reason_once_everything_is_skipped(error: PollError) -> None:
    health = ApiHealth()
    assert judged(health, None, error, refused=True) is True
    assert health.failure is None
    assert judged(health, refused=True) is False
    assert health.failure is error.reason


def test_during_a_poll_only_successes_change_up() -> None:
    health = ApiHealth()
    assert judged(health, PollError(Reason.TIMEOUT), over=False) is None
    assert judged(health, over=True) is False
    assert judged(health, None, over=False) is True


def test_a_poll_without_an_ended_request_changes_nothing() -> None:
    health = ApiHealth()
    assert judged(health, PollError(Reason.TIMEOUT)) is False
    assert judged(health) is False
    assert judged(health, None) is True
    assert judged(health) is True


def test_a_request_that_ends_late_counts_for_the_next_judgement() -> None:
    health = ApiHealth()
    assert judged(health) is None
    health.note(PollError(Reason.TIMEOUT))
    assert judged(health) is False


def test_news_and_its_cause_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    health = ApiHealth()
    for errors in (
        [None],
        [None],
        [PollError(Reason.CREDENTIALS, "there is no password")],
        [PollError(Reason.CREDENTIALS, "there is no password")],
        [],
        [PollError.of_status(500), PollError(Reason.TIMEOUT, "no answer"), PollError(Reason.TIMEOUT, "no answer")],
        [None],
        [None],
    ):
        judged(health, *errors)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", "the Batch API is up"),
        ("WARNING", "cannot query the Batch API: there is no password"),
        ("WARNING", "the Batch API is down: no answer"),
        ("INFO", "the Batch API is up again"),
    ]


def test_a_log_line_has_the_reason_where_there_is_one(caplog: pytest.LogCaptureFixture) -> None:
    health = ApiHealth()
    judged(health, PollError(Reason.TIMEOUT, "no answer"))
    assert [record.__dict__.get("reason") for record in caplog.records] == ["timeout"]
    assert health.failure is Reason.TIMEOUT
    judged(health, None)
    assert health.failure is None
    caplog.clear()
    judged(health, refused=True)
    (record,) = caplog.records
    assert record.getMessage() == "the Batch API is down: it refuses the credentials"
    assert "reason" not in record.__dict__
