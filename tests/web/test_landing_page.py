from collections.abc import Iterator
from dataclasses import replace

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.errors import Reason
from sitecore_cdp_exporter.config.model import ApiConfig, FeedConfig, WatchedBatch
from sitecore_cdp_exporter.poll.advice import RUNBOOK_URL
from sitecore_cdp_exporter.poll.cause import FailureCause
from sitecore_cdp_exporter.poll.due import Due
from sitecore_cdp_exporter.poll.reading import Reading
from sitecore_cdp_exporter.poll.snapshot import BatchState, DiscoveryState, FeedState, Snapshot
from sitecore_cdp_exporter.watch.watchlist import Watched
from sitecore_cdp_exporter.web.landing_page import MAX_ROWS, render_landing_page
from tests.web.page import Page
from tests.web.web_server_thread import WebServerThread, exporter_of
from tools.sandbox import Sandbox, faults

REF = "12af3453-62da-4b31-b646-631b7b5f3009"
EVIL = """</td><script>alert("1")</script>&amp;'{0}"""
NOW = 1_745_483_580.77  # 2025-04-24T08:33:00.77Z
API = ApiConfig(base_url="https://api-engage-eu.sitecorecloud.io", endpoint="inspect")


def snapshot(*states: BatchState, api_up: bool | None = True) -> Snapshot:
    return Snapshot(batches=states, api_up=api_up, api_last_success=NOW if api_up else None, poll_duration=0.25)


def state(
    status: BatchStatus = BatchStatus.PROCESSING, *, watched: Watched | None = None, **fields: float
) -> BatchState:
    batch = Batch(
        ref=REF,
        status=status,
        error_log_available=False,
        total_records=int(fields["total"]) if "total" in fields else None,
        failed_records=int(fields["failed"]) if "failed" in fields else None,
        time_to_process_seconds=fields.get("seconds"),
        modified=fields.get("modified"),
    )
    return BatchState(watched=watched or Watched(REF), reading=Reading(batch, NOW))


def render(found: Snapshot | None, watched: list[Watched] | None = None) -> Page:
    return Page(render_landing_page(found, watched or [], API, "/metrics", NOW))


def test_a_finished_batch_shows_its_numbers() -> None:
    watched = Watched(ref=REF, feed="nightly", labels={"team": "crm", "region": "eu"})
    found = state(BatchStatus.ERROR, watched=watched, total=121776, failed=316, seconds=614.867, modified=NOW)
    page = render(snapshot(found))
    assert page.cells == [
        {
            "Feed": "nightly",
            "Ref": REF,
            "Status": "error",
            "Records": "121,776",
            "Failed": "316",
            "Time to process": "614.9 s",
            "Modified (UTC)": "2025-04-24 08:33:00",
            "Last poll (UTC)": "ok, 2025-04-24 08:33:00",
            "Labels": "team=crm, region=eu",
        }
    ]
    assert "Batch API: https://api-engage-eu.sitecorecloud.io, endpoint inspect. up Last" in page.text
    assert "Last successful answer: 2025-04-24 08:33:00 UTC. Last poll took 0.250 s." in page.text


@pytest.mark.parametrize("status", BatchStatus)
def test_what_is_not_known_is_empty(status: BatchStatus) -> None:
    (row,) = render(snapshot(state(status))).cells
    assert row["Status"] == status
    assert [row[name] for name in ("Records", "Failed", "Time to process", "Modified (UTC)", "Feed", "Labels")] == [
        ""
    ] * 6


def test_zero_is_not_empty() -> None:
    (row,) = render(snapshot(state(BatchStatus.SUCCESS, total=0, failed=0, seconds=0.0))).cells
    assert (row["Records"], row["Failed"], row["Time to process"]) == ("0", "0", "0.0 s")


