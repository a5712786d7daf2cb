"""TLS handshakes, each with the settings of its moment."""

import asyncio
import logging
import ssl
from collections.abc import Callable

from sitecore_cdp_exporter.web.connection_limit import ConnectionLimit

logger = logging.getLogger(__name__)

# For a client that is silent, or slow.
HANDSHAKE_SECONDS = 10.0


class Handshake(asyncio.Protocol):
    """A new connection until TLS is up; another protocol then takes over.

    It counts for the limit from its first moment, and as idle, so that those who never shake hands lock nobody out.

    Args:
        limit: The limit that it counts for.
        context: Gives what to shake hands with.
        successor: Makes the protocol that takes over, given the transport of TCP. The one that it will get is of TLS.

    """

    def __init__(
        self,
        limit: ConnectionLimit,
        context: Callable[[], ssl.SSLContext],
        successor: Callable[[asyncio.Transport], asyncio.Protocol],
    ) -> None:
        self._limit = limit
        self._context = context
        self._successor = successor
        # What came along with the last message of the handshake.
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to shake hands."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a TCP connection can be read and written")
        # Nothing is read before TLS is up.
        transport.pause_reading()
        self._limit.opened(self, transport)
        self._task = asyncio.get_running_loop().create_task(self._shake_hands(transport))

    def data_received(self, data: bytes) -> None:
        """Keep what is for the successor."""
        self._received += data

    async def _shake_hands(self, transport: asyncio.Transport) -> None:
        try:
            encrypted = await self._start_tls(transport)
        finally:
            self._limit.closed(self)
        # It is None, or closing, when the connection was lost meanwhile.
        if encrypted is None or encrypted.is_closing():
            return
        successor = self._successor(transport)
        encrypted.set_protocol(successor)
        successor.connection_made(encrypted)
        if self._received:
            successor.data_received(bytes(self._received))

    async def _start_tls(self, transport: asyncio.Transport) -> asyncio.Transport | None:
        if transport.is_closing():
            return None
        try:
            return await asyncio.get_running_loop().start_tls(
                transport,
                self,
                self._context(),
                server_side=True,
                ssl_handshake_timeout=HANDSHAKE_SECONDS,
                # The client may still be taking its last answer, which asyncio would cut off.
                ssl_shutdown_timeout=self._limit.idle_seconds,
            )
        except OSError as error:
            # No more than that: any stranger could fill the log.
            client, *_ = transport.get_extra_info("peername") or ("unknown",)
            logger.debug("no TLS handshake", extra={"client": client, "reason": str(error)})
            # It would keep asyncio's large buffer of the connection until the garbage collector finds the cycle.
            error.__traceback__ = None
            return None
