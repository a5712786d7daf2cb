"""From a batch that fails in the sandbox to what a person is told, through the real Prometheus and Alertmanager."""

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack.config_files import ALERTMANAGER_CONFIG, Addresses, alertmanager_config, prometheus_config
from tests.e2e.alertmanager_server import Alertmanager, Inbox, running_alertmanager, running_inbox
from tests.exporter_program import API_TOKEN, CLIENT_KEY, Exporter, running_with_config
from tools.program import Program, wait_for
from tools.prometheus_server import PrometheusServer, running_prometheus
from tools.sandbox import Sandbox, faults

pytestmark = pytest.mark.e2e

FAILED_REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
# The rules and routes are the shipped ones; only what takes minutes in them takes seconds here. A pending alert can
# be seen, because it waits for longer than an evaluation.
SECONDS_PENDING = 3


@dataclass
class People:
    """Those who get the messages of the shipped Alertmanager config."""

    inbox: Inbox
    alertmanager: Alertmanager

    def all_told(self) -> list[dict[str, Any]]:
        """Give the alerts of all messages, in order."""
        return [alert for body in self.inbox.posted("/") for alert in json.loads(body)["alerts"]]

    def wait_until_told(self, name: str, *statuses: str) -> list[dict[str, Any]]:
        """Wait for the last of these messages about an alert, and fail if there is any other about it.

        `name` is without the prefix that all alerts have.
        """

        def all_of_them() -> list[dict[str, Any]] | None:
            alerts = [alert for alert in self.all_told() if alert["labels"]["alertname"] == f"SitecoreCdp{name}"]
            assert [alert["status"] for alert in alerts] == list(statuses)[: len(alerts)]
            return alerts if len(alerts) == len(statuses) else None

        return wait_for(f"{name}: {', '.join(statuses)}", all_of_them, programs=[self.alertmanager.program])


@dataclass
class RestartedExporter:
    """An exporter that can be restarted at the same address."""

    directory: Path
    address: str
    sandbox: Sandbox

    def write_config(self, *, batches: list[object]) -> None:
        api = {
            "base_url": self.sandbox.base_url,
            "basic_auth": {"username": CLIENT_KEY, "password": API_TOKEN},
            "endpoint": "inspect",
        }
        document = {"api": api, "batches": batches, "feeds": [{"name": "nightly-guests", "labels": {"team": "crm"}}]}
        (self.directory / "config.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")

    def running(self) -> AbstractContextManager[Exporter]:
        return running_with_config(self.directory / "config.yaml", address=self.address)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(FAILED_REF, status="processing")
        yield sandbox


@pytest.fixture
def exporter(sandbox: Sandbox, tmp_path: Path) -> RestartedExporter:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    exporter = RestartedExporter(tmp_path, address, sandbox)
    exporter.write_config(batches=[{"ref": FAILED_REF, "feed": "nightly-guests"}])
    return exporter


@pytest.fixture
def people(tmp_path: Path) -> Iterator[People]:
    (tmp_path / "templates").symlink_to(ALERTMANAGER_CONFIG.parent / "templates")
    with running_inbox() as inbox:
        addresses = Addresses(
            exporter="", prometheus="", alertmanager="", webhook_receiver=inbox.url.removeprefix("http://")
        )
        config = yaml.safe_load(alertmanager_config(addresses))
        config["route"] |= {"group_wait": "1s", "group_interval": "1s"}
        with running_alertmanager(yaml.safe_dump(config), tmp_path) as alertmanager:
            yield People(inbox, alertmanager)


@contextmanager
def prometheus(exporter: RestartedExporter, scraped: Program, people: People) -> Iterator[PrometheusServer]:
    """Run Prometheus with the shipped config and rules."""
    addresses = Addresses(
        exporter=exporter.address,
        prometheus="",
        alertmanager=people.alertmanager.url.removeprefix("http://"),
        webhook_receiver="",
    )
    config = yaml.safe_load(prometheus_config(addresses))
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    [rules_file] = config["rule_files"]
    rules = yaml.safe_load(Path(rules_file).read_text(encoding="utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = f"{SECONDS_PENDING}s"
    (exporter.directory / "alerts.yml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    config["rule_files"] = ["alerts.yml"]
    path = exporter.directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with running_prometheus(path, directory=exporter.directory, scraped=scraped) as server:
        # The exporter ends and comes back in these tests.
        yield PrometheusServer(server.url, server.programs[:1])


def test_a_failed_batch_is_one_page_through_an_outage_and_a_restart_until_it_is_no_longer_watched(
    sandbox: Sandbox, exporter: RestartedExporter, people: People
) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        server = stack.enter_context(prometheus(exporter, first.enter_context(exporter.running()).program, people))
        server.wait_for_query(f'sitecore_cdp_batch_status{{ref="{FAILED_REF}", status="processing"}} == 1')

        finished = datetime.now(UTC)
        sandbox.put_batch(
            FAILED_REF,
            status="error",
            total=121776,
            succeeded=112776,
            failed=9000,
            log=True,
            created_at=finished,
            modified_at=finished,
        )
        server.wait_for_query('ALERTS{alertname="SitecoreCdpBatchFailed", alertstate="pending"}')
        [page] = people.wait_until_told("BatchFailed", "firing")
        assert page["labels"] == {
            "alertname": "SitecoreCdpBatchFailed",
            "severity": "critical",
            "job": "sitecore-cdp",
            "feed": "nightly-guests",
            "ref": FAILED_REF,
            "team": "crm",
        }
        assert page["annotations"]["summary"] == "An upload to Sitecore CDP failed: nightly-guests"
        assert page["annotations"]["description"].startswith(
            f"9000 of the 121776 records of batch {FAILED_REF} of feed nightly-guests were rejected by Sitecore CDP. "
            f"It finished at {finished:%Y-%m-%d %H:%M} UTC."
        )

        sandbox.set_fault(faults.Status(500))
        first.close()
        restarted = stack.enter_context(exporter.running()).program
        people.wait_until_told("ApiDown", "firing")
        server.wait_for_query(f'sitecore_cdp_batch_poll_failure{{ref="{FAILED_REF}"}}')
        assert server.query("sitecore_cdp_batch_status_code") == [], "the exporter itself knows nothing of the batch"
        sandbox.clear_faults()
        people.wait_until_told("ApiDown", "firing", "resolved")
        server.wait_for_query("sitecore_cdp_batch_status_code == 5")
        people.wait_until_told("BatchFailed", "firing")
        [(_, changes)] = server.query('changes(ALERTS_FOR_STATE{alertname="SitecoreCdpBatchFailed"}[10m])')
        assert changes == 0, "it is one alert all the time"

        exporter.write_config(batches=[])
        restarted.process.send_signal(signal.SIGHUP)
        people.wait_until_told("BatchFailed", "firing", "resolved")


def test_an_exporter_that_died_is_one_page_and_hides_what_follows_from_it(
    exporter: RestartedExporter, people: People
) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(ExitStack())
        died = first.enter_context(exporter.running()).program
        server = stack.enter_context(prometheus(exporter, died, people))
        server.wait_for_query("sitecore_cdp_up == 1")
        died.process.kill()
        died.process.wait()
        [page] = people.wait_until_told("ExporterDown", "firing")
        assert page["labels"] == {
            "alertname": "SitecoreCdpExporterDown",
            "severity": "critical",
            "job": "sitecore-cdp",
        }
        stack.enter_context(exporter.running())
        people.wait_until_told("ExporterDown", "firing", "resolved")
        assert {alert["labels"]["alertname"] for alert in people.all_told()} == {"SitecoreCdpExporterDown"}