@pytest.mark.parametrize("reason", Reason)
def test_a_failing_batch_shows_its_reason(reason: Reason) -> None:
    page = render(snapshot(BatchState(watched=Watched(REF), failure=reason), api_up=False))
    assert (page.cells[0]["Ref"], page.cells[0]["Status"], page.cells[0]["Last poll (UTC)"]) == (REF, "", reason)
    assert "Last successful answer: never." in page.text


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        (Reason.UNAUTHORIZED, "refuses the credentials: unauthorized"),
        (Reason.TIMEOUT, "is down: timeout"),
        (Reason.CREDENTIALS, "was not asked: credentials"),
        (None, "is down"),
    ],
)
def test_the_page_says_why_the_api_is_down(reason: Reason | None, shown: str) -> None:
    page = render(replace(snapshot(api_up=False), api_failure=reason))
    assert f"endpoint inspect. It {shown}" in page.text


def test_what_needs_attention_comes_first() -> None:
    def found(
        status: BatchStatus, created: int, *, accepted: bool | None = None, superseded: bool | None = None
    ) -> BatchState:
        batch = Batch(ref=REF, status=status, created=created)
        watched = Watched(f"{status}-{created}")
        return BatchState(watched=watched, reading=Reading(batch, NOW), accepted=accepted, superseded=superseded)

    states = [
        found(BatchStatus.SUCCESS, 9, accepted=True),
        found(BatchStatus.ERROR, 8, accepted=True),
        found(BatchStatus.CORRUPTED, 7, superseded=True),
        found(BatchStatus.PROCESSING, 1),
        found(BatchStatus.UPLOADING, 6),
        found(BatchStatus.ERROR, 2, accepted=False),
        found(BatchStatus.CORRUPTED, 3, accepted=False, superseded=False),
        BatchState(watched=Watched("unread"), failure=Reason.TIMEOUT),
        replace(found(BatchStatus.UPLOADING, 1), cause=FailureCause.UPLOAD_EXPIRED),
    ]
    page = render(snapshot(*states))
    assert [row["Ref"] for row in page.cells] == [
        *("corrupted-3", "error-2", "uploading-1"),
        *("uploading-6", "processing-1", "unread"),
        *("success-9", "error-8", "corrupted-7"),
    ]
    assert [row["Status"] for row in page.cells][2:4] == ["uploading expired", "uploading"]


@pytest.mark.parametrize(
    ("config", "due", "shown"),
    [
        ({}, None, "nothing expected"),
        ({"expect_success_every": 3600.0}, None, "not everything was read yet"),
        ({"expect_success_every": 3600.0}, NOW + 600, "due by 2025-04-24 08:43:00 UTC"),
        ({"expect_success_every": 3600.0}, NOW - 400, "overdue since 2025-04-24 08:26:20 UTC"),
        ({"expect_success_by": {"time": "23:30"}}, NOW + 1400, "due by 2025-04-24 08:56:20 UTC"),
    ],
)
def test_feeds_are_shown_with_their_state(config: dict[str, object], due: float | None, shown: str) -> None:
    feed = FeedState(
        feed=FeedConfig.model_validate({"name": "nightly", **config}),
        last_accepted=NOW - 3000,
        due=None if due is None else Due(finished=NOW + 9999, accepted=due),
    )
    failed = state(BatchStatus.ERROR, watched=Watched(REF, feed="nightly"), total=800, failed=24)
    page = render(replace(snapshot(failed), feeds=(feed,)))
    assert [(row["Feed"], row["State"], row["Newest batch"]) for row in page.feeds] == [
        ("nightly", shown, "error 24 of 800 records failed")
    ]


def test_the_page_refreshes_itself() -> None:
    page = render_landing_page(None, [], API, "/metrics", NOW)
    assert '<meta http-equiv="refresh" content="10">' in page


@pytest.mark.parametrize(
    ("failure", "shown"), [(None, "List of batches: read."), (Reason.TIMEOUT, "List of batches: not read (timeout).")]
)
def test_discovery_shows_whether_the_list_was_read(failure: Reason | None, shown: str) -> None:
    discovery = DiscoveryState(failure=failure, totals=None, dropped=0)
    assert shown in render(replace(snapshot(), discovery=discovery)).text
    assert "List of batches" not in render(snapshot()).text


def test_before_the_first_poll_the_watch_list_is_shown() -> None:
    page = render(None, [Watched(ref=REF, feed="nightly")])
    assert [(row["Feed"], row["Ref"], row["Last poll (UTC)"]) for row in page.cells] == [
        ("nightly", REF, "not polled yet")
    ]
    assert "Nothing was polled yet" in page.text


def test_text_of_the_config_stays_text() -> None:
    watched = Watched(ref=REF, feed=EVIL, labels={"team": EVIL})
    for page in (render(None, [watched]), render(snapshot(state(watched=watched)))):
        assert "script" not in page.elements
        assert [(row["Feed"], row["Labels"]) for row in page.cells] == [(EVIL, f"team={EVIL}")]


def test_the_telemetry_path_stays_text() -> None:
    path = '/"><script>'
    page = Page(render_landing_page(None, [], API, path, NOW))
    assert "script" not in page.elements
    assert page.links[0] == path


def test_the_page_leads_to_the_metrics_the_health_and_the_runbook() -> None:
    assert render(None).links == ["/metrics", "/-/healthy", "/-/ready", RUNBOOK_URL]


@pytest.mark.parametrize("polled", [True, False])
def test_of_very_many_batches_the_first_are_shown(polled: bool) -> None:  # noqa: FBT001  A column of the table.
    watched = [Watched(ref=f"12af3453-62da-4b31-b646-{number:012}") for number in range(5000)]
    states = [state(watched=batch) for batch in watched]
    page = render(snapshot(*states) if polled else None, watched)
    assert [row["Ref"] for row in page.cells] == [batch.ref for batch in watched[:MAX_ROWS]]
    assert "Watched batches: 5000, of which 1000 are shown" in page.text


@pytest.mark.parametrize("modified", [-62135647200.0, 253402300800.0])
def test_a_time_beyond_the_calendar_does_not_break_the_page(modified: float) -> None:
    (row,) = render(snapshot(state(modified=modified))).cells
    assert row["Modified (UTC)"] == f"{modified:.0f}"


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        sandbox.put_batch(REF, status="success", total=3, failed=0, log=True)
        yield sandbox


@pytest.fixture
def exporter(sandbox: Sandbox) -> Iterator[WebServerThread]:
    with exporter_of(sandbox, [WatchedBatch(ref=REF)], telemetry_path="/batch/metrics") as exporter:
        yield exporter


def test_the_page_touches_no_upstream(sandbox: Sandbox, exporter: WebServerThread) -> None:
    assert [row["Last poll (UTC)"] for row in Page(exporter.get("/").text).cells] == ["not polled yet"]
    assert sandbox.requests == []
    exporter.get("/batch/metrics")
    assert [row["Status"] for row in Page(exporter.get("/").text).cells] == ["success"]
    assert len(sandbox.requests) == 1


def test_the_page_shows_a_poll_that_failed(sandbox: Sandbox, exporter: WebServerThread) -> None:
    sandbox.set_fault(faults.Status(500))
    exporter.get("/batch/metrics")
    assert [row["Last poll (UTC)"] for row in Page(exporter.get("/").text).cells] == ["server_error"]


def test_a_probe_does_not_change_the_page(exporter: WebServerThread) -> None:
    before = exporter.get("/").text
    exporter.get("/probe?target=3ee694e5-0b77-2d1e-af19-1aa78f500785")
    assert exporter.get("/").text == before


def test_the_page_is_html_without_script_and_its_links_work(exporter: WebServerThread) -> None:
    response = exporter.get("/")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    assert response.headers["Content-Security-Policy"].startswith("default-src 'none'; style-src 'unsafe-inline'")
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    page = Page(response.text)
    assert "script" not in page.elements
    assert f"/batches/{REF}" in page.links
    for link in set(page.links) - {RUNBOOK_URL}:
        assert exporter.get(link).status_code == 200


def test_the_page_holds_no_presigned_url(sandbox: Sandbox, exporter: WebServerThread) -> None:
    sandbox.put_batch(REF, status="error", total=3, failed=1, log=True)
    exporter.get("/batch/metrics")
    page = exporter.get("/").text.replace(RUNBOOK_URL, "")
    assert "Signature" not in page
    assert page.count(sandbox.base_url) == 1
    assert page.count("http") == 1 + page.count("http-equiv")
