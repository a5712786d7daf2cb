import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from sitecore_cdp_exporter.systemd import notify
from tests.system.systemd_unit import UNIT_FILE, Unit
from tests.web.web_server_thread import PATIENCE


@pytest.fixture
def systemd() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(PATIENCE)
        yield receiver


def test_a_state_reaches_the_abstract_socket_of_systemd(
    systemd: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test-{uuid4()}"
    systemd.bind(f"\0{name}")
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    notify("READY=1")
    assert systemd.recv(100) == b"READY=1"


def test_a_state_reaches_a_socket_in_a_folder(
    systemd: socket.socket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A path of a socket has at most 107 bytes, which that of the folder may have used up.
    monkeypatch.chdir(tmp_path)
    systemd.bind("notify")
    monkeypatch.setenv("NOTIFY_SOCKET", "notify")
    notify("STOPPING=1")
    assert systemd.recv(100) == b"STOPPING=1"


@pytest.mark.parametrize("value", ["", None])
def test_without_systemd_nothing_happens(
    value: str | None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if value is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", value)
    notify("READY=1")
    assert caplog.records == []


def test_a_systemd_that_cannot_be_reached_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", "none")
    with caplog.at_level(logging.WARNING):
        notify("READY=1")
    assert caplog.messages == ["cannot notify systemd"]


def test_the_unit_waits_for_readiness_and_always_restarts() -> None:
    unit = Unit.read(UNIT_FILE)
    assert (unit.values("Type"), unit.values("Restart")) == (["notify"], ["always"])
    # The notice goes through a Unix socket.
    [families] = unit.values("RestrictAddressFamilies")
    assert "AF_UNIX" in families.split()
