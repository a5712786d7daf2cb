"""The stack that all end-to-end tests share: Prometheus scrapes the exporter, which asks the sandbox."""

import os
import shutil
from collections.abc import Iterator

import pytest
import yaml

from stack.config_files import ALERTMANAGER_CONFIG
from tests.e2e.alertmanager_server import Alertmanager, running_alertmanager
from tests.e2e.stack import LISTED_REFS, PROBED_REF, SHIPPED_CONFIG, SHIPPED_TARGET, SteppedClock
from tests.exporter_program import API_TOKEN, CLIENT_KEY, Exporter, running_exporter
from tools.prometheus_server import PrometheusServer, running_prometheus
from tools.sandbox import Sandbox


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
def exporter(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """Run the exporter as a user does."""
    directory = tmp_path_factory.mktemp("exporter")
    password_file = directory / "api_token"
    password_file.write_text(f"{API_TOKEN}\n", encoding="utf-8")
    api = {"basic_auth": {"username": CLIENT_KEY, "password_file": str(password_file)}}
    with running_exporter(sandbox, directory, batches=list(LISTED_REFS.values()), api=api) as exporter:
        yield exporter


@pytest.fixture(scope="session")
def exporter_address(exporter: Exporter) -> str:
    """Return host and port of the exporter."""
    return exporter.url.removeprefix("http://")


@pytest.fixture(scope="session")
def prometheus(
    exporter: Exporter, exporter_address: str, tmp_path_factory: pytest.TempPathFactory
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
    with running_prometheus(config_file, directory=directory, scraped=exporter.program) as server:
        yield server


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alertmanager]:
    """Run Alertmanager with the shipped config. The tests of a module share it, so each uses jobs of its own."""
    directory = tmp_path_factory.mktemp("alertmanager")
    (directory / "templates").symlink_to(ALERTMANAGER_CONFIG.parent / "templates")
    with running_alertmanager(ALERTMANAGER_CONFIG.read_text(encoding="utf-8"), directory) as alertmanager:
        yield alertmanager
