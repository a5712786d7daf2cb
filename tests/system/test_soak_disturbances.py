"""The clients of the soak that leave: an exporter that ends under them does not end the soak."""

import socket
from random import Random
from typing import Any

import pytest

from tools.soak.disturbances import LeavingClients
from tools.soak.schedule import Schedule


def leave_in_the_middle(schedule: Schedule) -> None:
    """Let a client come, and leave if it is its time."""
    random = Random(0)  # noqa: S311  It only chooses what the client does.
    LeavingClients("http://127.0.0.1:9", schedule, random, refs=list).start()
    schedule.run_for(0.5)


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[tuple[socket.socket, socket.socket]]:
    """Connect each client to a socket of the test's own, and give both ends of each connection."""
    pairs: list[tuple[socket.socket, socket.socket]] = []

    def connect(*_: Any, **__: Any) -> socket.socket:  # noqa: ANN401  Whatever create_connection is given.
        pairs.append(socket.socketpair())
        return pairs[-1][0]

    monkeypatch.setattr(socket, "create_connection", connect)
    return pairs


def test_a_client_asks_and_leaves(ends: list[tuple[socket.socket, socket.socket]]) -> None:
    leave_in_the_middle(Schedule())
    [(client, exporter)] = ends
    with exporter:
        assert exporter.recv(1000).startswith(b"GET /")
        assert client.fileno() == -1


def test_a_connection_that_is_gone_before_the_request_ends_only_this_client(monkeypatch: pytest.MonkeyPatch) -> None:
    client, exporter = socket.socketpair()
    exporter.close()
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: client)
    leave_in_the_middle(Schedule())
    assert client.fileno() == -1, "its socket is left open"


def test_a_port_without_a_listener_ends_only_this_client(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> socket.socket:
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    leave_in_the_middle(Schedule())
