"""Ways for the sandbox to misbehave that a test needs and a drill does not.

`sandbox.set_fault(faults.DripBody(0.5), ref=..., times=3)` switches one on; `sandbox/faults.py` of the package says
whom it applies to, and has `Status` and `Delay`.
"""

import asyncio
import json
import socket
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache

from aiohttp import web

from sitecore_cdp_exporter.sandbox.faults import Delay, Fault, RightAnswer, Status

__all__ = [
    "Body",
    "CloseReusedConnection",
    "CutBody",
    "CutConnection",
    "Delay",
    "DripBody",
    "DripHeaders",
    "Fault",
    "GzipBomb",
    "Hang",
    "Html",
    "LargeBody",
    "MalformedJson",
    "Redirect",
    "SetCookie",
    "Status",
]

# Set on a request by `Recorder`: whether its connection had brought another one before.
CONNECTION_IS_REUSED = web.RequestKey("connection_is_reused", bool)
MEBIBYTE = 1024**2
# A linger time of zero: closing the socket then sends a TCP reset.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
GZIP_FORMAT = zlib.MAX_WBITS | 16
HTML_PAGE = "<!DOCTYPE html><html><head><title>Maintenance</title></head><body><h1>Back soon</h1></body></html>"


@dataclass(frozen=True)
class Hang(Fault):
    """Do not answer until the faults are cleared or the client leaves; then answer normally."""

    async def answer(self, _request: web.Request, right_answer: RightAnswer, cleared: asyncio.Event) -> web.Response:
        """Wait, then answer."""
        await cleared.wait()
        return await right_answer()


@dataclass(frozen=True)
class DripHeaders(Fault):
    """Send the status line and the headers byte by byte, `interval` seconds apart, then the body at once."""

    interval: float = 1.0

    async def answer(self, request: web.Request, right_answer: RightAnswer, _cleared: asyncio.Event) -> web.Response:
        """Answer, slowly."""
        head, body = _serialize(await right_answer())
        return await _send(request, [*_single_bytes(head), body], self.interval)


@dataclass(frozen=True)
class DripBody(Fault):
    """Send the headers at once, then the body byte by byte, `interval` seconds apart."""

    interval: float = 1.0

    async def answer(self, request: web.Request, right_answer: RightAnswer, _cleared: asyncio.Event) -> web.Response:
        """Answer, slowly."""
        head, body = _serialize(await right_answer())
        return await _send(request, [head, *_single_bytes(body)], self.interval)


