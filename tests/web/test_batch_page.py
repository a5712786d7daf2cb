import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.error_log import ErrorLog, RecordCause
from sitecore_cdp_exporter.api.errors import LogReason, Reason
from sitecore_cdp_exporter.config.model import WatchedBatch
from sitecore_cdp_exporter.poll.advice import RUNBOOK_URL, WHY_BATCHES, WHY_RECORDS
from sitecore_cdp_exporter.poll.cause import FailureCause
from sitecore_cdp_exporter.poll.reading import Reading
from sitecore_cdp_exporter.poll.snapshot import BatchState, Snapshot
from sitecore_cdp_exporter.watch.watchlist import Source, Watched
from sitecore_cdp_exporter.web.batch_page import render_batch_page, render_not_watched_page, state_of
from tests.finished_batch import FINISHED_WITH_ERRORS
from tests.web.page import Page
from tests.web.web_server_thread import WebServerThread, exporter_of
from tools.sandbox import Sandbox

REF = "12af3453-62da-4b31-b646-631b7b5f3009"
OTHER_REF = "3ee694e5-0b77-2d1e-af19-1aa78f500785"
EVIL = """</td><script>alert("1")</script>&amp;'{0}"""
NOW = 1_745_483_580.77  # 2025-04-24T08:33:00.77Z
FAILED = BatchState(
    watched=Watched(ref=REF, feed="nightly", labels={"team": "crm", "region": "eu"}, source=Source.DISCOVERY),
    reading=Reading(
        replace(
            FINISHED_WITH_ERRORS, ref=REF, size_bytes=3456789, created=NOW - 3600, modified=NOW - 60, upload_expiry=NOW
        ),
        NOW,
    ),
    accepted=False,
)


def render(state: BatchState) -> Page:
    return Page(render_batch_page(state))


def facts(state: BatchState) -> dict[str, str]:
    return {row[0]: row[1] for row in render(state).rows if len(row) == 2}


def with_status(status: BatchStatus, **values: Any) -> BatchState:  # noqa: ANN401  As in Batch.
    return BatchState(watched=Watched(REF), reading=Reading(Batch(ref=REF, status=status, **values), NOW))


def test_a_failed_batch_shows_all_that_is_known_of_it() -> None:
    assert facts(FAILED) == {
        "Status": "error since 2025-04-24 08:32:00 UTC",
        "Last poll": "ok",
        "Feed": "nightly",
        "Labels": "team=crm, region=eu",
        "Listed in": "discovery",
        "Records": "121,776",
        "Succeeded": "121,460",
        "Failed": "316",
        "Time to process": "614.9 s",
        "Size": "3,456,789 bytes",
        "Created": "2025-04-24 07:33:00 UTC",
        "Modified": "2025-04-24 08:32:00 UTC",
        "Upload URL expires": "2025-04-24 08:33:00 UTC",
        "Error log": "yes",
        "Read": "2025-04-24 08:33:00 UTC",
    }


@pytest.mark.parametrize("status", BatchStatus)
def test_what_is_not_known_is_left_out(status: BatchStatus) -> None:
    assert facts(with_status(status)) == {
        "Status": status,
        "Last poll": "ok",
        "Listed in": "config",
        "Read": "2025-04-24 08:33:00 UTC",
    }


def test_zero_is_known() -> None:
    shown = facts(with_status(BatchStatus.SUCCESS, total_records=0, failed_records=0, time_to_process_seconds=0.0))
    assert (shown["Records"], shown["Failed"], shown["Time to process"]) == ("0", "0", "0.0 s")


def test_what_was_never_modified_has_its_status_since_it_was_created() -> None:
    shown = facts(with_status(BatchStatus.UPLOADING, created=NOW))
    assert shown["Status"] == "uploading since 2025-04-24 08:33:00 UTC"


def test_a_batch_that_cannot_be_read_shows_why() -> None:
    assert facts(BatchState(watched=Watched(REF), failure=Reason.TIMEOUT)) == {
        "Last poll": "timeout",
        "Listed in": "config",
    }


def test_a_time_beyond_the_calendar_does_not_break_the_page() -> None:
    shown = facts(with_status(BatchStatus.ERROR, modified=253402300800.0))
    assert shown["Status"] == "error since 253402300800 UTC"


def why(state: BatchState) -> list[dict[str, str]]:
    """Return the rows of the causes, by column."""
    rows = render(state).rows
    heads = [number for number, row in enumerate(rows) if row[0] == "Cause"]
    return [dict(zip(rows[heads[0]], row, strict=True)) for row in rows[heads[0] + 1 :]] if heads else []


def test_the_causes_are_shown_with_what_to_do_the_most_frequent_first() -> None:
    log = ErrorLog({RecordCause.VALIDATION: 3, RecordCause.IDENTITY_MISSING: 1200, RecordCause.OTHER: 7})
    shown = why(replace(FAILED, cause=FailureCause.RECORDS_REJECTED, error_log=log))
    assert [(row["Cause"], row["Records"]) for row in shown] == [
        *(("records_rejected", ""), ("identity_missing", "1,200"), ("other", "7"), ("validation", "3")),
    ]
    identity = WHY_RECORDS[RecordCause.IDENTITY_MISSING]
    assert (shown[1]["What it means"], shown[1]["What to do"]) == identity


