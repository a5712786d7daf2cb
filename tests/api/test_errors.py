"""PollError and its reasons: plain data, which anything may import."""

import subprocess
import sys

import pytest

from sitecore_cdp_exporter.api.errors import (
    BATCH_REASONS,
    NO_ANSWER_REASONS,
    NOT_ASKED_REASONS,
    PollError,
    Reason,
)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (401, Reason.UNAUTHORIZED),
        (403, Reason.FORBIDDEN),
        (404, Reason.NOT_FOUND),
        (429, Reason.RATE_LIMITED),
        (500, Reason.SERVER_ERROR),
        (599, Reason.SERVER_ERROR),
        *((status, Reason.HTTP_ERROR) for status in (201, 204, 302, 304, 400, 407, 499, 600, 999)),
    ],
)
def test_a_status_other_than_200_has_a_reason(status: int, reason: Reason) -> None:
    error = PollError.of_status(status, 7.0)
    assert (error.reason, error.status, error.retry_after, f"{error}") == (reason, status, 7.0, f"HTTP status {status}")


def test_an_error_without_a_message_shows_its_reason() -> None:
    error = PollError(Reason.TIMEOUT)
    assert (f"{error}", error.status, error.retry_after) == ("timeout", None, None)


def test_no_reason_is_of_two_kinds() -> None:
    assert len(BATCH_REASONS | NOT_ASKED_REASONS | NO_ANSWER_REASONS) == 8


def test_plain_data_imports_nothing_heavy() -> None:
    heavy = {"requests", "urllib3", "aiohttp", "prometheus_client"}
    plain = ", ".join(f"sitecore_cdp_exporter.{module}" for module in ("poll.snapshot", "api.batch", "api.errors"))
    code = f"import sys, {plain}; print(*sorted({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
