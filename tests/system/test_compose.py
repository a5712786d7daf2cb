"""compose.yaml names what exists, and gives nothing away. docker-compose itself reads it in e2e/test_compose.py."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sitecore_cdp_exporter.web.address import ListenAddress
from stack.config_files import SHIPPED
from tools.exporter_program import ROOT

COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROMETHEUS_CONFIG = yaml.safe_load((ROOT / "stack" / "prometheus.yml").read_text(encoding="utf-8"))


def mounts(service: str) -> dict[str, str]:
    """Return what a container sees of the host or of volumes, by its path in the container."""
    found = {}
    for volume in SERVICES[service].get("volumes", []):
        if isinstance(volume, dict):
            assert volume["read_only"] is True
            source, target = re.sub(r"\$\{\w+:-(.*)\}", r"\1", volume["source"]), volume["target"]
        else:
            source, target, *mode = volume.split(":")
            assert source in COMPOSE["volumes"] or mode == ["ro"]
        found[target] = source
    return found


def on_host(service: str, path: str) -> Path:
    """Return the file of this repository that a container sees at this path."""
    [host] = [
        ROOT / source / Path(path).relative_to(target)
        for target, source in mounts(service).items()
        if Path(path).is_relative_to(target)
    ]
    return host


def test_it_starts_the_whole_stack() -> None:
    assert set(SERVICES) == {"exporter", "webhook-receiver", "alertmanager", "prometheus", "grafana"}


def test_no_obsolete_version_is_there() -> None:
    assert "version" not in COMPOSE


@pytest.mark.parametrize("service", SERVICES)
def test_every_mount_exists_or_is_a_volume_that_survives(service: str) -> None:
    for source in mounts(service).values():
        assert (ROOT / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"]


def test_every_volume_is_where_its_program_keeps_its_data() -> None:
    kept = {
        ("alertmanager", re.findall(r"--storage\.path=(\S+)", str(SERVICES["alertmanager"]["command"]))[0].strip("',")),
        ("prometheus", re.findall(r"--storage\.tsdb\.path=([^'\s]+)", str(SERVICES["prometheus"]["command"]))[0]),
        ("grafana", "/var/lib/grafana"),
    }
    volumes = {(service, path) for service in SERVICES for path, source in mounts(service).items() if source[0] != "."}
    assert volumes == kept


@pytest.mark.parametrize("service", SERVICES)
def test_every_port_is_on_loopback(service: str) -> None:
    for port in SERVICES[service].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)


@pytest.mark.parametrize("service", SERVICES)
def test_every_image_is_pinned_or_built_here(service: str) -> None:
    image = SERVICES[service]["image"]
    if image.endswith(":local"):
        # By one service only: two that build the same image at once get in each other's way.
        [builder] = [each for each in SERVICES.values() if each["image"] == image and "build" in each]
        assert (ROOT / builder["build"] / "Dockerfile").is_file()
    else:
        assert re.fullmatch(r"[a-z]+/[a-z]+:v?\d+\.\d+\.\d+", image)


@pytest.mark.parametrize("service", SERVICES)
def test_every_container_has_no_more_rights_than_it_needs(service: str) -> None:
    settings = SERVICES[service]
    assert settings["read_only"] is True
    assert settings["cap_drop"] == ["ALL"]
    assert settings["security_opt"] == ["no-new-privileges:true"]
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices", "user"} & settings.keys()
    assert "docker.sock" not in str(settings)


@pytest.mark.parametrize("service", SERVICES)
def test_every_container_has_a_health_check_of_a_port_it_listens_on(service: str) -> None:
    check = str(SERVICES[service]["healthcheck"].get("test", re.findall(r"HEALTHCHECK (?s:.*?\n\n)", DOCKERFILE)))
    ports = {
        "exporter": 10313,
        "webhook-receiver": 9099,
        "alertmanager": 9093,
        "prometheus": 9090,
        "grafana": 3000,
    }
    assert re.search(rf"127\.0\.0\.1\D+{ports[service]}\b", check)


def test_each_starts_when_what_it_needs_is_healthy() -> None:
    order = {
        service: {needed for needed, how in settings.get("depends_on", {}).items() if how == condition}
        for condition in [{"condition": "service_healthy"}]
        for service, settings in SERVICES.items()
    }
    assert order == {
        "exporter": set(),
        "webhook-receiver": set(),
        "alertmanager": {"webhook-receiver"},
        "prometheus": {"exporter", "alertmanager"},
        "grafana": {"prometheus"},
    }


def test_the_exporter_starts_alone() -> None:
    assert {"depends_on", "links", "volumes_from", "networks"} & SERVICES["exporter"].keys() == set()
    assert "build" in SERVICES["exporter"]
    assert not set(mounts("exporter").values()) & set(COMPOSE["volumes"])
    assert "`docker compose up --build exporter`" in (ROOT / "docs" / "stack.md").read_text(encoding="utf-8")


def test_the_config_of_prometheus_differs_from_the_shipped_one_by_host_names_only() -> None:
    text = (ROOT / "prometheus" / "prometheus.yml").read_text(encoding="utf-8")
    text = text.replace(SHIPPED.exporter, "exporter:10311").replace(SHIPPED.alertmanager, "alertmanager:9093")
    shipped = yaml.safe_load(text)
    shipped["scrape_configs"] = [job for job in shipped["scrape_configs"] if job["job_name"] != "sitecore-cdp-probe"]
    shipped["rule_files"] = [f"/etc/prometheus/{name}" for name in shipped["rule_files"]]
    assert shipped == PROMETHEUS_CONFIG


def test_prometheus_finds_its_config_and_its_rules() -> None:
    [config] = [flag for flag in SERVICES["prometheus"]["command"] if flag.startswith("--config.file=")]
    assert on_host("prometheus", config.partition("=")[2]) == ROOT / "stack" / "prometheus.yml"
    assert [on_host("prometheus", path) for path in PROMETHEUS_CONFIG["rule_files"]] == [
        ROOT / "prometheus" / "alerts.yml"
    ]


def test_alertmanager_finds_its_config_and_sends_to_the_receiver() -> None:
    [config] = [flag for flag in SERVICES["alertmanager"]["command"] if flag.startswith("--config.file=")]
    path = on_host("alertmanager", config.partition("=")[2])
    receivers = yaml.safe_load(path.read_text(encoding="utf-8"))["receivers"]
    urls = {webhook["url"] for receiver in receivers for webhook in receiver.get("webhook_configs", [])}
    assert urls == {"http://webhook-receiver:9099/"}
    [flag] = [flag for flag in SERVICES["webhook-receiver"]["entrypoint"] if flag.startswith("--web.listen-address")]
    assert flag == "--web.listen-address=0.0.0.0:9099"


def test_the_receiver_is_mounted_where_it_is_started() -> None:
    program = SERVICES["webhook-receiver"]["entrypoint"][2]
    assert on_host("webhook-receiver", program) == ROOT / "stack" / "webhook_receiver.py"


def test_the_health_check_of_the_receiver_is_a_program_that_python_accepts() -> None:
    *_, program = SERVICES["webhook-receiver"]["healthcheck"]["test"]
    compile(program, "healthcheck", "exec")


def test_grafana_shows_the_dashboard_at_home_to_viewers_and_has_no_user() -> None:
    settings = SERVICES["grafana"]["environment"]
    home = on_host("grafana", settings["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert json.loads(home.read_text(encoding="utf-8"))["title"]
    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert not [name for name in settings if "PASSWORD" in name]


def test_grafana_finds_its_data_source_and_its_dashboards() -> None:
    [source] = provisioned("datasources")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    [provider] = provisioned("dashboards")["providers"]
    assert list(on_host("grafana", provider["options"]["path"]).glob("*.json"))


def provisioned(kind: str) -> dict[str, Any]:
    [path] = on_host("grafana", f"/etc/grafana/provisioning/{kind}").glob("*.y*ml")
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize(
    ("folder", "flags"),
    [("", ["--demo", "--web.listen-address=:10311"]), ("/somewhere", ["--config.file=config.yaml"])],
    ids=["demo", "config"],
)
def test_the_exporter_runs_the_demo_only_if_no_folder_is_named(folder: str, flags: list[str], tmp_path: Path) -> None:
    program = tmp_path / "sitecore-cdp-batch-exporter"
    program.write_text('#!/bin/sh\necho "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    python, *arguments = SERVICES["exporter"]["entrypoint"]
    # The image has no shell.
    assert python == "python"
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CONFIG_FOLDER": folder}
    started = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=True)
    [entry_point] = re.findall(r"^ENTRYPOINT (.*)$", DOCKERFILE, flags=re.MULTILINE)
    # The flags of the image are among them, so that its health check finds what it asks.
    assert started.stdout.split() == [*json.loads(entry_point)[1:], *flags]


def test_the_exporter_reads_its_config_where_the_folder_is_mounted() -> None:
    assert mounts("exporter") == {"/etc/sitecore-cdp-batch-exporter": "./stack"}
    assert "WORKDIR /etc/sitecore-cdp-batch-exporter" in DOCKERFILE


def test_the_published_port_of_the_exporter_reaches_the_demo() -> None:
    [flag] = re.findall(r'--web\.listen-address=([^"]+)', SERVICES["exporter"]["entrypoint"][2])
    assert ListenAddress.parse(flag) == ListenAddress(None, 10311)
