"""Prometheus with a target as the operator makes it of the ServiceMonitor: all labels keep their names."""

from pathlib import Path

import pytest
import yaml

from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, running_exporter
from tools.prometheus_server import running_prometheus
from tools.sandbox import Sandbox

pytestmark = pytest.mark.e2e

REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
SERVICE_MONITOR = ROOT / "deploy" / "kubernetes" / "service-monitor.yaml"
# What the operator puts on a target before the relabelings of the monitor.
TARGET_LABELS = {
    "job": "sitecore-cdp-batch-exporter",
    "namespace": "monitoring",
    "service": "sitecore-cdp-batch-exporter",
    "pod": "sitecore-cdp-batch-exporter-6c9f7d5b8-x2x7k",
    "container": "exporter",
    "endpoint": "metrics",
}


def test_the_labels_of_the_exporter_keep_their_names(tmp_path: Path) -> None:
    [endpoint] = yaml.safe_load(SERVICE_MONITOR.read_text(encoding="utf-8"))["spec"]["endpoints"]
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(REF, status="success", total=7)
        batches = [{"ref": REF, "feed": "nightly-guests", "labels": {"team": "crm"}}]
        with running_exporter(sandbox, tmp_path, batches=batches) as exporter:
            address = exporter.url.removeprefix("http://")
            job = {
                "job_name": "operator",
                "metrics_path": endpoint["path"],
                "honor_labels": endpoint["honorLabels"],
                "static_configs": [{"targets": [address], "labels": TARGET_LABELS}],
                # Only `action` and `regex` are used, which are called the same in both.
                "relabel_configs": endpoint["relabelings"],
            }
            # Shorter than those of the monitor, so that the first scrape comes soon.
            limits = {"scrape_interval": "1s", "scrape_timeout": "1s"}
            config = tmp_path / "prometheus.yml"
            config.write_text(yaml.safe_dump({"global": limits, "scrape_configs": [job]}), encoding="utf-8")
            with running_prometheus(config, directory=tmp_path, scraped=exporter.program) as prometheus:
                prometheus.wait_for_query('sitecore_cdp_batch_status{status="success", team="crm"} == 1')
                series = prometheus.query('{job="sitecore-cdp-batch-exporter"}')
    names = {name for labels, _ in series for name in labels}
    assert [name for name in names if name.startswith("exported_")] == []
    assert {"namespace", "service", "pod", "container"} <= names
    asked = {labels["endpoint"] for labels, _ in series if labels["__name__"] == "sitecore_cdp_api_requests_total"}
    assert asked == {"inspect"}
    assert not [labels for labels, _ in series if labels["__name__"] == "up" and "endpoint" in labels]
