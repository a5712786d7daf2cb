"""The sandbox as one object: it runs the server in a thread of its own, and lets tests look in and interfere."""

import asyncio
import gzip
import ssl
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event, Thread
from types import TracebackType
from typing import Self, TypeVar

from aiohttp import web

from sitecore_cdp_exporter.sandbox.control import Control
from sitecore_cdp_exporter.sandbox.faults import ActiveFaults, Fault
from sitecore_cdp_exporter.sandbox.gate import Gate
from sitecore_cdp_exporter.sandbox.records import ImportStoppedError, RecordError, import_file
from sitecore_cdp_exporter.sandbox.request_log import RequestLogEntry
from sitecore_cdp_exporter.sandbox.routes import BatchRoutes
from sitecore_cdp_exporter.sandbox.state import Batch, Batches, State, SummaryStats
from sitecore_cdp_exporter.sandbox.storage import MOST_UPLOAD_BYTES, Storage

LOOPBACK = "127.0.0.1"
CLIENT_KEY = "sandbox-client"
API_TOKEN = "sandbox-token"  # noqa: S105  The sandbox guards nothing, so its token is no secret.
# The Batch API's sister collections give at most so many items a page.
LARGEST_PAGE = 100
# How long requests that are being answered may take when the sandbox stops, in seconds.
STOP_GRACE = 0.05
PLACED_CHECKSUM = "0cc175b9c0f1b6a831c399e269772661"
PLACED_SIZE = 3456
# The error log of a placed batch ends here, however many records failed.
MOST_PLACED_LOG_LINES = 1000

Result = TypeVar("Result")


def utc_now() -> datetime:
    """Give the wall clock's time."""
    return datetime.now(UTC)


