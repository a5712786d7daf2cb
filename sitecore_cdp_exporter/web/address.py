"""Listen addresses, and the errors of listening on them."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ANY_IPV6 = "::"


class ListenError(Exception):
    """The exporter cannot listen on an address. The message is one line.

    Attributes:
        address: The address.

    """

    def __init__(self, address: "ListenAddress", error: OSError | UnicodeError) -> None:
        super().__init__(f"cannot listen on {address}: {_reason(error)}")
        self.address = address


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen. No host means all interfaces; port 0 means any free port."""

    host: str | None
    port: int

    @classmethod
    def parse(cls, text: str) -> "ListenAddress":
        """Parse `host:port`, `:port` or `[IPv6 address]:port`. Raises ValueError."""
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
    """Accept connections. As in Go, `[::]` includes IPv4. `options` go to asyncio's `create_server`.

    Raises:
        ListenError: The address is in use, or does not belong to this machine.

    """
    loop = asyncio.get_running_loop()
    try:
        if address.host == ANY_IPV6 and socket.has_dualstack_ipv6():
            # asyncio itself would create an IPv6-only socket.
            dual = socket.create_server((ANY_IPV6, address.port), family=socket.AF_INET6, dualstack_ipv6=True)
            return await loop.create_server(protocol, sock=dual, **options)
        return await loop.create_server(protocol, address.host, address.port, **options)
    except (OSError, UnicodeError) as error:
        raise ListenError(address, error) from None


def _reason(error: OSError | UnicodeError) -> str:
    """Return the operating system's message, which asyncio wraps in a longer one."""
    if isinstance(error, UnicodeError):
        return "this is no host name"
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    # Since Python 3.13 asyncio skips addresses that do not belong to this machine, and sets no errno if none is left.
    return os.strerror(error.errno or errno.EADDRNOTAVAIL)
