"""A bound on the connections of an aiohttp server, in number and in idle time, such that idle ones lock nobody out."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web


class ConnectionLimit:
    """Drops connections that are idle for too long, and beyond a limit the one that has been idle longest.

    Idle is a connection that has no whole request: a kept-alive one, one whose request is still on its way, or one
    whose client is slow to take its answer. If none is idle, the newest one is dropped.

    `track` is a middleware for the application; the connections are made as `Connection`.

    Args:
        limit: How many connections may be open.
        idle_seconds: How long a connection may be idle.

    """

    def __init__(self, limit: int, idle_seconds: float) -> None:
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._open: dict[web.RequestHandler, asyncio.BaseTransport] = {}
        # The one that has been idle longest is the first.
        self._idle: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    @web.middleware
    async def track(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Take the connection of a request for busy until its answer is made."""
        self._end_idleness(request.protocol)
        try:
            return await handler(request)
        finally:
            if request.protocol in self._open:
                self._begin_idleness(request.protocol)

    def opened(self, connection: web.RequestHandler, transport: asyncio.BaseTransport) -> None:
        """Count a connection that was made, and drop one if there are too many."""
        self._open[connection] = transport
        if len(self._open) > self._limit:
            self._drop(next(iter(self._idle), connection))
        if connection in self._open:
            self._begin_idleness(connection)

    def closed(self, connection: web.RequestHandler) -> None:
        """Forget a connection that was lost."""
        self._open.pop(connection, None)
        self._end_idleness(connection)

    def _begin_idleness(self, connection: web.RequestHandler) -> None:
        loop = asyncio.get_running_loop()
        self._idle[connection] = loop.call_later(self._idle_seconds, self._drop, connection)

    def _end_idleness(self, connection: web.RequestHandler) -> None:
        timer = self._idle.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def _drop(self, connection: web.RequestHandler) -> None:
        transport = self._open[connection]
        self.closed(connection)
        # Not close(), which would wait for a slow client to take what is buffered for it.
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()


class Connection(web.RequestHandler):
    """A connection that its limit knows of.

    Args:
        limit: The limit that it counts for.
        server: The server that answers its requests.
        settings: As for RequestHandler.

    """

    def __init__(self, limit: ConnectionLimit, server: web.Server, **settings: Any) -> None:  # noqa: ANN401  As there.
        super().__init__(server, loop=asyncio.get_running_loop(), **settings)
        self._limit = limit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to serve the connection."""
        super().connection_made(transport)
        self._limit.opened(self, transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End what serves the connection."""
        self._limit.closed(self)
        super().connection_lost(exc)