@pytest.mark.parametrize("cause", FailureCause)
def test_a_cause_leads_to_its_section_of_the_runbook(cause: FailureCause) -> None:
    state = replace(FAILED, cause=cause)
    assert [tuple(row.values()) for row in why(state)] == [(cause, "", *WHY_BATCHES[cause])]
    assert f"{RUNBOOK_URL}#{cause}" in render(state).links


def test_every_cause_has_advice() -> None:
    assert [*WHY_RECORDS] == [*RecordCause]
    assert [*WHY_BATCHES] == [*FailureCause]


@pytest.mark.parametrize(
    ("state", "note"),
    [
        (replace(FAILED, error_log_failure=LogReason.EXPIRED), "The error log was not read: expired"),
        (replace(FAILED, error_log=ErrorLog({}, truncated=True)), "The error log was counted only in part."),
        (FAILED, "The error log has not been read yet."),
        (replace(FAILED, error_log=ErrorLog({})), ""),
    ],
    ids=["failed", "truncated", "not yet", "read"],
)
def test_the_page_says_what_limits_the_counts(state: BatchState, note: str) -> None:
    _, _, text = render(replace(state, cause=FailureCause.RECORDS_REJECTED)).text.partition("What to do")
    assert note in text
    assert ("The error log" in text) == bool(note)


def test_what_has_not_failed_has_no_causes() -> None:
    accepted = replace(with_status(BatchStatus.SUCCESS), error_log=ErrorLog({}), accepted=True)
    for state in (accepted, with_status(BatchStatus.PROCESSING), BatchState(watched=Watched(REF))):
        assert "Why" not in render(state).text


@pytest.mark.parametrize(
    ("state", "is_silenced"),
    [
        (FAILED, True),
        (replace(with_status(BatchStatus.UPLOADING), cause=FailureCause.UPLOAD_EXPIRED), True),
        (replace(FAILED, accepted=True), False),
        (with_status(BatchStatus.PROCESSING), False),
        (BatchState(watched=Watched(REF)), False),
    ],
    ids=["failed", "expired", "accepted", "under way", "not polled"],
)
def test_a_failed_batch_has_the_command_that_silences_its_alerts(state: BatchState, is_silenced: bool) -> None:  # noqa: FBT001  A column of the table.
    page = render(state)
    assert ("amtool silence add" in page.text) == is_silenced
    assert ("Silence its alerts" in page.text) == is_silenced


def test_the_command_is_one_that_a_shell_can_run(tmp_path: Path) -> None:
    amtool = tmp_path / "amtool"
    amtool.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    amtool.chmod(0o755)
    _, _, rest = render_batch_page(FAILED).partition("<pre><code>")
    command = unescape(rest.partition("</code>")[0])
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", command], env={"PATH": path}, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        *("silence", "add", "--alertmanager.url=http://localhost:9093", "--duration=7d"),
        *("--comment=uploaded again", f"ref={REF}"),
    ]


def test_text_of_the_config_stays_text() -> None:
    state = replace(FAILED, watched=Watched(ref=REF, feed=EVIL, labels={"team": EVIL}))
    page = render(state)
    assert "script" not in page.elements
    assert (facts(state)["Feed"], facts(state)["Labels"]) == (EVIL, f"team={EVIL}")


def test_before_the_first_poll_the_watch_list_is_used_and_then_the_snapshot() -> None:
    watched = {REF: Watched(REF.upper())}
    assert state_of(REF.upper(), None, watched) == BatchState(watched=watched[REF])
    assert state_of(OTHER_REF, None, watched) is None
    snapshot = Snapshot(batches=(FAILED,), api_up=True, api_last_success=NOW, poll_duration=0.0)
    assert state_of(REF.upper(), snapshot, {}) == FAILED
    # What is listed and not in the snapshot is past its retention.
    assert state_of(OTHER_REF, snapshot, {OTHER_REF: Watched(OTHER_REF)}) is None


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        sandbox.put_batch(REF, status="error", total=3, failed=1, log=True)
        yield sandbox


@pytest.fixture
def exporter(sandbox: Sandbox) -> Iterator[WebServerThread]:
    with exporter_of(sandbox, [WatchedBatch(ref=REF)]) as exporter:
        yield exporter


def test_the_page_touches_no_upstream(sandbox: Sandbox, exporter: WebServerThread) -> None:
    assert "not polled yet" in exporter.get(f"/batches/{REF}").text
    assert sandbox.requests == []
    exporter.get("/metrics")
    asked = len(sandbox.requests)
    page = Page(exporter.get(f"/batches/{REF.upper()}").text)
    assert ["Failed", "1"] in page.rows
    assert len(sandbox.requests) == asked


@pytest.mark.parametrize("ref", [OTHER_REF, "x", "%3Cscript%3E", "a%2Fb", "x" * 5000])
def test_a_ref_that_is_not_watched_is_not_found_and_leads_to_the_list(exporter: WebServerThread, ref: str) -> None:
    for polled in (False, True):
        if polled:
            exporter.get("/metrics")
        response = exporter.get(f"/batches/{ref}")
        assert response.status_code == 404
        assert response.headers["Content-Type"] == "text/html; charset=utf-8"
        page = Page(response.text)
        assert page.links == ["/"]
        assert "script" not in page.elements
        assert response.text == render_not_watched_page()


def test_the_page_has_no_script_and_no_presigned_url(sandbox: Sandbox, exporter: WebServerThread) -> None:
    exporter.get("/metrics")
    response = exporter.get(f"/batches/{REF}")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    page = Page(response.text)
    assert "script" not in page.elements
    assert "Signature" not in response.text
    assert sandbox.base_url not in response.text
