"""Access control: check the web config's rate limit and passwords before any handler sees a request."""

from collections.abc import Awaitable, Callable, Collection

from aiohttp import BasicAuth, hdrs, web

from sitecore_cdp_exporter.web.security.file import WebConfigFile
from sitecore_cdp_exporter.web.security.passwords import Passwords

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AccessControl:
    """Enforces passwords and the rate limit.

    Args:
        web_config: The current web config.
        open_to_all: The handlers that need no password and are exempt from the rate limit.

    """

    def __init__(self, web_config: WebConfigFile, open_to_all: Collection[Handler]) -> None:
        self._web_config = web_config
        self._open_to_all = open_to_all

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer 429 or 401, or call the handler."""
        if request.match_info.handler in self._open_to_all:
            return await handler(request)
        security = self._web_config.last
        if security.rate_limit is not None and not security.rate_limit.take():
            limited = "The rate limit is reached (rate_limit). Try again later.\n"
            return web.Response(status=429, text=limited, headers={hdrs.RETRY_AFTER: "1"})
        if security.passwords is None or await _has_password(request, security.passwords):
            return await handler(request)
        return web.Response(status=401, text="Unauthorized\n", headers={hdrs.WWW_AUTHENTICATE: "Basic"})


async def _has_password(request: web.Request, passwords: Passwords) -> bool:
    try:
        given = BasicAuth.decode(request.headers.get(hdrs.AUTHORIZATION, ""), encoding="utf-8")
    except ValueError:
        return False
    return await passwords.accept(given.login, given.password)
