"""The servers that connections lead to. It loads no library, so that a child process begins at once."""

from base64 import b64encode
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Server:
    """What a connection leads to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """Return the server that a URL names."""
        parts = urlsplit(url)
        return cls(parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS[parts.scheme])

    @property
    def authority(self) -> str:
        """The host and the port, as CONNECT needs them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def host_header(self) -> str:
        """The host, and the port unless it is the usual one."""
        return self.authority.removesuffix(f":{_DEFAULT_PORTS[self.scheme]}")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, and what its Proxy-Authorization is, if it needs one."""

    server: Server
    authorization: str | None = field(repr=False)

    @classmethod
    def of(cls, url: str) -> Self:
        """Return the proxy that a URL names."""
        parts = urlsplit(url)
        if parts.username is None:
            return cls(Server.of(url), None)
        credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return cls(Server.of(url), f"Basic {b64encode(credentials.encode()).decode()}")
