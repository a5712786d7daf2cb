"""Faults for drills: the sandbox can be down, be slow, or refuse the token.

PUT a JSON object with the fault and its parameters; DELETE clears all faults. Neither needs credentials:

    curl -X PUT http://127.0.0.1:10312/sandbox/faults -d '{"fault": "status", "status": 503, "retry_after": 7}'
    curl -X PUT http://127.0.0.1:10312/sandbox/faults -d '{"fault": "status", "status": 401, "times": 3}'
    curl -X PUT http://127.0.0.1:10312/sandbox/faults -d '{"fault": "delay", "seconds": 8}'
    curl -X DELETE http://127.0.0.1:10312/sandbox/faults

The faults:

    status    answer with the HTTP code `status`, and optionally `retry_after` and `body` (text)
    delay     answer normally, but `seconds` later, or as soon as the faults are cleared

A fault applies to the batch `ref` or, without one, to all requests to the Batch API. A fault for a ref takes
precedence. It lasts for the next `times` requests, or until it is cleared. Setting another one replaces it.

To make a batch fail, upload a bad file, as in Sitecore CDP. `corrupted`: a checksum in upper case, or a size other than
declared. `error` without counts and log: a file that is not gzip. `error` with counts and a log, which has:

    400    for a line that is not JSON, a guest without e-mail address and identifiers, or an invalid address
    402    for an unknown mode
    404    for deleting a guest or an order that was not imported, or was deleted before
    409    for mode `create` of one that was imported before
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass as plain_dataclass
from typing import Annotated, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter
from pydantic.dataclasses import dataclass

from sitecore_cdp_exporter.sandbox.answers import error_answer

PARAMETERS = ConfigDict(extra="forbid")
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
HttpStatus = Annotated[int, Field(ge=200, le=599)]

# Returns the normal answer to a request.
RightAnswer = Callable[[], Awaitable[web.Response]]


class Fault(ABC):
    """A way to misbehave."""

    def applies_to(self, _request: web.Request) -> bool:
        """Whether it applies to this request. Other requests do not count towards `times`."""
        return True

    @abstractmethod
    async def answer(self, request: web.Request, right_answer: RightAnswer, cleared: asyncio.Event) -> web.Response:
        """Answer a request. `cleared` is set as soon as the faults are cleared."""


@dataclass(frozen=True, config=PARAMETERS)
class Status(Fault):
    """Answer with an HTTP status. Without `body`, the body is what the API would send."""

    status: HttpStatus
    retry_after: int | str | None = None
    body: str | None = None

    async def answer(self, _request: web.Request, _right_answer: RightAnswer, _cleared: asyncio.Event) -> web.Response:
        """Answer at once."""
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        if self.body is None:
            return error_answer(self.status, headers=headers)
        return web.Response(text=self.body, status=self.status, headers=headers)


@dataclass(frozen=True, config=PARAMETERS)
class Delay(Fault):
    """Answer normally, but later."""

    seconds: Seconds

    async def answer(self, _request: web.Request, right_answer: RightAnswer, cleared: asyncio.Event) -> web.Response:
        """Wait, then answer."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.seconds):
                await cleared.wait()
        return await right_answer()


class FaultOrder(BaseModel):
    """The body of `PUT /sandbox/faults`: the name of the fault, the requests it applies to, and its own parameters."""

    model_config = ConfigDict(extra="allow", strict=True)

    fault: Literal["status", "delay"]
    ref: str | None = None
    times: PositiveInt | None = None

    def parse(self) -> Fault:
        """Return the fault. Raises pydantic's `ValidationError` for invalid parameters."""
        parameters: TypeAdapter[Status | Delay] = TypeAdapter(Status if self.fault == "status" else Delay)
        return parameters.validate_python(self.model_extra)


@plain_dataclass
class _ActiveFault:
    fault: Fault
    times: int | None


class ActiveFaults:
    """The faults that are on. Used on the event loop only."""

    def __init__(self) -> None:
        self._faults: dict[str | None, _ActiveFault] = {}
        self._cleared = asyncio.Event()

    def set(self, fault: Fault, *, ref: str | None, times: int | None) -> None:
        """Switch a fault on, replacing the previous one for this ref."""
        self._faults[ref] = _ActiveFault(fault, times)

    def clear(self) -> None:
        """Switch all faults off, and release the requests that they delay."""
        self._faults.clear()
        self._cleared.set()
        self._cleared = asyncio.Event()

    async def answer(self, request: web.Request, right_answer: RightAnswer) -> web.Response:
        """Answer a request with the fault that applies to it, or normally."""
        fault = self._take(request)
        return await (right_answer() if fault is None else fault.answer(request, right_answer, self._cleared))

    def _take(self, request: web.Request) -> Fault | None:
        for key in (request.match_info.get("ref"), None):
            active = self._faults.get(key)
            if active is None or not active.fault.applies_to(request):
                continue
            if active.times is not None:
                active.times -= 1
                if active.times == 0:
                    del self._faults[key]
            return active.fault
        return None
