"""The stack that all end-to-end tests share: Prometheus scrapes the exporter, which asks the sandbox."""

import os
import shutil
import socket
import sys
from collections.abc import Iterator

import pytest
import yaml

from sitecore_cdp_exporter.sandbox import Sandbox
from tests.e2e.program import Program, answers_ok, running, wait_for
from tests.e2e.prometheus_server import PrometheusServer, running_prometheus
from tests.e2e.stack import LISTED_REFS, PROBED_REF, SHIPPED_CONFIG, SHIPPED_TARGET, SteppedClock
from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT


@pytest.fixture(scope="session", autouse=True)
def programs() -> None:
    """Look for what the tests need: without it they skip, and in CI, where it must be there, they fail."""
    missing = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
    if not missing:
        return
    message = f"{' and '.join(missing)} not found on the PATH; Debian has both in its package `prometheus`"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set what the uploader reads from its environment."""
    monkeypatch.setenv("SITECORE_CDP_CLIENT_KEY", CLIENT_KEY)
    monkeypatch.setenv("SITECORE_CDP_API_TOKEN", API_TOKEN)


@pytest.fixture(scope="session")
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture(scope="session")
def sandbox(clock: SteppedClock) -> Iterator[Sandbox]:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, clock=clock) as sandbox:
        yield sandbox


@pytest.fixture(scope="session")
def exporter_address() -> str:
    """Choose the loopback address that the exporter will listen on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture(scope="session")
def exporter(sandbox: Sandbox, exporter_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Run the exporter as a user does."""
    directory = tmp_path_factory.mktemp("exporter")
    password_file = directory / "api_token"
    password_file.write_text(f"{API_TOKEN}\n", encoding="utf-8")
    api = {
        "base_url": sandbox.base_url,
        "basic_auth": {"username": CLIENT_KEY, "password_file": str(password_file)},
        "endpoint": "inspect",
    }
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump({"api": api, "batches": list(LISTED_REFS.values())}), encoding="utf-8")
    command = [
        sys.executable,
        str(ROOT / "exporter.py"),
        f"--config.file={config}",
        f"--web.listen-address={exporter_address}",
    ]
    with running(command, log=directory / "exporter.log") as program:
        ready = f"http://{exporter_address}/-/ready"
        wait_for("the exporter to be ready", lambda: answers_ok(ready), programs=[program])
        yield program


@pytest.fixture(scope="session")
def prometheus(
    exporter: Program, exporter_address: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrometheusServer]:
    """Run Prometheus with the shipped config; only where it scrapes and how often is changed."""
    directory = tmp_path_factory.mktemp("prometheus")
    shipped = SHIPPED_CONFIG.read_text(encoding="utf-8")
    assert SHIPPED_TARGET in shipped
    config = yaml.safe_load(shipped.replace(SHIPPED_TARGET, exporter_address))
    # The shortest timeout that leaves the exporter time: it ends half a second before.
    config["global"] |= {"scrape_interval": "1s", "scrape_timeout": "1s"}
    config_file = directory / "prometheus.yml"
    config_file.write_text(yaml.safe_dump(config), encoding="utf-8")
    probed = [{"targets": [PROBED_REF], "labels": {"team": "crm"}}]
    (directory / "batches.yaml").write_text(yaml.safe_dump(probed), encoding="utf-8")
    with running_prometheus(config_file, directory=directory, scraped=exporter) as server:
        yield server
