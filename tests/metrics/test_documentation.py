"""docs/metrics.md names exactly what the exporter exposes."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import requests
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from sitecore_cdp_exporter.api.error_log import RecordCause
from sitecore_cdp_exporter.api.errors import LogReason, Reason
from sitecore_cdp_exporter.metrics.families import batch_families
from sitecore_cdp_exporter.poll.cause import FailureCause
from sitecore_cdp_exporter.poll.open_failure import FailureKind
from sitecore_cdp_exporter.poll.snapshot import BatchState, Snapshot
from sitecore_cdp_exporter.watch.watchlist import Watched
from tests.conditions import wait_until
from tests.exporter_program import API_TOKEN, CLIENT_KEY, Exporter, running_exporter
from tools.sandbox import Sandbox, faults

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"
FINISHED = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
LATER = "5a0c2f0e-36a4-4e2f-9a57-1f0d1a3f7c22"
UNREADABLE = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a13"
UNFINISHED = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a14"
TOLERATED = "7a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a15"
READ_LATER = {"sitecore_cdp_batch_error_log_records", "sitecore_cdp_batch_error_log_read_failure"}
MISSING = "439332a9-f837-496f-9e4a-87491689bb90"
FEED_LABELS = {"feed", "team"}
BATCH_LABELS = {"ref", "feed", "team"}


@dataclass(frozen=True)
class Row:
    name: str
    type: str
    labels: frozenset[str]
    field: str
    stability: str


def documented_rows() -> dict[str, Row]:
    rows = {}
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[0].startswith("`"):
            name, kind, labels, _, field, stability = cells
            rows[name.strip("`")] = Row(
                name.strip("`"), kind, frozenset(re.findall(r"`(\w+)`", labels)), field.strip("`"), stability
            )
    return rows


def values_in(heading: str) -> set[str]:
    section = DOCUMENT.read_text(encoding="utf-8").split(f"{heading}\n")[1].split("###")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Metric]:
    """Return the families of two real scrapes: of a feed with a superseded batch, and of an API that fails."""
    directory = tmp_path_factory.mktemp("exporter")
    (directory / "batches.yaml").write_text(f"[{{ref: {MISSING}, feed: nightly-guests}}]", encoding="utf-8")
    web_config = directory / "web-config.yml"
    web_config.write_text("http_server_config: {headers: {}}", encoding="utf-8")
    feed = {
        "name": "nightly-guests",
        "labels": {"team": "crm"},
        "expect_success_every": "24h",
        "next_success_resolves": True,
        "min_records": 10,
        "ref_prefix": "5a0c2f0e",
    }
    lenient = {"name": "lenient", "labels": {"team": "crm"}, "max_failed_ratio": 0.1, "ref_prefix": TOLERATED[:8]}
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(
            FINISHED,
            status="error",
            size=3456,
            total=121776,
            succeeded=121460,
            failed=316,
            time_to_process_millis=614867,
            log=True,
            created_at=an_hour_ago,
        )
        sandbox.put_batch(LATER, status="success", total=7, succeeded=7, failed=0, time_to_process_millis=9)
        sandbox.put_batch(UNFINISHED, status="processing")
        sandbox.put_batch(TOLERATED, status="error", total=100, succeeded=99, failed=1)
        # An empty log is none.
        sandbox.put_batch(UNREADABLE, status="error", total=7, succeeded=7, failed=0, log=True, created_at=an_hour_ago)
        with running_exporter(
            sandbox,
            directory,
            discovery={"enabled": True},
            feeds=[feed, lenient],
            batch_files=["batches.yaml"],
            flags=[f"--web.config.file={web_config}"],
        ) as exporter:
            wait_until(lambda: exporter.scrape().keys() >= READ_LATER)
            families = scrape(exporter)
            sandbox.set_fault(faults.Status(500))
            for name, family in scrape(exporter).items():
                families.setdefault(name, family).samples += family.samples
    # Between two scrapes every log was read.
    waiting = BatchState(watched=Watched(FINISHED, "nightly-guests", {"team": "crm"}), error_log_awaited=True)
    shown = batch_families(Snapshot(batches=(waiting,), api_up=True, api_last_success=None, poll_duration=0.0))
    return families | {family.name: family for family in shown if family.name not in families}


def scrape(exporter: Exporter) -> dict[str, Metric]:
    headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
    text = requests.get(f"{exporter.url}/metrics", headers=headers, timeout=60).text
    families = {}
    for family in text_string_to_metric_families(text):  # type: ignore[no-untyped-call]
        families[f"{family.name}_total" if family.type == "counter" else family.name] = family
    return families


def test_every_metric_is_documented_and_every_documented_metric_is_exposed(exposed: dict[str, Metric]) -> None:
    assert set(documented_rows()) == set(exposed)


def test_types_and_labels_are_those_that_are_documented(exposed: dict[str, Metric]) -> None:
    for name, row in documented_rows().items():
        family = exposed[name]
        labels = set().union(*(sample.labels for sample in family.samples)) - {"le"}
        if name.startswith("sitecore_cdp_batch_"):
            assert labels >= BATCH_LABELS, name
            labels -= BATCH_LABELS
        elif name.startswith("sitecore_cdp_feed_"):
            assert labels >= FEED_LABELS, name
            labels -= FEED_LABELS - {"feed"}
        assert (family.type, labels) == (row.type, set(row.labels)), name


def test_help_names_the_api_field_that_is_documented(exposed: dict[str, Metric]) -> None:
    for name, row in documented_rows().items():
        if row.field:
            assert row.field in exposed[name].documentation, name


def test_stability_is_stable_or_evolving() -> None:
    assert {row.stability for row in documented_rows().values()} == {"stable", "evolving"}


def test_every_reason_is_documented() -> None:
    assert values_in("### Reasons") == {*Reason, *LogReason}


def test_every_cause_and_kind_is_documented() -> None:
    assert values_in("### Causes of failed batches") == set(FailureCause)
    assert values_in("### Open failures") == set(FailureKind)
    assert values_in("### Causes of rejected records") == set(RecordCause)


def test_no_metric_shows_when_a_counter_was_created(exposed: dict[str, Metric]) -> None:
    assert not [sample for family in exposed.values() for sample in family.samples if sample.name.endswith("_created")]