class Sandbox:
    """A local Batch API. `start` and `stop` it, or use it in a `with` block; it is good for one start.

    It listens on loopback unless another `host` is given, on any free port when `port` is 0, and with TLS when an
    `ssl_context` is given. Every answer of the API takes `answer_delay` seconds; no page of the list is longer than
    `largest_page`; `speed` divides how long uploaded files are queued and processed. `clock` gives the time that
    batches live by, with its zone.
    """

    def __init__(  # noqa: PLR0913  Independent settings, by keyword only, each with a default.
        self,
        *,
        client_key: str = CLIENT_KEY,
        api_token: str = API_TOKEN,
        host: str = LOOPBACK,
        port: int = 0,
        speed: float = 1.0,
        answer_delay: float = 0.0,
        ssl_context: ssl.SSLContext | None = None,
        largest_page: int = LARGEST_PAGE,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._host = host
        self._port = port
        self._ssl_context = ssl_context
        self._batches = Batches(clock=clock, speed=speed)
        self._faults = ActiveFaults()
        self._gate = Gate(client_key=client_key, api_token=api_token, faults=self._faults, answer_delay=answer_delay)
        storage = Storage(self._batches, self._receive_file)
        routes = BatchRoutes(self._batches, storage, largest_page=largest_page)
        application = web.Application(middlewares=[self._gate.middleware], client_max_size=MOST_UPLOAD_BYTES + 1)
        application.add_routes([*routes.routes(), *storage.routes(), *Control(self._faults).routes()])
        self._runner = web.AppRunner(
            application,
            access_log=None,
            # Storage keeps files as they come, whatever Content-Encoding says.
            auto_decompress=False,
            # A client that leaves ends what is done for it.
            handler_cancellation=True,
            shutdown_timeout=STOP_GRACE,
        )
        # One file after the other, as in the real queue.
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
        """Start the server. Raises `OSError` when it cannot listen."""
        self._thread.start()
        try:
            self._port = self._started.result()
        except BaseException:
            self._thread.join()
            raise

    def stop(self) -> None:
        """Stop the server and close all connections, whatever they are waiting for."""
        if not self._thread.is_alive():
            return
        self._is_stopping.set()
        self._loop.call_soon_threadsafe(self._stop_serving.set)
        self._thread.join()
        self._importer.shutdown(cancel_futures=True)

    @property
    def base_url(self) -> str:
        """The URL to configure in a client, without a slash at its end."""
        scheme = "http" if self._ssl_context is None else "https"
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{scheme}://{host}:{self._port}"

    def put_batch(  # noqa: PLR0913  Each is a field of the API's body.
        self,
        ref: str,
        *,
        status: str = "success",
        total: int | None = None,
        succeeded: int | None = None,
        failed: int | None = None,
        time_to_process_millis: int | None = None,
        size: int | None = PLACED_SIZE,
        created_at: datetime | None = None,
        modified_at: datetime | None = None,
        log: bool = False,
    ) -> None:
        """Place a batch in a state where it stays, in place of any that has this ref.

        Any text is taken as `status`. What is None is left out of the body, save `modified_at`, which is then
        `created_at`, which is then now. With `log` there is an error log.
        """
        created_at = created_at or self._batches.now()
        stats = SummaryStats(
            total=total, succeeded=succeeded, failed=failed, time_to_process_millis=time_to_process_millis
        )
        error_log = _placed_log(1 if failed is None else failed) if log else None
        state = State(status=status, since=modified_at or created_at, stats=stats, error_log=error_log)
        self._batches.place(Batch(ref=ref, checksum=PLACED_CHECKSUM, size=size, created_at=created_at, states=(state,)))

    def remove_batch(self, ref: str) -> None:
        """Forget a batch; the API then answers 404."""
        self._batches.remove(ref)

    def set_api_token(self, api_token: str) -> None:
        """Change the API token; the old one then gets a 401."""
        self._gate.set_api_token(api_token)

    @property
    def requests(self) -> list[RequestLogEntry]:
        """The requests so far, the oldest first, without those to the sandbox's own control paths."""
        return self._gate.log.entries()

    def clear_requests(self) -> None:
        """Forget the requests so far and the high-water mark of concurrent ones."""
        self._gate.forget_requests()

    @property
    def most_concurrent_requests(self) -> int:
        """The greatest number of requests to the Batch API that were being answered at the same time."""
        return self._gate.most_concurrent_requests

    @property
    def open_connections(self) -> int:
        """How many connections of clients are open."""
        return len(self._connections())

    def close_idle_connections(self) -> None:
        """Close the connections that wait for a next request, as a load balancer does."""
        self._run(self._close_idle_connections)

    def set_fault(self, fault: Fault, *, ref: str | None = None, times: int | None = None) -> None:
        """Misbehave for one ref, or for all requests to the API: the next `times` ones, or until cleared."""
        self._run(lambda: self._faults.set(fault, ref=ref, times=times))

    def clear_faults(self) -> None:
        """Behave again."""
        self._run(self._faults.clear)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop_serving = asyncio.Event()
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, self._host, self._port, ssl_context=self._ssl_context).start()
        except BaseException as error:  # noqa: BLE001  It is raised in the thread that waits in start().
            await self._runner.cleanup()
            self._started.set_exception(error)
            return
        self._started.set_result(self._runner.addresses[0][1])
        await self._stop_serving.wait()
        await self._runner.cleanup()
        self._gate.abort_connections()
        # The event loop closes the sockets in its next round.
        await asyncio.sleep(0)

    def _run(self, function: Callable[[], Result]) -> Result:
        """Call a function in the server's thread, where the state of connections and faults lives."""

        async def call() -> Result:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    def _connections(self) -> list[web.RequestHandler]:
        server = self._runner.server
        return [] if server is None else server.connections

    def _close_idle_connections(self) -> None:
        for connection in self._connections():
            if not self._gate.is_busy(connection):
                connection.force_close()

    def _receive_file(self, ref: str, content: bytes) -> None:
        """Queue an uploaded file. As in real storage a batch takes one file; what comes later changes nothing."""
        if (batch := self._batches.receive_file(ref)) is not None:
            self._importer.submit(self._import, batch, content)

    def _import(self, batch: Batch, content: bytes) -> None:
        try:
            result = import_file(
                content, checksum=batch.checksum, size=batch.size, is_stopping=self._is_stopping.is_set
            )
        except ImportStoppedError:
            return
        self._batches.finish(batch, result)


def _placed_log(failed: int) -> bytes:
    line = RecordError("null", "400", "Failed to parse import line").line()
    return gzip.compress(line * min(failed, MOST_PLACED_LOG_LINES), mtime=0)
