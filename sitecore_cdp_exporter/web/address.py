"""Where to listen, and why it can not be done."""

import errno
import os
import socket
from dataclasses import dataclass


class ListenError(Exception):
    """An address can not be listened on. The message is one line."""

    def __init__(self, address: "ListenAddress", error: OSError | UnicodeError) -> None:
        super().__init__(f"can not listen on {address}: {_reason(error)}")


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen. Without a host: on all interfaces. Port 0: any free one."""

    host: str | None
    port: int

    @classmethod
    def parse(cls, text: str) -> "ListenAddress":
        """Read `host:port`, `:port` or `[IPv6 address]:port`; raises ValueError."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError("an IPv6 address stands in brackets: [::1]:10311")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004  A port has 16 bits.
            raise ValueError("expected host:port or :port")
        return cls(host or None, int(port))

    def __str__(self) -> str:
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


def _reason(error: OSError | UnicodeError) -> str:
    """Say in the system's words why an address can not be listened on; asyncio wraps them in a longer text."""
    if isinstance(error, UnicodeError):
        return "this is no host name"
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    # Since Python 3.13 asyncio skips addresses that are not of this machine, and gives no number if none is left.
    return os.strerror(error.errno or errno.EADDRNOTAVAIL)
