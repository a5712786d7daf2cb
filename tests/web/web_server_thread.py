"""A WebServer on loopback, in a thread of its own, with the real client and poller against a sandbox."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import requests
from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from sitecore_cdp_exporter.api.batch import BatchAnswer, BatchPage, BatchStatus
from sitecore_cdp_exporter.api.client import BatchApi
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.error_log import LogReading
from sitecore_cdp_exporter.api.error_log_url import LogUrl
from sitecore_cdp_exporter.config.model import ApiConfig, BasicAuth, Config, WatchedBatch
from sitecore_cdp_exporter.config.reload import Reloader
from sitecore_cdp_exporter.metrics.definitions import RequestMetrics
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.snapshot import BatchState, Snapshot
from sitecore_cdp_exporter.sandbox.server import API_TOKEN, CLIENT_KEY
from sitecore_cdp_exporter.watch.watchlist import Watched
from sitecore_cdp_exporter.web.address import ListenAddress
from sitecore_cdp_exporter.web.server import WebServer, WebSettings
from tests.fake_api import Lists
from tools.sandbox import Sandbox

# Only ends a wait that would never end; no test judges how fast something is.
PATIENCE = 60.0
LOOPBACK = ListenAddress("127.0.0.1", 0)
EMPTY_SNAPSHOT = Snapshot(batches=(), api_up=None, api_last_success=None, poll_duration=0.0)


class WebServerThread:
    """Serves until the end of its `with` block. The arguments are those of WebServer."""

    def __init__(
        self,
        poller: Poller,
        *,
        reloader: Reloader | None = None,
        registry: CollectorRegistry | None = None,
        **settings: Any,  # noqa: ANN401  Those of WebSettings.
    ) -> None:
        self._arguments = (poller, reloader or NoReloader(), registry or CollectorRegistry(), WebSettings(**settings))
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="web server")

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.result()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(RuntimeError):  # It has stopped already.
            self.begin_to_stop()
        self._thread.join()

    def begin_to_stop(self) -> None:
        """Do what a SIGTERM does, and do not wait for the end."""
        self._loop.call_soon_threadsafe(self._stopping.set)

    def get(self, path: str, **options: Any) -> requests.Response:  # noqa: ANN401  As there.
        """Get a path over a connection of its own."""
        with requests.Session() as session:
            # To look for proxies in the environment takes a third of a request.
            session.trust_env = False
            return session.get(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE, **options)

    def run_in_loop(self, function: Callable[[], object]) -> None:
        """Have the server's event loop call a function, and do not wait for it."""
        self._loop.call_soon_threadsafe(function)

    def connections(self) -> int:
        """Count the connections that the server has open, without the one to the health listener."""
        server = self._server._runners[0].server
        return 0 if server is None else len(server.connections)

    def connect(self, sent: bytes = b"", *, receive_buffer: int | None = None) -> socket.socket:
        """Open a connection and send some bytes."""
        connection = socket.socket()
        try:
            if receive_buffer is not None:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            connection.settimeout(PATIENCE)
            connection.connect(("127.0.0.1", self.port))
            connection.sendall(sent)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._server = server = WebServer(*self._arguments)
        try:
            [address] = await server.start([LOOPBACK], LOOPBACK)
            self.port = address.port
        except BaseException as error:  # noqa: BLE001  It is raised in the thread that waits.
            self._started.set_exception(error)
            return
        for listener in server._listeners:
            listener.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.health_port: int = server._listeners[1].sockets[0].getsockname()[1]
        self._started.set_result(None)
        await self._stopping.wait()
        await server.stop()


class NoReloader(Reloader):
    """Stands in for Reloader where nothing may be loaded again."""

    def __init__(self) -> None:
        super().__init__("config", None, lambda _: {})

    def reload(self) -> None:
        raise AssertionError("no reload is expected")

    def reload_if_changed(self, timeout: float | None = None) -> None:
        raise AssertionError(f"no reload is expected, within {timeout} s")


class NoApi:
    """Stands in for BatchApi where nothing may be asked."""

    def read_credentials(self) -> Credentials:
        raise AssertionError("no request is expected")

    def read_batch(self, ref: str, credentials: Credentials) -> BatchAnswer:
        raise AssertionError(f"no request is expected, but there is one for {ref} by {credentials}")

    def read_page(
        self, statuses: tuple[BatchStatus, ...], offset: int, limit: int, credentials: Credentials
    ) -> BatchPage:
        raise AssertionError(f"no request is expected: {statuses}, {offset}, {limit}, {credentials}")

    def read_error_log(self, url: LogUrl, seconds: float) -> LogReading | None:
        raise AssertionError(f"no log is expected, but there is {url}, for {seconds} s")


# Of an unread answer, the system takes twice this; it would take up to 4 MB. The rest waits in the server.
SEND_BUFFER = 32_768
LARGE_ANSWER = 400_000


def large_snapshot() -> Snapshot:
    """Make a snapshot whose answer is more than the buffers of a socket take: who does not read keeps it waiting."""
    batch = Watched("12af3453-62da-4b31-b646-631b7b5f3009", labels={"a": "x" * LARGE_ANSWER})
    return Snapshot(batches=(BatchState(watched=batch),), api_up=None, api_last_success=None, poll_duration=0.0)


class ScriptedPoller(Poller):
    """A poller that notes the deadlines, and answers with one snapshot as soon as it is let."""

    def __init__(self, snapshot: Snapshot = EMPTY_SNAPSHOT) -> None:
        super().__init__(NoApi(), Config(api=ApiConfig(base_url="https://api.example")), Lists())
        self.snapshot = snapshot
        self.deadlines: list[float] = []
        self.times_left: list[float] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def poll(self, deadline: float) -> Snapshot:
        self.times_left.append(deadline - time.monotonic())
        self.deadlines.append(deadline)
        self.go_on.wait(max(deadline - time.monotonic(), 0))
        return self.snapshot

    def probe(self, ref: str, deadline: float) -> Snapshot:
        assert ref
        return self.poll(deadline)

    @property
    def latest(self) -> Snapshot | None:
        return self.snapshot

    def stop(self) -> None:
        self.go_on.set()


@contextmanager
def exporter_of(
    sandbox: Sandbox,
    batches: Iterable[WatchedBatch] = (),
    *,
    timeout: float = 60.0,
    **settings: Any,  # noqa: ANN401  As in WebServer.
) -> Iterator[WebServerThread]:
    """Serve what a real poller finds in the sandbox."""
    basic_auth = BasicAuth(username=SecretStr(CLIENT_KEY), password=SecretStr(API_TOKEN))
    config = Config(
        api=ApiConfig(base_url=sandbox.base_url, basic_auth=basic_auth, timeout=timeout), batches=tuple(batches)
    )
    registry = CollectorRegistry()
    api = BatchApi(config.api, RequestMetrics(registry).observe)
    poller = Poller(api, config, Lists())
    try:
        with WebServerThread(poller, registry=registry, **settings) as server:
            yield server
    finally:
        api.close()
