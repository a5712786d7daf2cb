"""What requests came in, for tests to look at."""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from weakref import WeakSet

from aiohttp import web

from sitecore_cdp_exporter.sandbox.control import CONTROL_PATH
from sitecore_cdp_exporter.sandbox.storage import STORAGE_PATH
from tools.sandbox.faults import CONNECTION_IS_REUSED

# The log is bounded, so that a sandbox that runs for weeks stays small.
MAX_ENTRIES = 20_000

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class RequestLogEntry:
    """One request. `status` is None while it waits for its answer, and for good when it got none.

    `time` is monotonic, of the request's arrival. `headers` are found whatever their case. `peer_port` is the
    client's TCP port: requests that have it in common shared a connection.
    """

    time: float
    method: str
    path: str
    query: str
    headers: Mapping[str, str] = field(repr=False)
    peer_port: int
    status: int | None = None


class RequestLog:
    """The latest requests, safe to use from several threads."""

    def __init__(self) -> None:
        self._entries: deque[RequestLogEntry] = deque(maxlen=MAX_ENTRIES)
        self._lock = Lock()

    def add(self, request: web.Request, *, peer_port: int) -> RequestLogEntry:
        """Add a request that came in just now; its status is set on the entry later."""
        entry = RequestLogEntry(
            time.monotonic(), request.method, request.path, request.query_string, request.headers, peer_port
        )
        with self._lock:
            self._entries.append(entry)
        return entry

    def entries(self) -> list[RequestLogEntry]:
        """Return the entries so far, the oldest first."""
        with self._lock:
            return list(self._entries)

    def clear(self) -> None:
        """Forget all entries."""
        with self._lock:
            self._entries.clear()


class Recorder:
    """The middleware that logs and counts requests, outside all else that answers them."""

    def __init__(self) -> None:
        self.log = RequestLog()
        self.concurrent_requests = 0
        self.most_concurrent_requests = 0
        self._used_connections: WeakSet[object] = WeakSet()
        self._busy_connections: set[web.RequestHandler] = set()

    def is_busy(self, connection: web.RequestHandler) -> bool:
        """Whether a request of this connection is being answered."""
        return connection in self._busy_connections

    def forget(self) -> None:
        """Clear the log and the high-water mark. Requests that are being answered still count as concurrent."""
        self.log.clear()
        self.most_concurrent_requests = self.concurrent_requests

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Log a request and the status of its answer."""
        if request.path.startswith(CONTROL_PATH):
            return await handler(request)
        transport = request.transport
        if transport is None:
            raise web.HTTPBadRequest(reason="The client is gone")
        entry = self.log.add(request, peer_port=transport.get_extra_info("peername")[1])
        request[CONNECTION_IS_REUSED] = transport in self._used_connections
        self._used_connections.add(transport)
        self._busy_connections.add(request.protocol)
        is_counted = not request.path.startswith(STORAGE_PATH)
        self.concurrent_requests += is_counted
        self.most_concurrent_requests = max(self.most_concurrent_requests, self.concurrent_requests)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            entry.status = error.status
            raise
        finally:
            self.concurrent_requests -= is_counted
            self._busy_connections.discard(request.protocol)
        # After a fault the connection may be closed already; the response then goes nowhere.
        if not transport.is_closing():
            entry.status = response.status
        return response