@dataclass(frozen=True)
class CutBody(Fault):
    """Send half of the body that Content-Length announces, then close the connection."""

    async def answer(self, request: web.Request, right_answer: RightAnswer, _cleared: asyncio.Event) -> web.Response:
        """Answer the first half."""
        head, body = _serialize(await right_answer())
        return await _send(request, [head + body[: len(body) // 2]])


@dataclass(frozen=True)
class CutConnection(Fault):
    """Close the connection before any byte of the answer; `reset` makes it a TCP reset."""

    reset: bool = False

    async def answer(self, request: web.Request, _right_answer: RightAnswer, _cleared: asyncio.Event) -> web.Response:
        """Close the connection."""
        return _reset(request) if self.reset else await _send(request, [])


@dataclass(frozen=True)
class CloseReusedConnection(Fault):
    """Close a connection unanswered when it brings another request than its first: the keep-alive race."""

    def applies_to(self, request: web.Request) -> bool:
        """Whether the connection was used before."""
        return request[CONNECTION_IS_REUSED]

    async def answer(self, request: web.Request, _right_answer: RightAnswer, _cleared: asyncio.Event) -> web.Response:
        """Close the connection."""
        return await _send(request, [])


@dataclass(frozen=True)
class MalformedJson(Fault):
    """Answer with the first half of the right body, with a matching Content-Length."""

    async def answer(self, _request: web.Request, right_answer: RightAnswer, _cleared: asyncio.Event) -> web.Response:
        """Answer the first half, as if it were whole."""
        response = await right_answer()
        body = _body(response)
        return web.Response(body=body[: len(body) // 2], status=response.status, content_type=response.content_type)


@dataclass(frozen=True)
class Body(Fault):
    """Answer with this body; it is sent unchanged, even with a `content_encoding`."""

    content: bytes
    content_type: str = "application/json"
    content_encoding: str | None = None
    status: int = 200

    async def answer(self, _request: web.Request, _right_answer: RightAnswer, _cleared: asyncio.Event) -> web.Response:
        """Answer at once."""
        headers = {"Content-Type": self.content_type}
        if self.content_encoding is not None:
            headers["Content-Encoding"] = self.content_encoding
        return web.Response(body=self.content, status=self.status, headers=headers)


@dataclass(frozen=True)
class Html(Fault):
    """Answer with an HTML page, as a captive portal or a maintenance page does."""

    status: int = 200

    async def answer(self, _request: web.Request, _right_answer: RightAnswer, _cleared: asyncio.Event) -> web.Response:
        """Answer at once."""
        return web.Response(text=HTML_PAGE, status=self.status, content_type="text/html")


@dataclass(frozen=True)
class LargeBody(Fault):
    """Answer with a valid JSON body of this size."""

    mebibytes: int

    async def answer(self, _request: web.Request, _right_answer: RightAnswer, _cleared: asyncio.Event) -> web.Response:
        """Answer at once."""
        body = json.dumps({"padding": "x" * (self.mebibytes * MEBIBYTE)}).encode()
        return web.Response(body=body, content_type="application/json")


@dataclass(frozen=True)
class GzipBomb(Fault):
    """Answer with a small gzipped body that unpacks to this size."""

    mebibytes: int = 256

    async def answer(self, _request: web.Request, _right_answer: RightAnswer, _cleared: asyncio.Event) -> web.Response:
        """Answer when the body is made."""
        bomb = await asyncio.to_thread(_gzip_bomb, self.mebibytes)
        return web.Response(body=bomb, content_type="application/json", headers={"Content-Encoding": "gzip"})


@dataclass(frozen=True)
class Redirect(Fault):
    """Send the client to another URL."""

    location: str
    status: int = 302

    async def answer(self, _request: web.Request, _right_answer: RightAnswer, _cleared: asyncio.Event) -> web.Response:
        """Answer at once."""
        return web.Response(status=self.status, headers={"Location": self.location})


@dataclass(frozen=True)
class SetCookie(Fault):
    """Answer normally and set a cookie."""

    name: str = "session"
    value: str = "sandbox"

    async def answer(self, _request: web.Request, right_answer: RightAnswer, _cleared: asyncio.Event) -> web.Response:
        """Answer at once."""
        response = await right_answer()
        response.set_cookie(self.name, self.value)
        return response


def _body(response: web.Response) -> bytes:
    if not isinstance(response.body, bytes):
        raise TypeError("The sandbox answers with bytes only.")
    return response.body


def _serialize(response: web.Response) -> tuple[bytes, bytes]:
    """Return status line with headers, and body, as they go over the wire."""
    body = _body(response)
    headers = {**response.headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode(), body


def _single_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


async def _send(request: web.Request, pieces: list[bytes], interval: float = 0.0) -> web.Response:
    """Write raw bytes, with a pause after each piece, and close the connection.

    The response that it returns is never sent, because the connection is closed then; aiohttp wants one.
    """
    transport = request.transport
    if transport is not None:
        for piece in pieces:
            transport.write(piece)
            await asyncio.sleep(interval)
        transport.close()
    return web.Response()


def _reset(request: web.Request) -> web.Response:
    if (transport := request.transport) is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        transport.abort()
    return web.Response()


@lru_cache(maxsize=2)
def _gzip_bomb(mebibytes: int) -> bytes:
    """Compress an empty JSON object behind many spaces, one MiB at a time."""
    compressor = zlib.compressobj(wbits=GZIP_FORMAT)
    spaces = b" " * MEBIBYTE
    pieces = [compressor.compress(spaces) for _ in range(mebibytes)]
    return b"".join([*pieces, compressor.compress(b"{}"), compressor.flush()])
