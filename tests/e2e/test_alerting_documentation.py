"""What docs/alerting.md and docs/stack.md show is what the real programs do."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from sitecore_cdp_exporter.config.model import load_config
from tests.alert_files import ALERTS
from tests.e2e.alertmanager_server import Alertmanager, program, running_alertmanager
from tests.e2e.test_alertmanager import (
    ALL_ALERTS,
    FACTS,
    FAILED_UPLOADS,
    HIDDEN_ON_BATCH,
    HIDDEN_ON_JOB,
    SHIPPED,
    TEMPLATES,
    alert,
)
from tests.markdown import blocks
from tests.system.test_compose import COMPOSE
from tools.exporter_program import ROOT
from tools.program import wait_for
from tools.prometheus_server import PrometheusServer, running_prometheus

pytestmark = pytest.mark.e2e

ALERTING = ROOT / "docs" / "alerting.md"
STACK = ROOT / "docs" / "stack.md"
TEXT = ALERTING.read_text(encoding="utf-8")


def block(document: Path, heading: str, language: str, number: int = 0) -> str:
    matching = [each.text for each in blocks(document) if (each.heading, each.language) == (heading, language)]
    return matching[number]


def run(script: str, *, folder: Path) -> str:
    program("amtool")
    done = subprocess.run(["sh", "-eu", "-c", script], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Copy what commands of the documents read or change."""
    for name in ("prometheus", "alertmanager"):
        shutil.copytree(ROOT / name, tmp_path / name)
    return tmp_path


def test_the_shipped_files_pass_the_checks(checkout: Path) -> None:
    printed = run(block(ALERTING, "Into your own Prometheus and Alertmanager", "sh"), folder=checkout)
    assert printed.count("SUCCESS") >= 2


def test_it_fits_below_a_route_of_another_config(checkout: Path) -> None:
    shipped = yaml.safe_load(SHIPPED)
    theirs = yaml.safe_load(block(ALERTING, "Into your own Prometheus and Alertmanager", "yaml"))
    theirs["route"]["routes"][0] |= shipped["route"]
    theirs |= {name: shipped[name] for name in ("inhibit_rules", "templates", "time_intervals")}
    theirs["receivers"] = [*shipped["receivers"], {"name": "yours"}]
    merged = checkout / "alertmanager" / "merged.yml"
    merged.write_text(yaml.safe_dump(theirs), encoding="utf-8")
    run("amtool check-config alertmanager/merged.yml", folder=checkout)
    test = "amtool config routes test --config.file=alertmanager/merged.yml"
    assert run(f"{test} alertname=SitecoreCdpBatchFailed severity=critical", folder=checkout) == "page-fact,remind\n"
    assert run(f"{test} alertname=DiskFull severity=critical", folder=checkout) == "yours\n"


def test_the_route_of_the_example_is_what_the_table_says(checkout: Path) -> None:
    assert run(block(ALERTING, "Who is notified", "sh"), folder=checkout) == "page-fact,remind\n"


def test_every_alert_is_in_the_row_of_its_severity() -> None:
    [table] = re.findall(r"(?m)^\| severity \| means .*\n\|[-|]+\n((?:\|.*\n)+)", TEXT)
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]
    listed = {(severity, name) for severity, _, alerts in rows for name in re.findall(r"`([A-Z]\w+)`", alerts)}
    assert listed == {(rule["labels"]["severity"], rule["alert"].removeprefix("SitecoreCdp")) for rule in ALERTS}


def test_the_facts_are_listed() -> None:
    [listed] = re.findall(r"(?s)\*\*Facts\*\* are (.*?)\. Silence", TEXT)
    assert tuple(re.findall(r"`(\w+)`", listed)) == FACTS


def test_the_table_of_what_hides_what_is_the_one_that_alertmanager_was_tested_by() -> None:
    [table] = re.findall(r"(?m)^\| while this fires .*\n\|[-|]+\n((?:\|.*\n)+)", TEXT)
    hidden: dict[str, set[str]] = {}
    of_next_row: set[str] = set()
    for row in reversed(table.splitlines()):
        hiders, names, scope = (cell.strip() for cell in row.strip("|").split("|"))
        if "critical" in hiders:
            continue
        if "upload_failed" in names:
            assert set(re.findall(r"`(\w+)`", hiders)) == FAILED_UPLOADS
            assert scope == "job and feed"
            continue
        targets = set(re.findall(r"`(\w+)`", names))
        if "all others" in names:
            targets = set(ALL_ALERTS) - {"ExporterDown"}
        if "all other alerts of the batch" in names:
            targets = of_next_row | {"BatchErrorWithoutLog"}
        if "next row" in names:
            targets |= of_next_row
        of_next_row = targets
        assert scope in {"job", "job and ref"}
        hidden |= dict.fromkeys(re.findall(r"`(\w+)`", hiders), targets)
    assert hidden == HIDDEN_ON_BATCH | HIDDEN_ON_JOB


def test_all_receivers_are_switched_on_by_one_line(checkout: Path) -> None:
    run(block(ALERTING, "Receivers", "sh"), folder=checkout)
    mine = yaml.safe_load((checkout / "alertmanager" / "mine.yml").read_text(encoding="utf-8"))
    kinds = {kind for receiver in mine["receivers"] for kind in receiver}
    assert {"pagerduty_configs", "slack_configs", "email_configs"} <= kinds


