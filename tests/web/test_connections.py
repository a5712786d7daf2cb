import re
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from sitecore_cdp_exporter.web import connections
from tests.conditions import wait_until
from tests.web.security.web_config_server import TLS, Folder, secure_server
from tests.web.test_server import has_been_asked
from tests.web.web_server_thread import LARGE_ANSWER, ScriptedPoller, WebServerThread, large_snapshot

LIMIT = 5
HEALTHY = b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n"
STUCK = b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-Prometheus-Scrape-Timeout-Seconds: 100\r\n\r\n"
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"
LAST_SCRAPE = SCRAPE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


@pytest.fixture
def poller() -> ScriptedPoller:
    return ScriptedPoller()


@pytest.fixture
def server(poller: ScriptedPoller) -> Iterator[WebServerThread]:
    with WebServerThread(poller, max_connections=LIMIT) as server:
        yield server


@pytest.fixture
def hasty_server(poller: ScriptedPoller) -> Iterator[WebServerThread]:
    with WebServerThread(poller, idle_seconds=0.2) as server:
        yield server


@pytest.fixture(params=["", TLS], ids=["plain", "TLS"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    """Return a folder whose web config has TLS, or nothing at all."""
    folder = Folder(tmp_path)
    folder.write(request.param)
    return folder


@pytest.fixture
def clients(server: WebServerThread) -> Iterator[ExitStack]:
    """Close the connections of a test at its end."""
    assert server.port
    with ExitStack() as clients:
        yield clients


def ask(connection: socket.socket, request: bytes = HEALTHY) -> bytes:
    """Send a request, and return the first bytes of the answer; nothing when the connection is closed."""
    try:
        connection.sendall(request)
        return connection.recv(1000)
    except ConnectionError:
        return b""


def is_closed(connection: socket.socket) -> bool:
    """Wait for the server's next action, and return whether it closed the connection."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET /-/hea", HEALTHY[:-2], b"POST / HTTP/1.1\r\nX: a"])
def test_idle_connections_make_room(server: WebServerThread, clients: ExitStack, sent: bytes) -> None:
    idle = [clients.enter_context(server.connect(sent)) for _ in range(LIMIT)]
    for connection in idle:
        assert ask(clients.enter_context(server.connect())).startswith(b"HTTP/1.1 200")
        assert is_closed(connection)


def test_the_one_idle_longest_is_dropped_not_the_oldest(server: WebServerThread, clients: ExitStack) -> None:
    prometheus, *others = [clients.enter_context(server.connect()) for _ in range(LIMIT)]
    for connection in (*others, prometheus):
        assert ask(connection).startswith(b"HTTP/1.1 200")
    for dropped in others:
        assert ask(clients.enter_context(server.connect())).startswith(b"HTTP/1.1 200")
        assert is_closed(dropped)
    assert ask(prometheus).startswith(b"HTTP/1.1 200")


def test_busy_connections_stay_and_a_new_one_is_refused(
    server: WebServerThread, clients: ExitStack, poller: ScriptedPoller
) -> None:
    poller.go_on.clear()
    busy = [clients.enter_context(server.connect(STUCK)) for _ in range(LIMIT)]
    wait_until(lambda: len(poller.deadlines) == LIMIT)
    assert ask(clients.enter_context(server.connect())) == b""
    poller.go_on.set()
    for connection in busy:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert ask(clients.enter_context(server.connect())).startswith(b"HTTP/1.1 200")


def test_a_connection_whose_client_has_gone_does_not_count(
    server: WebServerThread, clients: ExitStack, poller: ScriptedPoller
) -> None:
    poller.go_on.clear()
    for _ in range(LIMIT):
        server.connect(STUCK).close()
    wait_until(lambda: len(poller.deadlines) == LIMIT)
    wait_until(lambda: ask(clients.enter_context(server.connect())) != b"")
    poller.go_on.set()


def test_a_burst_of_connections_keeps_the_limit(server: WebServerThread, clients: ExitStack) -> None:
    blocked, go_on = threading.Event(), threading.Event()

    def block() -> None:
        blocked.set()
        go_on.wait()

    # While the loop is held up, the system queues the connections; they are then accepted all at once.
    server.run_in_loop(block)
    blocked.wait()
    burst = [clients.enter_context(server.connect()) for _ in range(20 * LIMIT)]
    go_on.set()
    for connection in burst[:-LIMIT]:
        assert is_closed(connection)
    for connection in burst[-LIMIT:]:
        assert ask(connection).startswith(b"HTTP/1.1 200")


def test_a_client_that_does_not_read_its_answer_makes_room(folder: Folder, poller: ScriptedPoller) -> None:
    poller.snapshot = large_snapshot()
    with secure_server(folder, poller, max_connections=LIMIT) as server, ExitStack() as clients:
        slow = [clients.enter_context(server.open(SCRAPE, receive_buffer=4096)) for _ in range(LIMIT)]
        for connection in slow:
            # Its first byte is there when its answer is made, which is when it counts as idle again.
            assert connection.recv(1)
        for _ in slow:
            assert ask(clients.enter_context(server.open(b""))).startswith(b"HTTP/1.1 200")
        assert [len(received) < LARGE_ANSWER for received in map(read_to_the_end, slow)] == [True] * LIMIT


@pytest.mark.parametrize("sent", [SCRAPE, LAST_SCRAPE], ids=["kept alive", "last"])
def test_a_client_that_does_not_read_its_answer_is_dropped(folder: Folder, poller: ScriptedPoller, sent: bytes) -> None:
    poller.snapshot = large_snapshot()
    with (
        secure_server(folder, poller, idle_seconds=0.2) as server,
        server.open(sent, receive_buffer=4096) as slow,
    ):
        assert slow.recv(1)
        wait_until(lambda: server.connections() == 0)
        assert len(read_to_the_end(slow)) < LARGE_ANSWER


def test_unread_answers_are_bounded_without_new_requests(
    folder: Folder, poller: ScriptedPoller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MAX_UNREAD_BYTES", 3 * LARGE_ANSWER)
    poller.snapshot = large_snapshot()
    poller.go_on.clear()
    with secure_server(folder, poller) as server, ExitStack() as clients:
        for number in range(1, 15):
            clients.enter_context(server.open(SCRAPE, receive_buffer=4096))
            wait_until(partial(has_been_asked, poller, number))
        # All are answered at once, and nobody reads. At least a third of each waits in the server.
        poller.go_on.set()
        wait_until(lambda: server.connections() <= 9)


def test_a_client_that_closes_tls_with_its_answer_unread_affects_no_other(
    tmp_path: Path, poller: ScriptedPoller
) -> None:
    folder = Folder(tmp_path)
    folder.write(TLS)
    poller.snapshot = large_snapshot()
    with secure_server(folder, poller) as server, server.open(SCRAPE, receive_buffer=4096) as leaving:
        assert isinstance(leaving, ssl.SSLSocket)
        assert leaving.recv(1)
        # The next request and the goodbye arrive together.
        leaving.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        leaving.sendall(HEALTHY)
        leaving.settimeout(0.1)
        with suppress(OSError):
            leaving.unwrap()
        leaving.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        for _ in range(10):
            assert server.get("/-/healthy").status_code == 200


@pytest.mark.parametrize("sent", [b"", b"GET /-/hea", HEALTHY[:-2], HEALTHY, HEALTHY + b"GET / HTT"])
def test_an_idle_connection_is_closed(hasty_server: WebServerThread, sent: bytes) -> None:
    with hasty_server.connect(sent) as connection:
        received = read_to_the_end(connection)
    assert len(re.findall(b"200 OK", received)) == sent.count(HEALTHY)


def test_a_request_that_drips_is_given_up(hasty_server: WebServerThread) -> None:
    with hasty_server.connect(b"GET /") as connection:
        connection.settimeout(0.01)
        received: bytes | None = None
        while received is None:
            try:
                connection.sendall(b"a")
                received = connection.recv(1)
            except TimeoutError:
                continue
            except ConnectionError:
                received = b""
    assert received == b""


def test_a_stuck_scrape_is_not_idle(hasty_server: WebServerThread, poller: ScriptedPoller) -> None:
    poller.go_on.clear()
    with hasty_server.connect(STUCK) as busy:
        with hasty_server.connect() as idle:
            assert is_closed(idle)
        wait_until(lambda: hasty_server.connections() == 1)
        poller.go_on.set()
        assert busy.recv(1000).startswith(b"HTTP/1.1 200")


def read_to_the_end(connection: socket.socket) -> bytes:
    received = bytearray()
    with suppress(ConnectionResetError, ssl.SSLError):
        while piece := connection.recv(1_000_000):
            received += piece
    return bytes(received)
