"""A batch that nobody listed, in the eyes of the real Prometheus: from its upload until it has aged out."""

import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import requests
import yaml

from tests.e2e.uploads import batch_file, upload_command
from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, Exporter, running_exporter
from tools.prometheus_server import PrometheusServer, running_prometheus
from tools.sandbox import Sandbox

pytestmark = pytest.mark.e2e

PREFIX = "5a0c2f0e"
FEED = {
    "name": "nightly-guests",
    "labels": {"team": "crm"},
    "ref_prefix": PREFIX,
    "expect_success_every": "24h",
    "grace": "3h",
    "min_records": 10,
    "next_success_resolves": True,
}
# Of the successes, only the newest accepted batch of each feed is shown; failures are shown until the test says so.
RETENTION = {"succeeded": "0s", "failed": "1h"}
OVERDUE, UNSOLVED, TOO_SMALL = re.findall(
    r"(?s)\S.*?(?=\n\n|$)",
    re.findall(r"(?s)```promql\n(.*?)\n```", (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8"))[0],
)
DUE = 'sitecore_cdp_feed_due_timestamp_seconds{of="accepted"}'


@pytest.fixture
def fast_sandbox() -> Iterator[Sandbox]:
    """Run a sandbox that takes two seconds for a batch. Its time is that of the exporter, which retention needs."""
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, speed=20) as sandbox:
        yield sandbox


@pytest.fixture
def discovering_exporter(fast_sandbox: Sandbox, tmp_path: Path) -> Iterator[Exporter]:
    with running_exporter(
        fast_sandbox, tmp_path, discovery={"enabled": True}, feeds=[FEED], retention=RETENTION
    ) as exporter:
        yield exporter


@pytest.fixture
def its_prometheus(discovering_exporter: Exporter, tmp_path: Path) -> Iterator[PrometheusServer]:
    target = discovering_exporter.url.removeprefix("http://")
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "sitecore-cdp", "static_configs": [{"targets": [target]}]}],
    }
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with running_prometheus(path, directory=tmp_path, scraped=discovering_exporter.program) as server:
        yield server


def refs(prometheus: PrometheusServer, promql: str) -> list[str]:
    return [labels["ref"] for labels, _ in prometheus.query(promql)]


def set_retention(exporter: Exporter, config: Path, failed: str) -> None:
    """Change the retention of failed batches as an operator does, by a reload."""
    sections = yaml.safe_load(config.read_text(encoding="utf-8"))
    sections["retention"]["failed"] = failed
    config.write_text(yaml.safe_dump(sections), encoding="utf-8")
    exporter.program.process.send_signal(signal.SIGHUP)


@pytest.mark.usefixtures("credentials")
def test_a_batch_that_nobody_listed_fails_is_superseded_and_ages_out(
    fast_sandbox: Sandbox, discovering_exporter: Exporter, its_prometheus: PrometheusServer, tmp_path: Path
) -> None:
    prometheus = its_prometheus
    failed, accepted = (PREFIX + str(uuid4())[8:] for _ in range(2))
    prometheus.wait_for_query('sitecore_cdp_batches{status="error"} == 0')
    # It was just added, so it has its time, and is overdue after that.
    [(_, due)] = prometheus.query(DUE)
    assert prometheus.query(OVERDUE) == []
    assert len(prometheus.query(OVERDUE.replace("time()", f"{due + 1}"))) == 1
    start = time.time()

    upload = upload_command(fast_sandbox.base_url, failed, batch_file(tmp_path, good=9, bad=3))
    assert subprocess.run(upload, capture_output=True, check=False).returncode == 0
    [(labels, _)] = prometheus.wait_for_query(f'sitecore_cdp_batch_accepted{{ref="{failed}"}} == 0')
    assert (labels["feed"], labels["team"]) == ("nightly-guests", "crm")
    [(_, failed_records)] = prometheus.query(f'sitecore_cdp_batch_failed_records{{ref="{failed}"}}')
    assert failed_records == 3
    assert refs(prometheus, "sitecore_cdp_batch_superseded == 0") == [failed]
    assert refs(prometheus, UNSOLVED) == [failed]

    upload = upload_command(fast_sandbox.base_url, accepted, batch_file(tmp_path, good=5))
    assert subprocess.run(upload, capture_output=True, check=False).returncode == 0
    prometheus.wait_for_query(f'sitecore_cdp_batch_superseded{{ref="{failed}"}} == 1')
    prometheus.wait_for_query(f'sitecore_cdp_batch_accepted{{ref="{accepted}"}} == 1')
    [(_, due_later)] = prometheus.query(DUE)
    assert due_later > due
    assert prometheus.query(OVERDUE) == []
    assert prometheus.query(UNSOLVED) == []
    assert refs(prometheus, TOO_SMALL) == [accepted]

    # From now on its age alone decides.
    [(_, modified)] = prometheus.query(f'sitecore_cdp_batch_modified_timestamp_seconds{{ref="{failed}"}}')
    retention = int(time.time() - modified) + 5
    set_retention(discovering_exporter, tmp_path / "config.yaml", f"{retention}s")
    prometheus.wait_for_query("sitecore_cdp_retired_batches == 1")
    assert prometheus.query(f'{{ref="{failed}"}}') == []
    totals = {labels["status"]: count for labels, count in prometheus.query("sitecore_cdp_batches")}
    assert totals == {
        "uploading": 0, "file_uploaded": 0, "processing": 0, "success": 1, "corrupted": 0, "error": 1,
    }  # fmt: skip
    assert refs(prometheus, "sitecore_cdp_batch_accepted") == [accepted]
    # It was shown until it was over, and no longer. What a scrape shows is at most a second newer than its time, and
    # the last step is after the last scrape.
    history = {"start": start, "end": time.time() + 0.5, "step": 0.5}
    [(_, shown)] = prometheus.query_range(f'timestamp(sitecore_cdp_batch_poll_success{{ref="{failed}"}})', **history)
    assert max(scraped for _, scraped in shown) < modified + retention
    [(_, retired)] = prometheus.query_range("sitecore_cdp_retired_batches == 1", **history)
    assert min(moment for moment, _ in retired) + 1 > modified + retention


@pytest.mark.usefixtures("its_prometheus")
def test_promtool_finds_nothing_wrong_with_discovery_and_feeds(
    fast_sandbox: Sandbox, discovering_exporter: Exporter
) -> None:
    fast_sandbox.put_batch(PREFIX + str(uuid4())[8:], status="error", total=7, succeeded=4, failed=3, log=True)
    exposed = requests.get(f"{discovering_exporter.url}/metrics", timeout=30)
    assert "sitecore_cdp_batch_superseded{" in exposed.text
    assert "sitecore_cdp_batches{" in exposed.text
    linted = subprocess.run(["promtool", "check", "metrics"], input=exposed.content, capture_output=True, check=False)
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, b"", b"")
