"""The sandbox: a server in a background thread."""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event, Thread
from types import TracebackType
from typing import Self

from aiohttp import web
from aiohttp.typedefs import Middleware

from sitecore_cdp_exporter.sandbox.control import control_routes
from sitecore_cdp_exporter.sandbox.faults import ActiveFaults
from sitecore_cdp_exporter.sandbox.gate import Gate
from sitecore_cdp_exporter.sandbox.profiles import Profiles
from sitecore_cdp_exporter.sandbox.records import ImportResult, RecordResult, import_file, import_record
from sitecore_cdp_exporter.sandbox.routes import BatchRoutes
from sitecore_cdp_exporter.sandbox.state import Batch, Batches
from sitecore_cdp_exporter.sandbox.storage import MAX_UPLOAD_BYTES, Storage

LOOPBACK = "127.0.0.1"
CLIENT_KEY = "sandbox-client"
API_TOKEN = "sandbox-token"  # noqa: S105  The sandbox guards nothing, so its token is no secret.
# Other collections of Sitecore's APIs return at most this many items per page.
MAX_PAGE_SIZE = 100
# How long to wait for requests in flight when the sandbox stops, in seconds.
STOP_GRACE = 0.05


class Sandbox:
    """A local Batch API. Call `start` and `stop`, or use it in a `with` block. It cannot be restarted.

    It listens on loopback unless `host` is given, on a free port if `port` is 0, and with TLS if there is an
    `ssl_context`. A page of the list has at most `max_page_size` items. `speed` divides how long uploaded files are
    queued and processed. `clock` returns the time with its zone.
    """

    def __init__(  # noqa: PLR0913  Independent settings, by keyword only, each with a default.
        self,
        *,
        client_key: str = CLIENT_KEY,
        api_token: str = API_TOKEN,
        host: str = LOOPBACK,
        port: int = 0,
        speed: float = 1.0,
        ssl_context: ssl.SSLContext | None = None,
        max_page_size: int = MAX_PAGE_SIZE,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._host = host
        self._port = port
        self._ssl_context = ssl_context
        self._profiles = Profiles()
        self._batches = Batches(clock=clock, speed=speed)
        self._faults = ActiveFaults()
        self._gate = Gate(client_key=client_key, api_token=api_token, faults=self._faults)
        self._storage = Storage(self._batches, self._receive_file)
        routes = BatchRoutes(self._batches, self._storage, max_page_size=max_page_size)
        application = web.Application(middlewares=self._middlewares(), client_max_size=MAX_UPLOAD_BYTES + 1)
        application.add_routes([*routes.routes(), *self._storage.routes(), *control_routes(self._faults)])
        self._runner = web.AppRunner(
            application,
            access_log=None,
            # Storage keeps files as sent, regardless of Content-Encoding.
            auto_decompress=False,
            # Cancel the handler when the client disconnects.
            handler_cancellation=True,
            shutdown_timeout=STOP_GRACE,
        )
        # One file at a time, as in the real queue.
        self._importer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sandbox-import")
        self._is_stopping = Event()
        self._started: Future[int] = Future()
        self._thread = Thread(target=lambda: asyncio.run(self._serve()), name="sandbox", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server. Raises `OSError` if it cannot listen."""
        self._thread.start()
        try:
            self._port = self._started.result()
        except BaseException:
            self._thread.join()
            raise

    def stop(self) -> None:
        """Stop the server and close all connections, idle or not."""
        if not self._thread.is_alive():
            return
        self._is_stopping.set()
        self._loop.call_soon_threadsafe(self._stop_serving.set)
        self._thread.join()
        self._importer.shutdown(cancel_futures=True)

    @property
    def base_url(self) -> str:
        """The URL to configure in a client, without a trailing slash."""
        scheme = "http" if self._ssl_context is None else "https"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{host}:{self._port}"

    def _middlewares(self) -> Sequence[Middleware]:
        """Return the middlewares, outermost first. Tests add more."""
        return [self._gate.middleware]

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop_serving = asyncio.Event()
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, self._host, self._port, ssl_context=self._ssl_context).start()
        except BaseException as error:  # noqa: BLE001  Raised in the thread that waits in start().
            await self._runner.cleanup()
            self._started.set_exception(error)
            return
        self._started.set_result(self._runner.addresses[0][1])
        await self._stop_serving.wait()
        server = self._runner.server
        connections = server.connections if server else []
        transports = [connection.transport for connection in connections if connection.transport]
        await self._runner.cleanup()
        # Over TLS, closing would wait for the client's close_notify.
        for transport in transports:
            transport.abort()
        # The event loop closes the sockets in its next iteration.
        await asyncio.sleep(0)

    def _receive_file(self, ref: str, content: bytes) -> None:
        """Queue an uploaded file. As in real storage, a batch takes one file; later ones are ignored."""
        if (batch := self._batches.receive_file(ref)) is not None:
            self._importer.submit(self._import, batch, content)

    def _import(self, batch: Batch, content: bytes) -> None:
        if (result := self._import_file(batch, content, import_record)) is not None:
            self._batches.finish(batch, result)

    def _import_file(
        self, batch: Batch, content: bytes, import_one: Callable[[bytes, Profiles], RecordResult]
    ) -> ImportResult | None:
        return import_file(
            content,
            checksum=batch.checksum,
            size=batch.size,
            profiles=self._profiles,
            import_one=import_one,
            is_stopping=self._is_stopping.is_set,
        )
