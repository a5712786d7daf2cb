"""Bounds on the server's connections: their number, and the memory held by unread answers.

aiohttp itself closes a connection that does not complete a request in time, and rejects a request that is too large. It
bounds neither the number of connections nor the memory of answers that clients do not read.
"""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web

# All clients together, except the newest few, whose answers may be of any size.
MAX_UNREAD_BYTES = 64 * 1024 * 1024
NEWEST_KEPT = 4
# With TLS a larger answer counts until its connection is closed: OpenSSL keeps the memory until then.
MAX_SMALL_ANSWER = 256 * 1024
# Bytes that a client may send without an answer. A Prometheus scrape is 400 bytes; aiohttp would accept a megabyte.
MAX_REQUEST = 32 * 1024
SECONDS_TO_ANSWER = 0.1
SECONDS_BETWEEN_SWEEPS = 1.0


class Connections:
    """Closes the longest-idle connections when there are too many, or when they hold too much memory.

    A connection is busy while its request is handled, and idle otherwise: before its first request, between two, or
    while its client reads an answer. A busy connection is never closed. If all others are busy, the newest is closed.

    Args:
        limit: How many connections may be open.
        idle_seconds: How long a client may take to send a request, to read an answer, or to send the next request.
        add_headers: Adds the common headers to answers that do not come from the application.

    """

    def __init__(self, limit: int, idle_seconds: float, add_headers: Callable[[web.StreamResponse], None]) -> None:
        self.idle_seconds = idle_seconds
        self.add_headers = add_headers
        self._limit = limit
        self._open: dict[Connection, asyncio.WriteTransport] = {}
        # When each became idle, on the loop's clock; the longest-idle one is first.
        self._idle: dict[Connection, float] = {}
        self._large_answers: dict[Connection, int] = {}

    @web.middleware
    async def track(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Mark the connection busy while its request is handled. Runs after the middlewares that check access."""
        connection = request.protocol
        if not isinstance(connection, Connection):
            raise TypeError("the server's connections are created by `connection`")
        self._idle.pop(connection, None)
        try:
            response = await handler(request)
            if request.secure and (response.content_length or 0) > MAX_SMALL_ANSWER:
                self._large_answers[connection] = response.content_length or 0
            return response
        finally:
            if connection in self._open:
                self._idle[connection] = _now()
                # By then the answer is being sent, and its unread part is counted.
                asyncio.get_running_loop().call_soon(self._close_those_that_hold_too_much)

    def connection(self, server: web.Server, **settings: Any) -> "Connection":  # noqa: ANN401  Those of RequestHandler.
        """Return a new connection to the server, for `create_server`."""
        return Connection(self, server, **settings)

    def opened(self, connection: "Connection", transport: asyncio.WriteTransport) -> None:
        """Add a connection, and close one if there are too many now."""
        self._open[connection] = transport
        self._idle[connection] = _now()
        if len(self._open) > self._limit:
            self.close(next(iter(self._idle)))

    def closed(self, connection: "Connection") -> None:
        """Forget a connection."""
        self._open.pop(connection, None)
        self._idle.pop(connection, None)
        self._large_answers.pop(connection, None)

    def close(self, connection: "Connection") -> None:
        """Close a connection at once, if it is not closed yet."""
        transport = self._open.get(connection)
        if transport is not None:
            self.closed(connection)
            # transport.close() would wait for a slow client to read what is buffered.
            transport.abort()

    def close_if_endless(self, connection: "Connection") -> None:
        """Close a connection whose client has sent too much without a whole request."""
        if connection in self._idle and connection.unanswered_bytes > MAX_REQUEST:
            self.close(connection)

    async def answering(self, request: web.Request, _: web.StreamResponse) -> None:
        """Note that a request is answered. For `on_response_prepare`, since rejected requests never reach `track`."""
        if isinstance(request.protocol, Connection):
            request.protocol.unanswered_bytes = 0

    async def sweep(self) -> None:
        """Close connections that have been idle for too long, until cancelled."""
        while True:
            await asyncio.sleep(min(SECONDS_BETWEEN_SWEEPS, self.idle_seconds))
            idle_too_long = _now() - self.idle_seconds
            for connection in [connection for connection, since in self._idle.items() if since < idle_too_long]:
                self.close(connection)

    def close_all(self) -> None:
        """Close every connection, and those that are still being accepted."""
        self._limit = 0
        for connection in list(self._open):
            self.close(connection)

    def _close_those_that_hold_too_much(self) -> None:
        held = {connection: size for connection in self._idle if (size := self._held_bytes(connection))}
        total = sum(held.values())
        for connection in list(held)[:-NEWEST_KEPT]:
            if total <= MAX_UNREAD_BYTES:
                return
            total -= held[connection]
            self.close(connection)

    def _held_bytes(self, connection: "Connection") -> int:
        transport = self._open[connection]
        if transport.is_closing() and transport.get_extra_info("sslcontext"):
            # A TLS transport that was closed twice raises an error when asked for its buffer size.
            return self._large_answers.get(connection, 0)
        return transport.get_write_buffer_size() + self._large_answers.get(connection, 0)


class Connection(web.RequestHandler):
    """One connection to the server, known to `Connections`.

    Attributes:
        unanswered_bytes: What the client has sent since its last answer.

    """

    def __init__(self, connections: Connections, server: web.Server, **settings: Any) -> None:  # noqa: ANN401  As there.
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=connections.idle_seconds,
            lingering_time=0,
            **settings,
        )
        self._connections = connections
        self.unanswered_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to serve the connection."""
        super().connection_made(transport)
        if not isinstance(transport, asyncio.WriteTransport):
            raise TypeError("a connection can be written to")
        self._connections.opened(self, transport)

    def data_received(self, data: bytes) -> None:
        """Pass data on, and close the connection if the client never finishes a request."""
        super().data_received(data)
        self.unanswered_bytes += len(data)
        if self.unanswered_bytes > MAX_REQUEST:
            # Give aiohttp time to answer a malformed request first.
            asyncio.get_running_loop().call_later(SECONDS_TO_ANSWER, self._connections.close_if_endless, self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop serving the connection."""
        self._connections.closed(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer a malformed request or an internal error without quoting the request: it may contain credentials."""
        super().handle_error(request, status, exc, message)  # Logs the error.
        self.unanswered_bytes = 0
        response = web.Response(status=status, text=f"{HTTPStatus(status).phrase}\n")
        response.force_close()
        self._connections.add_headers(response)
        return response


def _now() -> float:
    return asyncio.get_running_loop().time()
