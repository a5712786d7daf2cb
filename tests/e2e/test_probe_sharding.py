"""Two replicas share the probes of one Prometheus, by the scrape config of docs/deployment.md."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest
import yaml

from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, Exporter, running_exporter
from tools.prometheus_server import PrometheusServer, running_prometheus
from tools.sandbox import Sandbox

pytestmark = pytest.mark.e2e

PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
REPLICAS = ["exporter-a:10311", "exporter-b:10311"]
REFS = [str(uuid5(UUID(int=0), f"batch {number}")) for number in range(24)]


def documented_config() -> dict[str, Any]:
    [text] = re.findall(r"```yaml\n(scrape_configs:\n.*?)```", PAGE, flags=re.DOTALL)
    config: dict[str, Any] = yaml.safe_load(text)
    return config


def address(exporter: Exporter) -> str:
    return exporter.url.removeprefix("http://")


@pytest.fixture
def sandboxes() -> Iterator[list[Sandbox]]:
    """Run one for each replica, so that its requests show what the replica asked for. Both have every batch."""
    with (
        Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as one,
        Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as other,
    ):
        for sandbox in (one, other):
            for ref in REFS:
                sandbox.put_batch(ref, status="processing")
        yield [one, other]


@pytest.fixture
def replicas(sandboxes: list[Sandbox], tmp_path: Path) -> Iterator[list[Exporter]]:
    """Run two exporters that list nothing."""
    folders = [tmp_path / replica.partition(":")[0] for replica in REPLICAS]
    for folder in folders:
        folder.mkdir()
    with running_exporter(sandboxes[0], folders[0]) as one, running_exporter(sandboxes[1], folders[1]) as other:
        yield [one, other]


@pytest.fixture
def prometheus(replicas: list[Exporter], tmp_path: Path) -> Iterator[PrometheusServer]:
    """Run a Prometheus with the config of the page; only the hosts and the interval are changed."""
    text = yaml.safe_dump(documented_config() | {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}})
    for replica, exporter in zip(REPLICAS, replicas, strict=True):
        assert text.count(replica) == 1
        text = text.replace(replica, address(exporter))
    config = tmp_path / "prometheus.yml"
    config.write_text(text, encoding="utf-8")
    (tmp_path / "batches.yaml").write_text(yaml.safe_dump([{"targets": REFS}]), encoding="utf-8")
    with running_prometheus(config, directory=tmp_path, scraped=replicas[0].program) as server:
        yield server


def test_two_replicas_cover_every_ref_exactly_once(
    sandboxes: list[Sandbox], replicas: list[Exporter], prometheus: PrometheusServer
) -> None:
    prometheus.wait_for_query(f"count(up == 1) == {len(REFS)}")
    read = prometheus.query('sitecore_cdp_batch_status{status="processing"} == 1')
    assert sorted(labels["ref"] for labels, _ in read) == sorted(REFS)

    shares = [{labels["ref"] for labels, _ in read if labels["instance"] == address(replica)} for replica in replicas]
    asked = [{entry.path.rsplit("/", 1)[1] for entry in sandbox.requests} for sandbox in sandboxes]
    assert asked == shares, "neither asks for what the other one shows"
    assert all(shares), "each has its share"

    working, down = replicas
    kept, lost = map(len, shares)
    down.program.process.terminate()
    down.program.process.wait()
    prometheus.wait_for_query(f'count(up{{instance="{address(down)}"}} == 0) == {lost}')
    [(_, up)] = prometheus.query(f'count(up{{instance="{address(working)}"}} == 1)')
    assert up == kept, "a replica that is down takes along only its own refs"
