"""From an uploader through the sandbox and the exporter into the real Prometheus."""

import subprocess
import time
from pathlib import Path

import pytest
import requests

from sitecore_cdp_exporter.sandbox.state import PROCESSING_TIME, QUEUE_TIME
from tests.e2e.stack import LISTED_REFS, PROBED_REF, SHIPPED_CONFIG, SteppedClock
from tests.e2e.upload_gate import upload_gate
from tests.e2e.uploads import batch_file, upload_command
from tools.program import MAX_WAIT, running
from tools.prometheus_server import PrometheusServer
from tools.sandbox import Sandbox

pytestmark = pytest.mark.e2e


def value(prometheus: PrometheusServer, metric: str, ref: str) -> float:
    """Return what Prometheus has as the value of this batch's metric now."""
    [(_, result)] = prometheus.query(f'{metric}{{ref="{ref}"}}')
    return result


def seen(status: str, ref: str) -> str:
    """Return the query that has a result once Prometheus has seen this batch in this state."""
    return f'sitecore_cdp_batch_status{{ref="{ref}", status="{status}"}} == 1'


@pytest.mark.usefixtures("credentials")
def test_prometheus_sees_an_uploaded_batch_in_each_of_its_states(
    sandbox: Sandbox, clock: SteppedClock, prometheus: PrometheusServer, tmp_path: Path
) -> None:
    ref = LISTED_REFS["uploaded"]
    start = time.time()
    prometheus.wait_for_query(f'sitecore_cdp_batch_poll_failure{{ref="{ref}", reason="not_found"}} == 1')
    file = batch_file(tmp_path, good=25)
    with (
        upload_gate(sandbox.base_url) as gate,
        running(upload_command(gate.url, ref, file), log=tmp_path / "upload.log") as upload,
    ):
        prometheus.wait_for_query(seen("uploading", ref))
        gate.opened.set()
        prometheus.wait_for_query(seen("file_uploaded", ref))
        clock.advance(QUEUE_TIME)
        prometheus.wait_for_query(seen("processing", ref))
        clock.advance(PROCESSING_TIME)
        prometheus.wait_for_query(seen("success", ref))
        assert upload.process.wait(MAX_WAIT) == 0, upload.output()

    # Steps are shorter than the scrape interval, and the last one is after the last scrape.
    step = 0.5
    history = prometheus.query_range(
        f'sitecore_cdp_batch_status{{ref="{ref}"}} == 1', start=start, end=time.time() + step, step=step
    )
    first_seen = {labels["status"]: values[0][0] for labels, values in history}
    assert sorted(first_seen, key=first_seen.__getitem__) == ["uploading", "file_uploaded", "processing", "success"]
    assert value(prometheus, "sitecore_cdp_batch_status_code", ref) == 3
    assert value(prometheus, "sitecore_cdp_batch_total_records", ref) == 25
    assert value(prometheus, "sitecore_cdp_batch_failed_records", ref) == 0
    assert value(prometheus, "sitecore_cdp_batch_size_bytes", ref) == file.stat().st_size


@pytest.mark.usefixtures("credentials")
def test_prometheus_sees_how_many_records_of_a_batch_failed(
    sandbox: Sandbox, clock: SteppedClock, prometheus: PrometheusServer, tmp_path: Path
) -> None:
    ref = LISTED_REFS["rejected"]
    command = upload_command(sandbox.base_url, ref, batch_file(tmp_path, good=9, bad=3))
    with running(command, log=tmp_path / "upload.log") as upload:
        prometheus.wait_for_query(seen("file_uploaded", ref))
        clock.advance(QUEUE_TIME + PROCESSING_TIME)
        prometheus.wait_for_query(seen("error", ref))
        assert upload.process.wait(MAX_WAIT) == 0, upload.output()
    assert value(prometheus, "sitecore_cdp_batch_total_records", ref) == 12
    assert value(prometheus, "sitecore_cdp_batch_succeeded_records", ref) == 9
    assert value(prometheus, "sitecore_cdp_batch_failed_records", ref) == 3
    assert value(prometheus, "sitecore_cdp_batch_error_log_available", ref) == 1


def test_the_exporter_is_up_in_the_eyes_of_prometheus(prometheus: PrometheusServer, exporter_address: str) -> None:
    [(labels, _)] = prometheus.wait_for_query('up{job="sitecore-cdp"} == 1')
    assert labels["instance"] == exporter_address


def test_a_batch_of_service_discovery_is_scraped_through_probe(
    sandbox: Sandbox, prometheus: PrometheusServer, exporter_address: str
) -> None:
    sandbox.put_batch(PROBED_REF, status="corrupted")
    [(labels, _)] = prometheus.wait_for_query(seen("corrupted", PROBED_REF))
    assert labels == {
        "__name__": "sitecore_cdp_batch_status",
        "job": "sitecore-cdp-probe",
        "instance": exporter_address,
        "ref": PROBED_REF,
        "team": "crm",
        "status": "corrupted",
    }
    assert prometheus.query(f'up{{job="sitecore-cdp-probe", ref="{PROBED_REF}", team="crm"}} == 1')
    assert prometheus.query('{exported_ref!=""}') == []
    # What docs/listing.md says of the cost.
    [(_, own_series)] = prometheus.query('count({job="sitecore-cdp-probe", __name__!~"sitecore_cdp_.*"})')
    assert own_series == 5


@pytest.mark.usefixtures("exporter")
@pytest.mark.parametrize("path", ["/metrics", f"/probe?target={LISTED_REFS['finished']}"])
def test_promtool_finds_nothing_wrong_with_what_is_exposed(path: str, sandbox: Sandbox, exporter_address: str) -> None:
    sandbox.put_batch(
        LISTED_REFS["finished"],
        status="error",
        total=121776,
        succeeded=121460,
        failed=316,
        time_to_process_millis=614867,
        log=True,
    )
    exposed = requests.get(f"http://{exporter_address}{path}", timeout=30)
    assert "sitecore_cdp_batch_failed_records{" in exposed.text
    linted = subprocess.run(["promtool", "check", "metrics"], input=exposed.content, capture_output=True, check=False)
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, b"", b"")


def test_promtool_accepts_the_shipped_config() -> None:
    checked = subprocess.run(
        ["promtool", "check", "config", SHIPPED_CONFIG], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
