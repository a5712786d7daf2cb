"""A bound on the connections of an aiohttp server, in number, memory and idle time, such that none locks out others."""

import asyncio
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from aiohttp import web

# What a client may send of a request without the rest of it. Real ones have a tenth; aiohttp would take a megabyte.
LARGEST_REQUEST = 32 * 1024
# What all clients together may leave unread of their answers, save for the newest few, which may be as large as they
# like.
MOST_UNREAD_BYTES = 64 * 1024 * 1024
NEWEST_UNREAD = 4


class ConnectionLimit:
    """Drops connections that are idle for too long, and beyond a limit the one that has been idle longest.

    Likewise, when clients leave too much of their answers unread, those that have done so longest.

    Idle is a connection that has no whole request: one that shakes hands, a kept-alive one, one whose request is still
    on its way or waits to be let in, or one whose client is slow to take its answer. If none is idle, the newest one
    is dropped.

    `track` is a middleware for the application, after those that decide who is let in; the connections are made as
    `Connection`, or as something that becomes one.

    Args:
        limit: How many connections may be open.
        idle_seconds: How long a connection may be idle.

    """

    def __init__(self, limit: int, idle_seconds: float) -> None:
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._open: dict[asyncio.BaseProtocol, asyncio.BaseTransport] = {}
        # The one that has been idle longest is the first.
        self._idle: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}

    @web.middleware
    async def track(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Take the connection of a request for busy until its answer is made."""
        self._end_idleness(request.protocol)
        self._drop_unread()
        try:
            return await handler(request)
        finally:
            if request.protocol in self._open:
                self._begin_idleness(request.protocol)

    def opened(self, connection: asyncio.BaseProtocol, transport: asyncio.BaseTransport) -> None:
        """Count a connection that was made, and drop one if there are too many."""
        self._open[connection] = transport
        if len(self._open) > self._limit:
            self._drop(next(iter(self._idle), connection))
        if connection in self._open:
            self._begin_idleness(connection)

    def drop(self, connection: asyncio.BaseProtocol) -> None:
        """Drop a connection that is too large, if it was not dropped already."""
        if connection in self._open:
            self._drop(connection)

    def closed(self, connection: asyncio.BaseProtocol) -> None:
        """Forget a connection that was lost."""
        self._open.pop(connection, None)
        self._end_idleness(connection)

    def drop_all(self) -> None:
        """Drop every connection, and those that are being accepted right now."""
        self._limit = 0
        for connection in list(self._open):
            self._drop(connection)

    def _begin_idleness(self, connection: asyncio.BaseProtocol) -> None:
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.call_later(self._idle_seconds, self._drop, connection)

    def _end_idleness(self, connection: asyncio.BaseProtocol) -> None:
        timer = self._idle.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def _drop_unread(self) -> None:
        """Drop connections whose clients do not take their answers, until what is left of these is not too much."""
        unread = {connection: _unread_bytes(self._open[connection]) for connection in self._idle}
        total = sum(unread.values())
        for connection in [connection for connection, size in unread.items() if size][:-NEWEST_UNREAD]:
            if total <= MOST_UNREAD_BYTES:
                return
            total -= unread[connection]
            self._drop(connection)

    def _drop(self, connection: asyncio.BaseProtocol) -> None:
        transport = self._open[connection]
        self.closed(connection)
        # Not close(), which would wait for a slow client to take what is buffered for it.
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()


def _unread_bytes(transport: asyncio.BaseTransport) -> int:
    return transport.get_write_buffer_size() if isinstance(transport, asyncio.WriteTransport) else 0


class Connection(web.RequestHandler):
    """A connection that its limit knows of.

    Args:
        limit: The limit that it counts for.
        server: The server that answers its requests.
        add_headers: Adds the headers of all answers. An application does so for those that it makes, but it never sees
            what is no request.
        settings: As for RequestHandler.

    """

    def __init__(
        self,
        limit: ConnectionLimit,
        server: web.Server,
        add_headers: Callable[[web.StreamResponse], None],
        **settings: Any,  # noqa: ANN401  As there.
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)
        self._limit = limit
        self._add_headers = add_headers
        # Bytes of a request whose rest is still on its way.
        self._unfinished = 0

    def data_received(self, data: bytes) -> None:
        """Read on, unless the request is too large."""
        requests = self._request_count  # aiohttp's own, of requests and of what is none.
        super().data_received(data)
        if self._request_count == requests:
            self._unfinished += len(data)
        else:
            self._unfinished = len(data.rpartition(b"\r\n\r\n")[2]) if b"\r\n\r\n" in data else 0
        if self._unfinished > LARGEST_REQUEST:
            self._limit.drop(self)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request, and what made a fault of ours."""
        super().handle_error(request, status, exc, message)
        # That has logged it. Its answer would quote what was sent, credentials included, or the traceback.
        response = web.Response(status=status, text=f"{HTTPStatus(status).phrase}\n")
        response.force_close()
        self._add_headers(response)
        return response

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve the connection."""
        super().connection_made(transport)
        self._limit.opened(self, transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what serves the connection."""
        self._limit.closed(self)
        super().connection_lost(exc)
