"""The sandbox's own path, by which its faults are switched over HTTP. See `faults.py` for what it takes."""

from http import HTTPStatus

from aiohttp import web
from pydantic import ValidationError

from sitecore_cdp_exporter.sandbox.answers import describe, error_answer
from sitecore_cdp_exporter.sandbox.faults import ActiveFaults, FaultOrder

CONTROL_PATH = "/sandbox/"
FAULTS_PATH = f"{CONTROL_PATH}faults"


class Control:
    """Answers the requests to the control path."""

    def __init__(self, faults: ActiveFaults) -> None:
        self._faults = faults

    def routes(self) -> list[web.RouteDef]:
        """Return the routes."""
        return [web.put(FAULTS_PATH, self._set_fault), web.delete(FAULTS_PATH, self._clear_faults)]

    async def _set_fault(self, request: web.Request) -> web.Response:
        try:
            order = FaultOrder.model_validate_json(await request.read())
            self._faults.set(order.parse(), ref=order.ref, times=order.times)
        except ValidationError as error:
            return error_answer(HTTPStatus.BAD_REQUEST, describe(error))
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def _clear_faults(self, _request: web.Request) -> web.Response:
        self._faults.clear()
        return web.Response(status=HTTPStatus.NO_CONTENT)
