"""Byte streams that keep a deadline: a TCP connection, and TLS on top of one.

Every wait ends at the deadline of the request that is under way, because the socket gets the time that is left before
each operation. TLS runs in memory on top of any such stream, so TLS inside the TLS of a proxy is nothing special.
"""

import io
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from sitecore_cdp_exporter.api.deadline import Deadline
from sitecore_cdp_exporter.api.resolver import AddressInfo

Result = TypeVar("Result")

# A TLS record holds at most 16 KiB.
_BUFFER_SIZE = 16 * 1024 + 512


class Wire(io.RawIOBase):
    """A TCP connection.

    Attributes:
        deadline: When to stop waiting, with a TimeoutError. None: do not wait; raise BlockingIOError instead.

    """

    def __init__(self, connected: socket.socket, deadline: Deadline) -> None:
        super().__init__()
        self._socket = connected
        self.deadline: Deadline | None = deadline

    def readable(self) -> bool:
        """Say that BufferedReader may read from it."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  As in RawIOBase.
        """Receive what there is; 0 at the end."""
        self._set_timeout()
        return self._socket.recv_into(buffer)

    def sendall(self, data: Any) -> None:  # noqa: ANN401  As in socket.
        """Send all of it."""
        self._set_timeout()
        self._socket.sendall(data)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
        super().close()

    def _set_timeout(self) -> None:
        self._socket.settimeout(0 if self.deadline is None else self.deadline.left())


class TlsWire(io.RawIOBase):
    """TLS on top of another stream, whose deadline holds for the handshake and all that follows.

    Raises:
        ssl.SSLError: The handshake failed.
        OSError: The stream below failed.

    """

    def __init__(self, below: "Wire | TlsWire", context: ssl.SSLContext, host: str) -> None:
        super().__init__()
        self._below = below
        self._buffer = memoryview(bytearray(_BUFFER_SIZE))
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._run(self._tls.do_handshake)

    def readable(self) -> bool:
        """Say that BufferedReader may read from it."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  As in RawIOBase.
        """Receive what there is; 0 at the end."""
        try:
            return self._run(lambda: cast("int", self._tls.read(len(buffer), buffer)))
        # Many servers end a connection without the goodbye of TLS. The framing of HTTP shows if that was too early.
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return 0

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        left = memoryview(data)
        while left:
            left = left[self._run(lambda: self._tls.write(left)) :]  # noqa: B023  It is called at once.

    def close(self) -> None:
        """Close the stream below."""
        self._below.close()
        super().close()

    def _run(self, operation: Callable[[], Result]) -> Result:
        """Run an operation of OpenSSL, passing the bytes that it has for the other side and wants from it."""
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                self._flush()
            except ssl.SSLError:
                # OpenSSL may have left an alert for the server, which says why.
                with suppress(OSError):
                    self._flush()
                raise
            else:
                self._flush()
                return result
            if count := self._below.readinto(self._buffer):
                self._incoming.write(self._buffer[:count])
            else:
                self._incoming.write_eof()

    def _flush(self) -> None:
        if data := self._outgoing.read():
            self._below.sendall(data)


def connect(addresses: list[AddressInfo], deadline: Deadline) -> Wire:
    """Connect to the first address that answers, or raise the OSError of the last one."""
    failure = OSError("the look-up gave no address")
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        # Each address gets an equal share of the time left, so that a dead one leaves time for the next.
        share = deadline.left() / (len(addresses) - index)
        try:
            return Wire(_connected(socket.socket(family, kind, protocol), address, share), deadline)
        except OSError as error:
            failure = error
    raise failure


def _connected(connecting: socket.socket, address: Any, timeout: float) -> socket.socket:  # noqa: ANN401  Of any family.
    try:
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connecting.settimeout(timeout)
        connecting.connect(address)
    except BaseException:
        connecting.close()
        raise
    return connecting
