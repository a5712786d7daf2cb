"""Faults of DNS: names that do not resolve, resolvers that hang or change their mind."""

import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tools.faults.certificates import Upstream
from tools.faults.row import Row, command, hold
from tools.faults.trial import HEALTHY, Trial, all_fail, new_sandbox, running_trial

NAME = "batches.test"
PORT = 53
# RFC 1035: the response codes, and the type of an IPv4 address.
NO_ERROR, SERVER_FAILURE, NAME_ERROR = 0, 2, 3
TYPE_A = 1
LOOPBACK = "127.0.0.1"
# Where nobody listens.
DEAD = "127.0.0.99"


class NameServer:
    """A DNS server for one name, on loopback. It answers with `code` and `addresses`, or not at all while `silent`."""

    def __init__(self) -> None:
        self.code = NO_ERROR
        self.addresses: tuple[str, ...] = (LOOPBACK,)
        self.silent = False
        self.questions = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._serve, name="name server", daemon=True)

    def __enter__(self) -> Self:
        self._socket.bind((LOOPBACK, PORT))
        self._thread.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                question, client = self._socket.recvfrom(512)
            except OSError:
                return
            self.questions += 1
            if not self.silent:
                self._socket.sendto(self._answer(question), client)

    def _answer(self, message: bytes) -> bytes:
        # The one question ends with its type and class, four bytes behind the zero that ends the name.
        end = message.index(b"\0", 12) + 5
        kind = int.from_bytes(message[end - 4 : end - 2], "big")
        addresses = self.addresses if self.code == NO_ERROR and kind == TYPE_A else ()
        header = message[:2] + struct.pack(">HHHHH", 0x8180 | self.code, 1, len(addresses), 0, 0)
        # 0xC00C points to the name of the question; class 1 is the internet; nobody may remember the answer.
        records = [struct.pack(">HHHIH", 0xC00C, TYPE_A, 1, 0, 4) + socket.inet_aton(address) for address in addresses]
        return header + message[12:end] + b"".join(records)


@contextmanager
def named_trial(directory: Path) -> Iterator[tuple[Trial, NameServer]]:
    """Run a healthy exporter that asks a name server for its API. Only in a mount namespace of its own."""
    resolv_conf = directory / "resolv.conf"
    resolv_conf.write_text(f"nameserver {LOOPBACK}\n", encoding="utf-8")
    command("mount", "--bind", resolv_conf, "/etc/resolv.conf")
    upstream = Upstream(directory)
    upstream.present(upstream.authority.issue_cert(NAME))
    with NameServer() as name_server, new_sandbox(ssl_context=upstream.context) as sandbox:
        url = sandbox.base_url.replace(LOOPBACK, NAME)
        with running_trial(directory, sandbox=sandbox, api={**upstream.api, "base_url": url}) as trial:
            yield trial, name_server


def resolves_badly(directory: Path, *, reason: str, **behaviour: Any) -> str:  # noqa: ANN401  Attributes of NameServer.
    """Let the name server misbehave, first while connections are open, then without any."""
    with named_trial(directory) as (trial, name_server):
        before = dict(vars(name_server))
        vars(name_server).update(behaviour)
        open_connections = trial.expect(HEALTHY)
        trial.sandbox.close_idle_connections()
        for _ in range(3):
            during = trial.expect(all_fail(reason), up=0)
        waiting = trial.usage().threads - trial.before.threads
        hold(f"{waiting} threads wait for the resolver", waiting <= 1)
        vars(name_server).update({key: before[key] for key in behaviour})
        return (
            f"over open connections: {open_connections}; then, 3 times: {during}; {waiting} threads wait; "
            f"{trial.recovered(longest=12)}"
        )


def moves(directory: Path, *, addresses: tuple[str, ...]) -> str:
    """Change the addresses of the name."""
    with named_trial(directory) as (trial, name_server):
        name_server.addresses = addresses
        asked = name_server.questions
        trial.sandbox.close_idle_connections()
        during = trial.expect(HEALTHY)
        hold("the name was looked up again", name_server.questions > asked)
        return f"{during}; {trial.nothing_is_left()}"


HOLDS = "Open connections stay usable; others fail in time, with the reason; at most one thread waits for the resolver."

BEHAVIOURS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("the host name no longer exists", "connection", {"code": NAME_ERROR}),
    ("the resolver says SERVFAIL", "connection", {"code": SERVER_FAILURE}),
    ("the host name has no address", "connection", {"addresses": ()}),
    ("the resolver hangs", "timeout", {"silent": True}),
)

ROWS = (
    *(
        Row(
            fault=name,
            must_hold=HOLDS,
            attempt=partial(resolves_badly, reason=reason, **behaviour),
            isolated=True,
        )
        for name, reason, behaviour in BEHAVIOURS
    ),
    Row(
        fault="the first of two addresses is dead",
        must_hold="The same scrape uses the other address.",
        attempt=partial(moves, addresses=(DEAD, LOOPBACK)),
        isolated=True,
    ),
)
