"""The sandbox's own endpoint, which switches faults on and off. See `faults.py` for its parameters."""

from http import HTTPStatus

from aiohttp import web
from pydantic import ValidationError

from sitecore_cdp_exporter.sandbox.answers import describe, error_answer
from sitecore_cdp_exporter.sandbox.faults import ActiveFaults, FaultOrder

CONTROL_PATH = "/sandbox/"
FAULTS_PATH = f"{CONTROL_PATH}faults"


def control_routes(faults: ActiveFaults) -> list[web.RouteDef]:
    """Return the routes of this endpoint."""

    async def set_fault(request: web.Request) -> web.Response:
        try:
            order = FaultOrder.model_validate_json(await request.read())
            faults.set(order.parse(), ref=order.ref, times=order.times)
        except ValidationError as error:
            return error_answer(HTTPStatus.BAD_REQUEST, describe(error))
        return web.Response(status=HTTPStatus.NO_CONTENT)

    async def clear_faults(_request: web.Request) -> web.Response:
        faults.clear()
        return web.Response(status=HTTPStatus.NO_CONTENT)

    return [web.put(FAULTS_PATH, set_fault), web.delete(FAULTS_PATH, clear_faults)]
