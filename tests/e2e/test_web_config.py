"""The real Prometheus scrapes over TLS with its certificate and password, as docs/examples say, through a rotation."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import yaml

from tests.exporter_program import API_TOKEN, CLIENT_KEY, Exporter, running_exporter
from tests.web.security.web_config_server import EXAMPLES, Folder
from tools.prometheus_server import PrometheusServer, running_prometheus
from tools.sandbox import Sandbox

pytestmark = pytest.mark.e2e

REF = "12af3453-62da-4b31-b646-631b7b5f3009"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.use_example("web-config.yml")
    return folder


@pytest.fixture
def secure_exporter(folder: Folder) -> Iterator[Exporter]:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(REF, status="processing", total=7)
        flags = [f"--web.config.file={folder.web_config}", "--web.health-listen-address=127.0.0.1:0"]
        with running_exporter(sandbox, folder.path, batches=[REF], flags=flags) as exporter:
            yield exporter


@pytest.fixture
def its_prometheus(secure_exporter: Exporter, folder: Folder) -> Iterator[PrometheusServer]:
    target = secure_exporter.url.removeprefix("http://")
    example = (EXAMPLES / "web-config-prometheus.yml").read_text(encoding="utf-8")
    config = yaml.safe_load(example.replace("localhost:10311", target))
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    path = folder.path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with running_prometheus(path, directory=folder.path, scraped=secure_exporter.program) as server:
        yield server


def test_prometheus_scrapes_with_certificate_and_password_and_through_their_rotation(
    its_prometheus: PrometheusServer, secure_exporter: Exporter, folder: Folder
) -> None:
    its_prometheus.wait_for_query('up{job="sitecore-cdp"} == 1')
    its_prometheus.wait_for_query(f'sitecore_cdp_batch_total_records{{ref="{REF}"}} == 7')
    [(_, loaded)] = its_prometheus.query("sitecore_cdp_exporter_web_config_last_reload_successful")
    assert loaded == 1

    # Prometheus rereads its own files, too.
    (folder.path / "password").write_text("wrong", encoding="utf-8")
    its_prometheus.wait_for_query('up{job="sitecore-cdp"} == 0')
    (folder.path / "password").write_text("change-me", encoding="utf-8")
    its_prometheus.wait_for_query('up{job="sitecore-cdp"} == 1')
    rotated = time.time()
    # With another authority of the server, Prometheus makes another connection.
    folder.renew_all()
    its_prometheus.wait_for_query(f"sitecore_cdp_exporter_web_config_last_reload_success_timestamp_seconds > {rotated}")
    [(_, loaded)] = its_prometheus.query("sitecore_cdp_exporter_web_config_last_reload_successful")
    assert loaded == 1

    # Nobody else gets anything.
    url = secure_exporter.url.replace("http:", "https:")
    ca_file = str(folder.path / "server_ca.crt")
    with pytest.raises((requests.ConnectionError, ConnectionError)):
        requests.get(f"{url}/metrics", auth=("prometheus", "change-me"), verify=ca_file, timeout=30)
    refused = requests.get(f"{url}/metrics", cert=folder.client_certificate(), verify=ca_file, timeout=30)
    assert refused.status_code == 401
    output = secure_exporter.program.output()
    assert "change-me" not in output
    assert "PRIVATE" not in output


@pytest.mark.parametrize("name", ["web-config.yml", "web-config-password.yml"])
def test_promtool_takes_the_web_configs(folder: Folder, name: str) -> None:
    # The rate limit is younger than this promtool.
    text = (EXAMPLES / name).read_text(encoding="utf-8").partition("rate_limit:")[0]
    command = ["promtool", "check", "web-config", str(folder.write(text))]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (checked.returncode, "SUCCESS" in checked.stderr) == (0, True)


def test_promtool_takes_the_scrape_config(folder: Folder) -> None:
    path = folder.path / "prometheus.yml"
    path.write_text((EXAMPLES / "web-config-prometheus.yml").read_text(encoding="utf-8"), encoding="utf-8")
    checked = subprocess.run(["promtool", "check", "config", str(path)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr
