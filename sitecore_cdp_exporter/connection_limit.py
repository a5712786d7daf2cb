"""A bound on the connections of an aiohttp server, such that idle ones never lock a new client out."""

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler


class ConnectionLimit:
    """Accepts connections up to a limit; beyond it, the one that has been idle longest is dropped for the new one.

    Idle is a connection that has no whole request: a kept-alive one, one whose request is still on its way, or one
    whose client is slow to take its answer. If none is idle, the new one is refused.

    `track` is a middleware for the application; `accept` is the protocol factory for `loop.create_server`.

    Args:
        limit: How many connections may be open.

    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._busy: set[object] = set()

    @web.middleware
    async def track(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Mark the connection of a request as busy until its answer is made."""
        self._busy.add(request.protocol)
        try:
            return await handler(request)
        finally:
            self._busy.discard(request.protocol)

    def accept(self, server: web.Server) -> asyncio.BaseProtocol:
        """Return the protocol of a new connection."""
        # The oldest connection is the first: the server keeps them in order.
        connections = server.connections
        if len(connections) < self._limit:
            return server()
        idle = next((connection for connection in connections if connection not in self._busy), None)
        if idle is None:
            return _Refusal()
        _drop(idle)
        return server()


class _Refusal(asyncio.Protocol):
    """Closes the connection as soon as it is made."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _drop(connection: RequestHandler) -> None:
    # Not close(), which would wait for a slow client to take what is buffered for it.
    if isinstance(connection.transport, asyncio.WriteTransport):
        connection.transport.abort()
