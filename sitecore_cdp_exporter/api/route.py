"""The route of a request: directly to its server, or through a proxy."""

from collections.abc import Mapping

from pydantic import SecretStr
from requests.utils import should_bypass_proxies

from sitecore_cdp_exporter.api.failures import ProxyError
from sitecore_cdp_exporter.api.server import Proxy, Server
from sitecore_cdp_exporter.config.model import ApiConfig
from sitecore_cdp_exporter.config.values import check_proxy_url, is_loopback


def find_proxy(config: ApiConfig, environ: Mapping[str, str], url: str) -> Proxy | None:
    """Return the proxy for a URL, from the config or the environment.

    Raises:
        ProxyError: The variable of the environment does not name an HTTP proxy.

    """
    if config.proxy_url is not None:
        return Proxy.of(config.proxy_url.get_secret_value())
    server = Server.of(url)
    # As in Go and curl: requests to this machine need no proxy, which would see the token.
    if not config.proxy_from_environment or is_loopback(server.host):
        return None
    variable = next(
        (name for name in (f"{server.scheme}_proxy", f"{server.scheme}_proxy".upper()) if name in environ), ""
    )
    proxy_url = environ.get(variable, "")
    if not proxy_url or should_bypass_proxies(url, no_proxy=None):
        return None
    # As other programs do, which share the variable.
    proxy_url = proxy_url if "://" in proxy_url else f"http://{proxy_url}"
    try:
        check_proxy_url(SecretStr(proxy_url))
    except ValueError as error:
        problem = f"{error}"
    else:
        return Proxy.of(proxy_url)
    # Raised out here so that no other error is chained: it may hold the URL.
    raise ProxyError(f"the environment variable {variable}: {problem}")
