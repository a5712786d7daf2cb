"""The report of --once: outcomes, exit status, table and JSON."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.error_log import ErrorLog, RecordCause
from sitecore_cdp_exporter.api.errors import LogReason, Reason
from sitecore_cdp_exporter.poll.advice import WHY_BATCHES, WHY_RECORDS
from sitecore_cdp_exporter.poll.cause import FailureCause
from sitecore_cdp_exporter.poll.reading import Reading
from sitecore_cdp_exporter.poll.snapshot import BatchState, DiscoveryState, Snapshot
from sitecore_cdp_exporter.report import (
    ExitStatus,
    Outcome,
    exit_status,
    outcome_of,
    render_json,
    render_table,
    summary,
)
from sitecore_cdp_exporter.watch.watchlist import Watched
from tests.fake_api import ref
from tests.finished_batch import FINISHED_WITH_ERRORS, REF

NOW = 1745484364.0 + 2 * 3600 + 5 * 60 + 7


def state(status: BatchStatus, number: int = 1, /, **values: Any) -> BatchState:  # noqa: ANN401
    """Give a state; `values` are of it, or of its batch."""
    of_state = {name: values.pop(name) for name in [*values] if name in BatchState.__dataclass_fields__}
    batch = Batch(ref=ref(number), status=status, error_log_available=False, **values)
    return BatchState(watched=Watched(ref(number)), reading=Reading(batch, NOW), **of_state)


def unreadable(reason: Reason, number: int = 1) -> BatchState:
    return BatchState(watched=Watched(ref(number)), failure=reason)


ACCEPTED = state(BatchStatus.SUCCESS, 1, accepted=True, total_records=7, failed_records=0)
TOLERATED = state(BatchStatus.ERROR, 2, accepted=True, total_records=700, failed_records=1)
FAILED = state(BatchStatus.CORRUPTED, 3, accepted=False, cause=FailureCause.CHECKSUM_MALFORMED)
SUPERSEDED = replace(FAILED, superseded=True)
NOT_SUPERSEDED = replace(FAILED, superseded=False)
EXPIRED = state(BatchStatus.UPLOADING, 4, cause=FailureCause.UPLOAD_EXPIRED)
PROCESSING = state(BatchStatus.PROCESSING, 5)
NEW_STATUS = state(BatchStatus.UNKNOWN, 6)
NOT_FOUND = unreadable(Reason.NOT_FOUND, 7)
REFUSED = unreadable(Reason.UNAUTHORIZED, 8)
ONLY_LISTED = replace(state(BatchStatus.ERROR, 9), failure=Reason.TIMEOUT)
WITH_ERRORS = BatchState(
    watched=Watched(REF, "nightly-guests", {"team": "crm"}),
    reading=Reading(FINISHED_WITH_ERRORS, NOW),
    accepted=False,
    cause=FailureCause.RECORDS_REJECTED,
    error_log=ErrorLog({RecordCause.VALIDATION: 16, RecordCause.IDENTITY_MISSING: 300}),
)


def snapshot(*states: BatchState, **values: Any) -> Snapshot:  # noqa: ANN401  As in Snapshot.
    return Snapshot(batches=states, **{"api_up": True, "api_last_success": NOW, "poll_duration": 0.1, **values})


def discovery(failure: Reason | None, dropped: int = 0) -> DiscoveryState:
    return DiscoveryState(failure=failure, totals=None, dropped=dropped)


@pytest.mark.parametrize(
    ("given", "outcome"),
    [
        (ACCEPTED, "accepted"),
        (TOLERATED, "accepted"),
        (FAILED, "failed"),
        (NOT_SUPERSEDED, "failed"),
        (WITH_ERRORS, "failed"),
        (EXPIRED, "failed"),
        (SUPERSEDED, "superseded"),
        (PROCESSING, "unfinished"),
        (state(BatchStatus.UPLOADING), "unfinished"),
        (state(BatchStatus.FILE_UPLOADED), "unfinished"),
        (NEW_STATUS, "unfinished"),
        (NOT_FOUND, "unreadable"),
        (ONLY_LISTED, "unreadable"),
    ],
)
def test_the_outcome_of_a_batch(given: BatchState, outcome: str) -> None:
    assert outcome_of(given) == outcome


@pytest.mark.parametrize(
    ("states", "values", "status"),
    [
        ([ACCEPTED, TOLERATED, SUPERSEDED], {}, 0),
        ([ACCEPTED, FAILED], {}, 3),
        ([EXPIRED], {}, 3),
        ([ACCEPTED, PROCESSING], {}, 4),
        ([ACCEPTED, NEW_STATUS], {}, 4),
        ([ACCEPTED, NOT_FOUND], {}, 4),
        ([NOT_FOUND], {}, 4),
        # A failure is the worst news.
        ([FAILED, PROCESSING, NOT_FOUND], {}, 3),
        ([FAILED, REFUSED], {"api_up": False}, 3),
        ([FAILED], {"discovery": discovery(Reason.TIMEOUT)}, 3),
        # That nothing was read comes next.
        ([REFUSED, NOT_FOUND], {"api_up": False}, 1),
        ([], {"api_up": False, "discovery": discovery(Reason.UNAUTHORIZED)}, 1),
        ([ACCEPTED, REFUSED], {"api_up": False}, 4),
        ([PROCESSING, REFUSED], {"api_up": False}, 4),
        # Not everything is shown.
        ([ACCEPTED], {"discovery": discovery(Reason.TIMEOUT)}, 1),
        ([PROCESSING], {"discovery": discovery(Reason.TIMEOUT)}, 4),
        # An organisation may have no batches.
        ([], {"discovery": discovery(None)}, 0),
        ([ACCEPTED], {"discovery": discovery(None)}, 0),
    ],
)
def test_the_exit_status(states: Sequence[BatchState], values: dict[str, Any], status: int) -> None:
    assert exit_status(snapshot(*states, **values)) == status


@pytest.mark.parametrize(
    ("states", "status"), [([ACCEPTED], 1), ([], 1), ([FAILED], 3), ([PROCESSING], 4), ([NOT_FOUND], 4)]
)
def test_a_batch_file_with_a_mistake_is_no_success(states: Sequence[BatchState], status: int) -> None:
    assert exit_status(snapshot(*states), are_lists_good=False) == status


def test_the_table_shows_each_batch_the_worst_first() -> None:
    shown = snapshot(ACCEPTED, PROCESSING, NOT_FOUND, TOLERATED, WITH_ERRORS, SUPERSEDED)
    assert render_table(shown, NOW).split("\n\n")[0].splitlines() == [
        "FEED            REF                                   STATUS                  RECORDS  FAILED   AGE  WHY",
        (
            "nightly-guests  5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11  error                   121,776     316  2h5m  "
            "identity_missing 300, validation 16"
        ),
        f"-               {ref(7)}  -                             -       -     -  not_found",
        f"-               {ref(5)}  processing                    -       -     -  -",
        f"-               {ref(3)}  corrupted (superseded)        -       -     -  checksum_malformed",
        f"-               {ref(1)}  success                       7       0     -  -",
        f"-               {ref(2)}  error (accepted)            700       1     -  -",
    ]


@pytest.mark.parametrize(
    ("seconds", "age"),
    [
        (-5, "0s"),
        (0.4, "0s"),
        (59, "59s"),
        (60, "1m"),
        (3599, "59m59s"),
        (3601, "1h1s"),
        (86400, "1d"),
        (30 * 86400.0 + 7200 + 59, "30d2h"),
    ],
)
@pytest.mark.parametrize("field", ["created", "modified"])
def test_the_age_is_the_time_since_the_last_change(seconds: float, age: str, field: str) -> None:
    row = render_table(snapshot(state(BatchStatus.PROCESSING, **{field: NOW - seconds})), NOW).splitlines()[1]
    assert row.split()[-2:] == [age, "-"]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (replace(WITH_ERRORS, error_log=None), "records_rejected, error log not read"),
        (
            replace(WITH_ERRORS, error_log=None, error_log_failure=LogReason.EXPIRED),
            "records_rejected, error log not read: expired",
        ),
        (
            replace(WITH_ERRORS, error_log=ErrorLog({RecordCause.OTHER: 7000}, truncated=True)),
            "other 7,000, and more, not counted",
        ),
        (
            replace(WITH_ERRORS, error_log=ErrorLog({RecordCause.NOT_FOUND: 5, RecordCause.VALIDATION: 70})),
            "validation 70, not_found 5",
        ),
        (replace(WITH_ERRORS, error_log=ErrorLog({})), "records_rejected"),
        (EXPIRED, "upload_expired"),
        (ONLY_LISTED, "timeout"),
        (replace(ONLY_LISTED, failure=None), "its details were not read"),
        (PROCESSING, "-"),
    ],
)
def test_why(given: BatchState, why: str) -> None:
    row = render_table(snapshot(given), NOW).splitlines()[1]
    assert row.endswith(f"  {why}")


def test_each_cause_of_a_failure_is_explained_once_in_the_words_of_the_page() -> None:
    other = replace(WITH_ERRORS, watched=Watched(ref(1)))
    tolerated = replace(TOLERATED, error_log=ErrorLog({RecordCause.NOT_FOUND: 1}), cause=FailureCause.RECORDS_REJECTED)
    _, *rest, _ = render_table(snapshot(WITH_ERRORS, other, FAILED, tolerated), NOW).split("\n\n")
    causes = [
        (RecordCause.IDENTITY_MISSING, WHY_RECORDS[RecordCause.IDENTITY_MISSING]),
        (RecordCause.VALIDATION, WHY_RECORDS[RecordCause.VALIDATION]),
        (FailureCause.CHECKSUM_MALFORMED, WHY_BATCHES[FailureCause.CHECKSUM_MALFORMED]),
    ]
    assert max(len(line) for text in rest for line in text.splitlines()) in range(90, 101)
    assert all(line.startswith("    ") for text in rest for line in text.splitlines()[1:])
    unwrapped = [" ".join(text.split()) for text in rest]
    assert unwrapped == [f"{cause}: {advice.meaning} {advice.action}" for cause, advice in causes]


@pytest.mark.parametrize(
    ("states", "matcher"),
    [([EXPIRED, ACCEPTED], f"ref={ref(4)}"), ([EXPIRED, FAILED, SUPERSEDED], f"ref=~{ref(4)}|{ref(3)}")],
)
def test_one_command_silences_all_that_failed(states: Sequence[BatchState], matcher: str) -> None:
    command = render_table(snapshot(*states), NOW).partition("silence the alerts:\n")[2]
    assert shlex.split(command)[:3] == ["amtool", "silence", "add"]
    assert shlex.split(command)[-1] == matcher


def test_nothing_is_silenced_where_nothing_failed() -> None:
    text = render_table(snapshot(ACCEPTED, PROCESSING, NOT_FOUND, SUPERSEDED, TOLERATED), NOW)
    assert "amtool" not in text


def test_what_is_missing_from_the_table_is_said() -> None:
    notes = render_table(
        snapshot(
            REFUSED,
            api_up=False,
            api_failure=Reason.UNAUTHORIZED,
            discovery=discovery(Reason.SKIPPED, dropped=3),
            retired=1200,
        ),
        NOW,
    ).split("\n\n")[1:]
    assert notes == [
        "The Batch API refuses the credentials: unauthorized. Run with --log.level=warn for details.",
        "The list of batches could not be read, so there may be more: skipped.",
        "Left out because of discovery.max_batches: 3.",
        "Left out because they are past their retention: 1,200.",
    ]
    assert render_table(snapshot(), NOW) == "No batches."


@pytest.mark.parametrize(
    ("failure", "state_of_the_api"),
    [
        (Reason.CREDENTIALS, "was not asked: credentials"),
        (Reason.FORBIDDEN, "refuses the credentials: forbidden"),
        (Reason.TIMEOUT, "is down: timeout"),
        (None, "is down"),
    ],
)
def test_an_api_that_does_not_answer_is_described(failure: Reason | None, state_of_the_api: str) -> None:
    text = render_table(snapshot(REFUSED, api_up=False, api_failure=failure), NOW)
    assert f"\n\nThe Batch API {state_of_the_api}. " in text


@pytest.mark.parametrize(("feed", "columns"), [("guests", 6), ("夜間ゲスト", 10), ("\uff47", 2), ("cafe\u0301", 4)])
def test_columns_are_aligned_in_any_script(feed: str, columns: int) -> None:
    named, other = (replace(ACCEPTED, watched=Watched(ref(1), name)) for name in (feed, "much-longer-than-that"))
    heading, first, second = render_table(snapshot(named, other), NOW).splitlines()
    assert heading.index("REF") == second.index(ref(1)) == first.index(ref(1)) - len(feed) + columns


def test_a_name_from_the_config_cannot_control_the_terminal() -> None:
    feed = "a\x1b[2J\u202eb\r\u2028\U0001f600\ud800é"
    named = replace(ACCEPTED, watched=Watched(ref(1), feed, {"x": feed}))
    shown = render_table(snapshot(named), NOW).splitlines()[1]
    assert shown.startswith(r"a\x1b[2J\u202eb\r\u2028" + "\U0001f600" + r"\ud800é ")
    as_json = render_json(snapshot(named), ExitStatus.GOOD)
    assert all(character.isprintable() for line in as_json.splitlines() for character in line)
    assert json.loads(as_json)["batches"][0]["labels"] == {"x": feed}


def test_the_json_has_all_of_a_batch() -> None:
    shown = json.loads(render_json(snapshot(WITH_ERRORS), ExitStatus.FAILED))
    [batch] = shown.pop("batches")
    assert "ref=5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11" in shown.pop("silence_command")
    assert shown == {
        "exit_status": 3,
        "api_up": True,
        "api_failure": None,
        "discovery_failure": None,
        "dropped_batches": None,
        "retired_batches": 0,
    }
    assert batch == {
        "ref": "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11",
        "feed": "nightly-guests",
        "labels": {"team": "crm"},
        "outcome": "failed",
        "status": "error",
        "total_records": 121776,
        "succeeded_records": 121460,
        "failed_records": 316,
        "failure_cause": "records_rejected",
        "error_log_records": {"identity_missing": 300, "validation": 16},
        "error_log_truncated": False,
        "error_log_read_failure": None,
        "poll_failure": None,
        "created_timestamp_seconds": 1745483580.77,
        "modified_timestamp_seconds": 1745484364.0,
        "time_to_process_seconds": 614.867,
    }


def test_the_json_says_how_many_batches_are_left_out() -> None:
    shown = json.loads(render_json(snapshot(discovery=discovery(None, dropped=3), retired=1200), ExitStatus.GOOD))
    assert (shown["dropped_batches"], shown["retired_batches"]) == (3, 1200)


def test_the_json_has_a_line_for_each_value() -> None:
    assert render_json(snapshot(), ExitStatus.GOOD).splitlines()[:2] == ["{", '  "exit_status": 0,']


def test_the_json_has_the_same_keys_where_nothing_is_known() -> None:
    known, unknown = json.loads(
        render_json(
            snapshot(WITH_ERRORS, NOT_FOUND, api_failure=Reason.TIMEOUT, discovery=discovery(Reason.DEADLINE)),
            ExitStatus.FAILED,
        )
    )["batches"]
    assert [*unknown] == [*known]
    assert {name for name, value in unknown.items() if value is not None} == {
        "ref",
        "labels",
        "outcome",
        "poll_failure",
    }


def test_the_json_says_why_the_list_could_not_be_read_and_silences_nothing_that_has_not_failed() -> None:
    shown = json.loads(render_json(snapshot(ACCEPTED, discovery=discovery(Reason.DEADLINE)), ExitStatus.UNUSABLE))
    assert (shown["exit_status"], shown["discovery_failure"], shown["silence_command"]) == (1, "deadline", None)


def test_of_batches_that_are_alike_the_newest_comes_first() -> None:
    created = {1: None, 2: NOW - 50, 3: NOW - 10, 4: NOW - 90}
    states = [state(BatchStatus.PROCESSING, number, created=moment) for number, moment in created.items()]
    shown = json.loads(render_json(snapshot(*states), ExitStatus.OPEN))["batches"]
    assert [batch["ref"] for batch in shown] == [ref(3), ref(2), ref(4), ref(1)]


def test_the_summary_counts_outcomes() -> None:
    assert summary(snapshot(ACCEPTED, TOLERATED, PROCESSING, FAILED)) == "1 failed, 1 unfinished, 2 accepted"
    assert summary(snapshot()) == "no batches"
    assert {*Outcome} == {"failed", "unreadable", "unfinished", "superseded", "accepted"}