def test_a_team_hears_of_its_own_feeds_as_well(checkout: Path) -> None:
    config = yaml.safe_load(SHIPPED)
    config["route"]["routes"][:0] = yaml.safe_load(block(ALERTING, "Receivers", "yaml"))
    config["receivers"].append({"name": "crm"})
    (checkout / "alertmanager" / "alertmanager.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    test = "amtool config routes test --config.file=alertmanager/alertmanager.yml alertname=SitecoreCdpBatchFailed"
    assert run(f"{test} team=crm severity=critical", folder=checkout) == "crm,page-fact,remind\n"
    assert run(f"{test} team=crm severity=info", folder=checkout) == "quiet\n"
    assert run(f"{test} severity=critical", folder=checkout) == "page-fact,remind\n"


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Alertmanager]:
    directory = tmp_path / "alertmanager-server"
    directory.mkdir()
    (directory / "templates").symlink_to(TEMPLATES)
    with running_alertmanager(SHIPPED, directory) as alertmanager:
        yield alertmanager


def has_sent(prometheus: PrometheusServer) -> bool:
    """Return whether it has sent an alert, by its own /metrics, since it scrapes nothing."""
    metrics = requests.get(f"{prometheus.url}/metrics", timeout=60).text
    return re.search(r"(?m)^prometheus_notifications_sent_total{.*} [1-9]", metrics) is not None


def test_alerts_of_two_prometheus_are_one(alertmanager: Alertmanager, tmp_path: Path) -> None:
    # Prometheus finds Alertmanager within five seconds, and an alert that fires before is sent a minute later only.
    rule = {"alert": "SitecoreCdpExample", "expr": "vector(1)", "for": "7s", "labels": {"job": "sitecore-cdp"}}
    rules = {"groups": [{"name": "example", "interval": "1s", "rules": [rule]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    shown = block(ALERTING, "Two Prometheus", "yaml").replace(
        "localhost:9093", alertmanager.url.removeprefix("http://")
    )
    with ExitStack() as stack:
        servers = []
        for replica in ("a", "b"):
            config: dict[str, Any] = yaml.safe_load(shown.replace("replica: a", f"replica: {replica}"))
            assert config["global"]["external_labels"] == {"replica": replica}
            directory = tmp_path / replica
            directory.mkdir()
            path = directory / "prometheus.yml"
            path.write_text(yaml.safe_dump({**config, "rule_files": [str(tmp_path / "rules.yml")]}), encoding="utf-8")
            servers.append(
                stack.enter_context(running_prometheus(path, directory=directory, scraped=alertmanager.program))
            )
        for server in servers:
            wait_for("Prometheus to have sent its alert", partial(has_sent, server), programs=server.programs)
        assert [each["labels"] for each in alertmanager.alerts()] == [
            {"alertname": "SitecoreCdpExample", "job": "sitecore-cdp"}
        ]


def test_the_sed_line_puts_another_runbook_into_the_rules_and_their_tests(checkout: Path) -> None:
    (checkout / "prometheus" / "alerts_test.yml").touch()
    run(block(ALERTING, "A runbook of your own", "sh"), folder=checkout)
    rules = (checkout / "prometheus" / "alerts.yml").read_text(encoding="utf-8")
    assert "github.com" not in rules + (checkout / "prometheus" / "alerts_test.yml").read_text(encoding="utf-8")
    anchors = set(re.findall(r"runbook_url: https://wiki\.example\.com/sitecore-cdp#(\w+)$", rules, re.MULTILINE))
    assert anchors == {f"sitecorecdp{name.lower()}" for name in ALL_ALERTS}


def test_the_config_of_the_stack_document_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(block(STACK, "With Docker", "yaml"), encoding="utf-8")
    assert load_config(path).discovery.enabled


def test_the_silence_for_taking_it_out_of_service_covers_every_alert(alertmanager: Alertmanager) -> None:
    line = block(STACK, "Taking it out of service", "sh")
    identifier = run(line.replace("http://localhost:9093", alertmanager.url), folder=ROOT).strip()
    alerts = [alert(name) for name in ALL_ALERTS]
    alertmanager.post(*alerts, {"alertname": "DiskFull"})
    silenced = wait_for(
        "all alerts",
        lambda: seen if len(seen := alertmanager.alerts()) == len(alerts) + 1 else None,
        programs=[alertmanager.program],
    )
    assert {each["labels"]["alertname"] for each in silenced if identifier not in each["status"]["silencedBy"]} == {
        "DiskFull"
    }


def test_every_command_for_docker_names_services_and_variables_of_the_compose_file() -> None:
    commands = re.findall(r"(?m)^ *((?:\w+=\S+ )?docker compose .*)$", STACK.read_text(encoding="utf-8"))
    assert len(commands) == 10
    compose_file = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    for command in commands:
        variables = re.findall(r"^(\w+)=", command)
        assert all(f"${{{variable}:-" in compose_file for variable in variables)
        named = set(re.findall(r"\b(exporter|prometheus|webhook-receiver|grafana|alertmanager)(?= |$)", command))
        assert named <= set(COMPOSE["services"])
