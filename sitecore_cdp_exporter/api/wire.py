"""A byte stream that keeps a deadline: a TCP connection, and TLS on top of it.

Every wait ends at the deadline of the request that is under way, because the socket gets the time that is left before
each operation. Python counts a timeout for a whole handshake, and for the whole of a TLS record.
"""

import io
import socket
import ssl
from typing import Any, cast

from urllib3.util.ssltransport import SSLTransport

from sitecore_cdp_exporter.api.deadline import Deadline
from sitecore_cdp_exporter.api.resolver import AddressInfo


class Wire(io.RawIOBase):
    """A connection, at first without TLS.

    Attributes:
        deadline: When to stop waiting, with a TimeoutError. None: do not wait; raise BlockingIOError or
            ssl.SSLWantReadError instead.

    """

    def __init__(self, connected: socket.socket, deadline: Deadline | None) -> None:
        super().__init__()
        self._socket: socket.socket | SSLTransport = connected
        self.deadline = deadline

    def start_tls(self, context: ssl.SSLContext, host: str) -> None:
        """Start TLS; a second call starts TLS inside the TLS of a proxy.

        Raises:
            ssl.SSLError: The handshake failed.
            OSError: The connection failed.

        """
        self._set_timeout()
        if isinstance(self._socket, ssl.SSLSocket | SSLTransport):
            outer = Wire(cast("socket.socket", self._socket), self.deadline)
            self._socket = SSLTransport(cast("socket.socket", outer), context, host)
        else:
            self._socket = context.wrap_socket(self._socket, server_hostname=host, do_handshake_on_connect=False)
            self._socket.do_handshake()

    def readable(self) -> bool:
        """Return True: BufferedReader may read from it."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  As in RawIOBase.
        """Receive available bytes; 0 at the end."""
        self._set_timeout()
        return cast("int", self._socket.recv_into(buffer))

    def sendall(self, data: bytes) -> None:
        """Send all of it."""
        self._set_timeout()
        self._socket.sendall(data)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
        super().close()

    def recv(self, size: int) -> bytes:
        """Receive for the inner TLS, which uses this object as a socket."""
        self._set_timeout()
        return cast("bytes", self._socket.recv(size))

    def settimeout(self, seconds: float) -> None:
        """Set the deadline for the inner TLS, whose reads and writes all share it."""
        self.deadline = Deadline(seconds) if seconds else None

    def _set_timeout(self) -> None:
        self._socket.settimeout(0 if self.deadline is None else self.deadline.left())


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
