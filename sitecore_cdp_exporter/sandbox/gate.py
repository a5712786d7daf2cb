"""The gate before the Batch API: it logs and counts requests, acts out faults and checks basic auth.

The object storage and the sandbox's own control paths stand beside the gate: no faults, no basic auth.
"""

import asyncio
import base64
import hmac
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from weakref import WeakSet

from aiohttp import hdrs, web

from sitecore_cdp_exporter.sandbox.answers import error_answer
from sitecore_cdp_exporter.sandbox.control import CONTROL_PATH
from sitecore_cdp_exporter.sandbox.faults import ActiveFaults
from sitecore_cdp_exporter.sandbox.misbehaviour import misbehave
from sitecore_cdp_exporter.sandbox.request_log import RequestLog
from sitecore_cdp_exporter.sandbox.storage import STORAGE_PATH

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Gate:
    """The middleware. Each answer of the API takes `answer_delay` seconds longer than it needs."""

    def __init__(self, *, client_key: str, api_token: str, faults: ActiveFaults, answer_delay: float) -> None:
        self.log = RequestLog()
        self.most_concurrent_requests = 0
        self._concurrent_requests = 0
        self._client_key = client_key
        self._faults = faults
        self._answer_delay = answer_delay
        self._used_connections: WeakSet[asyncio.Transport] = WeakSet()
        self._busy_connections: set[web.RequestHandler] = set()
        self.set_api_token(api_token)

    def set_api_token(self, api_token: str) -> None:
        """Change the token; the old one is wrong from now on."""
        self._credentials = base64.b64encode(f"{self._client_key}:{api_token}".encode())

    def abort_connections(self) -> None:
        """Drop the connections that are left. Over TLS a closed one would wait for the client to say goodbye."""
        for transport in list(self._used_connections):
            transport.abort()

    def is_busy(self, connection: web.RequestHandler) -> bool:
        """Whether a request of this connection is being answered."""
        return connection in self._busy_connections

    def forget_requests(self) -> None:
        """Clear the log and the high-water mark. Requests that are being answered still count as concurrent."""
        self.log.clear()
        self.most_concurrent_requests = self._concurrent_requests

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Log a request, and let it through the gate if it is for the Batch API."""
        if request.path.startswith(CONTROL_PATH):
            return await handler(request)
        transport = request.transport
        if transport is None:
            raise web.HTTPBadRequest(reason="The client is gone")
        entry = self.log.add(
            method=request.method,
            path=request.path,
            query=request.query_string,
            headers=request.headers,
            peer_port=transport.get_extra_info("peername")[1],
        )
        connection_is_reused = transport in self._used_connections
        self._used_connections.add(transport)
        self._busy_connections.add(request.protocol)
        try:
            if request.path.startswith(STORAGE_PATH):
                response = await handler(request)
            else:
                response = await self._pass(request, handler, connection_is_reused=connection_is_reused)
        except web.HTTPException as error:
            entry.status = error.status
            raise
        finally:
            self._busy_connections.discard(request.protocol)
        # After a fault the connection may be closed already; the response then goes nowhere.
        if not transport.is_closing():
            entry.status = response.status
        return response

    async def _pass(self, request: web.Request, handler: Handler, *, connection_is_reused: bool) -> web.StreamResponse:
        """Answer a request to the Batch API, in the way of the fault that is on, if any."""
        self._concurrent_requests += 1
        self.most_concurrent_requests = max(self.most_concurrent_requests, self._concurrent_requests)
        right_answer = partial(self._answer, request, handler)
        fault = self._faults.take(request.match_info.get("ref"), connection_is_reused=connection_is_reused)
        try:
            if fault is None:
                return await right_answer()
            return await misbehave(fault, request, right_answer, self._faults.wait_until_cleared)
        finally:
            self._concurrent_requests -= 1

    async def _answer(self, request: web.Request, handler: Handler) -> web.Response:
        await asyncio.sleep(self._answer_delay)
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
