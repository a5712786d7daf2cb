"""Basic auth and faults in front of the Batch API. Storage and the control endpoint bypass both."""

import base64
import hmac
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus

from aiohttp import hdrs, web

from sitecore_cdp_exporter.sandbox.answers import error_answer
from sitecore_cdp_exporter.sandbox.control import CONTROL_PATH
from sitecore_cdp_exporter.sandbox.faults import ActiveFaults
from sitecore_cdp_exporter.sandbox.storage import STORAGE_PATH

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gate:
    """A middleware that checks credentials and applies faults."""

    def __init__(self, *, client_key: str, api_token: str, faults: ActiveFaults) -> None:
        self._client_key = client_key
        self._faults = faults
        self.set_api_token(api_token)

    def set_api_token(self, api_token: str) -> None:
        """Replace the token. The old one is refused from now on."""
        self._credentials = base64.b64encode(f"{self._client_key}:{api_token}".encode())

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Pass a request on, unless it is for the Batch API and a fault is on or its credentials are wrong."""
        if request.path.startswith((CONTROL_PATH, STORAGE_PATH)):
            return await handler(request)
        return await self._faults.answer(request, partial(self._answer, request, handler))

    async def _answer(self, request: web.Request, handler: Handler) -> web.Response:
        if not self._is_authorized(request):
            headers = {"WWW-Authenticate": 'Basic realm="Sitecore CDP sandbox"'}
            return error_answer(HTTPStatus.UNAUTHORIZED, headers=headers)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            allow = error.headers.get(hdrs.ALLOW)
            return error_answer(error.status, headers={"Allow": allow} if allow else None)
        if not isinstance(response, web.Response):
            raise TypeError("The Batch API answers with whole responses only.")
        return response

    def _is_authorized(self, request: web.Request) -> bool:
        scheme, _, credentials = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        given = credentials.strip().encode(errors="surrogateescape")
        return scheme.lower() == "basic" and hmac.compare_digest(given, self._credentials)
