"""The ways in which the sandbox misbehaves on request.

From Python: `sandbox.set_fault(faults.Status(503, retry_after=7), ref=..., times=3)`. A fault belongs to one ref or,
without a ref, to all requests of the Batch API; that of a ref goes first. It holds for the next `times` requests or
until it is cleared; setting one again replaces it.

Over HTTP, without a password: PUT a JSON object that names the fault and its parameters, and optionally `ref` and
`times`; DELETE clears all. For example:

    curl -X PUT http://127.0.0.1:10312/sandbox/faults -d '{"fault": "status", "status": 503, "retry_after": 7}'
    curl -X PUT http://127.0.0.1:10312/sandbox/faults -d '{"fault": "drip_body", "interval": 0.5, "times": 3}'
    curl -X DELETE http://127.0.0.1:10312/sandbox/faults

The faults, with the defaults of their parameters:

    status                   answer with the HTTP code `status`, and optionally `retry_after` and `body` (text)
    delay                    answer rightly, `seconds` later
    hang                     no answer until the faults are cleared; then the right one
    drip_headers             one byte of status line and headers every `interval` (1) seconds, then the body at once
    drip_body                headers at once, then one byte of the body every `interval` (1) seconds
    cut_body                 half of the body that Content-Length announces, then the connection is closed
    cut_connection           the connection is closed before any byte; with `reset` (false) by a TCP reset
    close_reused_connection  the first request of a connection is answered; a later one closes it unanswered
    malformed_json           the first half of the right body, as if it were whole
    body                     `content` (bytes; base64 in JSON) with `content_type` (application/json),
                             `content_encoding` (none) and `status` (200)
    html                     an HTML page, with `status` (200)
    large_body               a JSON body of `mebibytes`
    gzip_bomb                a small body with Content-Encoding gzip that unpacks to `mebibytes` (256)
    redirect                 a redirect to `location`, with `status` (302)
    set_cookie               the right answer, which also sets the cookie `name` (session) to `value` (sandbox)
"""

import asyncio
from dataclasses import dataclass as plain_dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, TypeAdapter
from pydantic.dataclasses import dataclass

_PARAMETERS = ConfigDict(extra="forbid", val_json_bytes="base64")

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
HttpStatus = Annotated[int, Field(ge=200, le=599)]
Mebibytes = Annotated[int, Field(gt=0, le=1024)]


@dataclass(frozen=True, config=_PARAMETERS)
class Status:
    """Answer with an HTTP status. Without `body` it is one as the API itself would send."""

    status: HttpStatus
    retry_after: int | str | None = None
    body: str | None = None


@dataclass(frozen=True, config=_PARAMETERS)
class Delay:
    """Answer rightly, but later."""

    seconds: Seconds


@dataclass(frozen=True, config=_PARAMETERS)
class Hang:
    """Do not answer until the faults are cleared or the client leaves."""


@dataclass(frozen=True, config=_PARAMETERS)
class DripHeaders:
    """Send the status line and the headers byte by byte."""

    interval: Seconds = 1.0


@dataclass(frozen=True, config=_PARAMETERS)
class DripBody:
    """Send the body byte by byte."""

    interval: Seconds = 1.0


@dataclass(frozen=True, config=_PARAMETERS)
class CutBody:
    """Close the connection in the middle of the body."""


@dataclass(frozen=True, config=_PARAMETERS)
class CutConnection:
    """Close the connection before any byte of the answer; `reset` makes it a TCP reset."""

    reset: bool = False


@dataclass(frozen=True, config=_PARAMETERS)
class CloseReusedConnection:
    """Close a connection unanswered when it brings another request than its first: the keep-alive race."""


@dataclass(frozen=True, config=_PARAMETERS)
class MalformedJson:
    """Answer with the first half of the right body, with a matching Content-Length."""


@dataclass(frozen=True, config=_PARAMETERS)
class Body:
    """Answer with this body; it is sent as it is, whatever `content_encoding` says."""

    content: bytes
    content_type: str = "application/json"
    content_encoding: str | None = None
    status: HttpStatus = 200


@dataclass(frozen=True, config=_PARAMETERS)
class Html:
    """Answer with an HTML page, as a captive portal or a maintenance page does."""

    status: HttpStatus = 200


@dataclass(frozen=True, config=_PARAMETERS)
class LargeBody:
    """Answer with a valid JSON body of this size."""

    mebibytes: Mebibytes


@dataclass(frozen=True, config=_PARAMETERS)
class GzipBomb:
    """Answer with a small gzipped body that unpacks to this size."""

    mebibytes: Mebibytes = 256


@dataclass(frozen=True, config=_PARAMETERS)
class Redirect:
    """Send the client to another URL."""

    location: str
    status: HttpStatus = 302


@dataclass(frozen=True, config=_PARAMETERS)
class SetCookie:
    """Answer rightly and set a cookie."""

    name: str = "session"
    value: str = "sandbox"


Fault = (
    Status
    | Delay
    | Hang
    | DripHeaders
    | DripBody
    | CutBody
    | CutConnection
    | CloseReusedConnection
    | MalformedJson
    | Body
    | Html
    | LargeBody
    | GzipBomb
    | Redirect
    | SetCookie
)

FAULTS: dict[str, type[Fault]] = {
    "status": Status,
    "delay": Delay,
    "hang": Hang,
    "drip_headers": DripHeaders,
    "drip_body": DripBody,
    "cut_body": CutBody,
    "cut_connection": CutConnection,
    "close_reused_connection": CloseReusedConnection,
    "malformed_json": MalformedJson,
    "body": Body,
    "html": Html,
    "large_body": LargeBody,
    "gzip_bomb": GzipBomb,
    "redirect": Redirect,
    "set_cookie": SetCookie,
}


class FaultOrder(BaseModel):
    """What `PUT /sandbox/faults` reads: the fault's name, whom it is for, and its parameters beside these."""

    model_config = ConfigDict(extra="allow", strict=True)

    fault: str
    ref: str | None = None
    times: PositiveInt | None = None

    def parse(self) -> Fault:
        """Give the fault. Raises `KeyError` for an unknown name and pydantic's `ValidationError` for a parameter."""
        parameters: TypeAdapter[Fault] = TypeAdapter(FAULTS[self.fault])
        return parameters.validate_python(self.model_extra)


@plain_dataclass
class _ActiveFault:
    fault: Fault
    times: int | None


class ActiveFaults:
    """The faults that are switched on. Used on the event loop only."""

    def __init__(self) -> None:
        self._faults: dict[str | None, _ActiveFault] = {}
        self._cleared = asyncio.Event()

    def set(self, fault: Fault, *, ref: str | None, times: int | None) -> None:
        """Switch a fault on, in place of the one that this ref had."""
        self._faults[ref] = _ActiveFault(fault, times)

    def clear(self) -> None:
        """Switch all faults off, and let the requests that hang go on."""
        self._faults.clear()
        self._cleared.set()
        self._cleared = asyncio.Event()

    async def wait_until_cleared(self) -> None:
        """Wait for the next `clear`."""
        await self._cleared.wait()

    def take(self, ref: str | None, *, connection_is_reused: bool) -> Fault | None:
        """Give the fault that a request meets, and count it."""
        for key in (ref, None):
            active = self._faults.get(key)
            if active is None or (isinstance(active.fault, CloseReusedConnection) and not connection_is_reused):
                continue
            if active.times is not None:
                active.times -= 1
                if active.times == 0:
                    del self._faults[key]
            return active.fault
        return None
