"""Loading the config again: swapped whole, or not at all."""

import logging
import threading
from pathlib import Path

import pytest

from sitecore_cdp_exporter.config import files
from sitecore_cdp_exporter.config.model import Config, ConfigError, load_config
from sitecore_cdp_exporter.config.reload import ReadFile, Reloader, ReloadState
from tests.hanging_disk import MAX_WAIT, HangingDisk

GOOD = "api:\n  base_url: https://api.example\nbatches:\n  - 12af3453-62da-4b31-b646-631b7b5f3009\n"
OTHER = "api:\n  base_url: https://other.example\n"
BAD = "api:\n  base_url: https://api.example\n  timeout: 5\n"


class Exporter:
    """Remembers the configs that it was given."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.configs: list[Config] = []

    def load(self, read: ReadFile) -> dict[str, object]:
        config = load_config(self.path, read)
        self.configs.append(config)
        return {"batches": len(config.batches)}

    @property
    def hosts(self) -> list[str]:
        return [config.api.base_url for config in self.configs]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD, encoding="utf-8")
    return path


@pytest.fixture
def exporter(path: Path) -> Exporter:
    return Exporter(path)


@pytest.fixture
def reloader(path: Path, exporter: Exporter) -> Reloader:
    times = iter([100.0, 200.0, 300.0])
    reloader = Reloader("config", path, exporter.load, clock=lambda: next(times))
    load_config(path, reloader.read)
    return reloader


def test_a_valid_config_is_swapped_in(path: Path, exporter: Exporter, reloader: Reloader) -> None:
    assert reloader.state == ReloadState(successful=True, last_success=100.0)
    path.write_text(OTHER, encoding="utf-8")
    reloader.reload()
    assert exporter.hosts == ["https://other.example"]
    assert reloader.state == ReloadState(successful=True, last_success=200.0)


def test_a_bad_config_leaves_the_one_before(
    path: Path, exporter: Exporter, reloader: Reloader, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(BAD, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.yaml:3: api\.timeout"):
        reloader.reload()
    assert exporter.configs == []
    assert reloader.state == ReloadState(successful=False, last_success=100.0)
    assert f"{path}:3: api.timeout" in caplog.text
    path.write_text(GOOD, encoding="utf-8")
    reloader.reload()
    assert reloader.state == ReloadState(successful=True, last_success=200.0)


def test_a_file_that_is_gone_leaves_the_config(path: Path, exporter: Exporter, reloader: Reloader) -> None:
    path.unlink()
    with pytest.raises(ConfigError, match="cannot be read"):
        reloader.reload()
    reloader.reload_if_changed()
    assert exporter.configs == []
    assert not reloader.state.successful


def test_a_change_is_noticed_by_its_content(path: Path, exporter: Exporter, reloader: Reloader) -> None:
    path.touch()
    reloader.reload_if_changed()
    assert exporter.configs == []
    path.write_text(OTHER, encoding="utf-8")
    reloader.reload_if_changed()
    reloader.reload_if_changed()
    assert exporter.hosts == ["https://other.example"]


def test_a_bad_change_is_logged_once_for_its_content(
    path: Path, reloader: Reloader, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path.write_text(BAD, encoding="utf-8")
    for _ in range(5):
        reloader.reload_if_changed()
    assert len(caplog.records) == 1
    assert not reloader.state.successful
    path.write_text(GOOD, encoding="utf-8")
    reloader.reload_if_changed()
    assert reloader.state.successful


def test_a_hanging_disk_delays_nobody_beyond_their_timeout(
    path: Path, exporter: Exporter, reloader: Reloader, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = HangingDisk(monkeypatch, files)
    path.write_text(OTHER, encoding="utf-8")
    for _ in range(20):
        reloader.reload_if_changed(timeout=0)
    assert disk.reading.wait(MAX_WAIT)
    assert reloader.state == ReloadState(successful=True, last_success=100.0)
    assert exporter.configs == []
    disk.go_on.set()
    reloader.reload_if_changed()
    assert exporter.hosts == ["https://other.example"]


def test_a_config_without_a_file_is_never_reloaded(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    reloader = Reloader("config", None, exporter.load)
    monkeypatch.setattr(threading.Thread, "start", pytest.fail)
    reloader.reload_if_changed()
    reloader.reload()
    assert exporter.configs == []
