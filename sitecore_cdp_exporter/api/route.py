"""Where the requests to the Batch API go: to its server, through a proxy if the config names one."""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr
from requests.utils import should_bypass_proxies

from sitecore_cdp_exporter.api.failures import ProxyError
from sitecore_cdp_exporter.config.model import ApiConfig
from sitecore_cdp_exporter.config.values import check_proxy_url, is_loopback

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


def find_proxy(config: ApiConfig, environ: Mapping[str, str]) -> Proxy | None:
    """Return the proxy that stands before the API, of the config or of the environment.

    Raises:
        ProxyError: The variable of the environment does not name an HTTP proxy.

    """
    if config.proxy_url is not None:
        return Proxy.of(config.proxy_url.get_secret_value())
    server = Server.of(config.base_url)
    # As in Go and curl: what stays on this machine needs no proxy, which would get to see the token.
    if not config.proxy_from_environment or is_loopback(server.host):
        return None
    variable = next(
        (name for name in (f"{server.scheme}_proxy", f"{server.scheme}_proxy".upper()) if name in environ), ""
    )
    url = environ.get(variable, "")
    if not url or should_bypass_proxies(config.base_url, no_proxy=None):
        return None
    # As other programs do, which share the variable.
    url = url if "://" in url else f"http://{url}"
    try:
        check_proxy_url(SecretStr(url))
    except ValueError as error:
        problem = f"{error}"
    else:
        return Proxy.of(url)
    # It is raised out here, so that no other error is chained: it may hold the URL.
    raise ProxyError(f"the environment variable {variable}: {problem}")
