"""A bound on the connections of an aiohttp server, in number, memory and idle time, such that none locks out others."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import web

# What a client may send of a request without the rest of it. Real ones have a tenth; aiohttp would take a megabyte.
LARGEST_REQUEST = 32 * 1024
# What is kept for all clients together, save for the newest few, whose answers may be as large as they like.
MOST_KEPT_BYTES = 64 * 1024 * 1024
NEWEST_KEPT = 4
# asyncio has as much for each TLS connection in any case.
SMALL_ANSWER = 256 * 1024


@dataclass(slots=True)
class _Client:
    """What a connection keeps for its client.

    `transports` hold what is unread: that of TCP, and with TLS also that above it, which is the first. `largest_answer`
    is in bytes, and 0 while all were small.
    """

    transports: list[asyncio.WriteTransport]
    largest_answer: int = 0

    def kept_bytes(self) -> int:
        """Return what is kept for the client: what it left unread and, with TLS, as much as its largest answer had.

        OpenSSL does not give back the memory that an answer took until the connection is closed.
        """
        first, *below = self.transports
        # One of TLS that is closed twice has forgotten what is below it, and raises an error when it is asked.
        asked = below if below and first.is_closing() else self.transports
        unread = sum(transport.get_write_buffer_size() for transport in asked)
        return max(unread, self.largest_answer) if below else unread


class ConnectionLimit:
    """Drops connections that are idle for too long, and beyond a limit the one that has been idle longest.

    Likewise, when too much is kept for clients that leave their answers unread, those that have done so longest.

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
        self.idle_seconds = idle_seconds
        self._limit = limit
        self._open: dict[asyncio.BaseProtocol, _Client] = {}
        # The one that has been idle longest is the first.
        self._idle: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}

    @web.middleware
    async def track(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Take the connection of a request for busy until its answer is made."""
        self._end_idleness(request.protocol)
        try:
            response = await handler(request)
            self._note_answer(request.protocol, response)
            return response
        finally:
            if request.protocol in self._open:
                self._begin_idleness(request.protocol)
                # Its answer is on its way by then, and what the client does not take of it is counted.
                asyncio.get_running_loop().call_soon(self._drop_kept)

    def opened(self, connection: asyncio.BaseProtocol, *transports: asyncio.BaseTransport) -> None:
        """Count a connection that was made, and drop one if there are too many.

        Args:
            connection: The protocol that serves it.
            transports: Its transport and, with TLS, that of TCP below, which has what asyncio has encrypted already.

        """
        self._open[connection] = _Client([each for each in transports if isinstance(each, asyncio.WriteTransport)])
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
        self._idle[connection] = loop.call_later(self.idle_seconds, self._drop, connection)

    def _end_idleness(self, connection: asyncio.BaseProtocol) -> None:
        timer = self._idle.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def _note_answer(self, connection: asyncio.BaseProtocol, response: web.StreamResponse) -> None:
        size = response.content_length or 0
        if connection in self._open and size > SMALL_ANSWER:
            self._open[connection].largest_answer = max(self._open[connection].largest_answer, size)

    def _drop_kept(self) -> None:
        """Drop idle connections for which bytes are kept, until those of the others are not too many."""
        kept = {connection: self._open[connection].kept_bytes() for connection in self._idle}
        total = sum(kept.values())
        for connection in [connection for connection, size in kept.items() if size][:-NEWEST_KEPT]:
            if total <= MOST_KEPT_BYTES:
                return
            total -= kept[connection]
            self._drop(connection)

    def _drop(self, connection: asyncio.BaseProtocol) -> None:
        client = self._open[connection]
        self.closed(connection)
        for transport in client.transports:
            # Not close(), which would wait for a slow client to take what is buffered for it.
            transport.abort()


class Connection(web.RequestHandler):
    """A connection that its limit knows of.

    Args:
        limit: The limit that it counts for.
        server: The server that answers its requests.
        add_headers: Adds the headers of all answers. An application does so for those that it makes, but it never sees
            what is no request.
        tcp: The transport below that of TLS, if there is TLS.
        settings: As for RequestHandler.

    """

    def __init__(
        self,
        limit: ConnectionLimit,
        server: web.Server,
        add_headers: Callable[[web.StreamResponse], None],
        tcp: asyncio.BaseTransport | None = None,
        **settings: Any,  # noqa: ANN401  As there.
    ) -> None:
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)
        self._limit = limit
        self._add_headers = add_headers
        self._tcp = tcp
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
        self._limit.opened(self, transport, *([self._tcp] if self._tcp else []))

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what serves the connection."""
        self._limit.closed(self)
        super().connection_lost(exc)
