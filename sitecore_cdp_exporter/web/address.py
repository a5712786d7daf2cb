"""Where to listen, and why that fails."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ANY_IPV6 = "::"


class ListenError(Exception):
    """An address cannot be listened on. The message is one line.

    Attributes:
        address: The address.

    """

    def __init__(self, address: "ListenAddress", error: OSError | UnicodeError) -> None:
        super().__init__(f"cannot listen on {address}: {_reason(error)}")
        self.address = address


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen. Without a host: on all interfaces. Port 0: any free one."""

    host: str | None
    port: int

    @classmethod
    def parse(cls, text: str) -> "ListenAddress":
        """Read `host:port`, `:port` or `[IPv6 address]:port`; raises ValueError."""
        if "/" in text:
            raise ValueError("expected host:port or :port, without http:// and without a path")
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError("an IPv6 address needs brackets: [::1]:10311")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004  A port has 16 bits.
            raise ValueError("expected host:port or :port")
        return cls(host or None, int(port))

    def __str__(self) -> str:
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


async def listen(
    address: ListenAddress,
    protocol: Callable[[], asyncio.BaseProtocol],
    **options: Any,  # noqa: ANN401  Those of asyncio.
) -> asyncio.Server:
    """Accept connections. `[::]` means IPv4, too, as in Go. `options` are those of asyncio's `create_server`.

    Raises:
        ListenError: The address is taken, or not of this machine.

    """
    loop = asyncio.get_running_loop()
    try:
        if address.host == ANY_IPV6 and socket.has_dualstack_ipv6():
            # asyncio itself would make it a socket for IPv6 only.
            dual = socket.create_server((ANY_IPV6, address.port), family=socket.AF_INET6, dualstack_ipv6=True)
            return await loop.create_server(protocol, sock=dual, **options)
        return await loop.create_server(protocol, address.host, address.port, **options)
    except (OSError, UnicodeError) as error:
        raise ListenError(address, error) from None


def _reason(error: OSError | UnicodeError) -> str:
    """Return the system's words for the failure; asyncio wraps them in a longer text."""
    if isinstance(error, UnicodeError):
        return "this is no host name"
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    # Since Python 3.13 asyncio skips addresses that are not of this machine, and gives no number if none is left.
    return os.strerror(error.errno or errno.EADDRNOTAVAIL)
