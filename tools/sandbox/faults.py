"""How each fault of `faults.py` is acted out on a connection."""

import asyncio
import json
import socket
import struct
import zlib
from collections.abc import Awaitable, Callable
from functools import lru_cache

from aiohttp import web

from sitecore_cdp_exporter.sandbox import faults
from sitecore_cdp_exporter.sandbox.answers import error_answer

MEBIBYTE = 1024**2
# A linger time of zero: closing the socket then sends a TCP reset.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
GZIP_FORMAT = zlib.MAX_WBITS | 16
HTML_PAGE = "<!DOCTYPE html><html><head><title>Maintenance</title></head><body><h1>Back soon</h1></body></html>"

# Gives the right answer to a request.
RightAnswer = Callable[[], Awaitable[web.Response]]


async def misbehave(  # noqa: C901, PLR0911, PLR0912  One case a fault reads best.
    fault: faults.Fault,
    request: web.Request,
    right_answer: RightAnswer,
    wait_until_cleared: Callable[[], Awaitable[None]],
) -> web.Response:
    """Answer a request in the way of the fault."""
    match fault:
        case faults.Status():
            return _status(fault)
        case faults.Delay():
            await asyncio.sleep(fault.seconds)
            return await right_answer()
        case faults.Hang():
            await wait_until_cleared()
            return await right_answer()
        case faults.DripHeaders():
            head, body = _serialize(await right_answer())
            return await _send(request, [*_single_bytes(head), body], fault.interval)
        case faults.DripBody():
            head, body = _serialize(await right_answer())
            return await _send(request, [head, *_single_bytes(body)], fault.interval)
        case faults.CutBody():
            head, body = _serialize(await right_answer())
            return await _send(request, [head + body[: len(body) // 2]])
        case faults.CutConnection():
            return _reset(request) if fault.reset else await _send(request, [])
        case faults.CloseReusedConnection():
            return await _send(request, [])
        case faults.MalformedJson():
            return _half(await right_answer())
        case faults.Body():
            headers = {"Content-Type": fault.content_type}
            if fault.content_encoding is not None:
                headers["Content-Encoding"] = fault.content_encoding
            return web.Response(body=fault.content, status=fault.status, headers=headers)
        case faults.Html():
            return web.Response(text=HTML_PAGE, status=fault.status, content_type="text/html")
        case faults.LargeBody():
            return web.Response(body=_large_json(fault.mebibytes), content_type="application/json")
        case faults.GzipBomb():
            bomb = await asyncio.to_thread(_gzip_bomb, fault.mebibytes)
            return web.Response(body=bomb, content_type="application/json", headers={"Content-Encoding": "gzip"})
        case faults.Redirect():
            return web.Response(status=fault.status, headers={"Location": fault.location})
        case faults.SetCookie():
            response = await right_answer()
            response.set_cookie(fault.name, fault.value)
            return response


def _status(fault: faults.Status) -> web.Response:
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    if fault.body is None:
        return error_answer(fault.status, headers=headers)
    return web.Response(text=fault.body, status=fault.status, headers=headers)


def _half(response: web.Response) -> web.Response:
    body = _body(response)
    return web.Response(body=body[: len(body) // 2], status=response.status, content_type=response.content_type)


def _body(response: web.Response) -> bytes:
    if not isinstance(response.body, bytes):
        raise TypeError("The sandbox answers with bytes only.")
    return response.body


def _serialize(response: web.Response) -> tuple[bytes, bytes]:
    """Give status line with headers, and body, as they go over the wire."""
    body = _body(response)
    headers = {**response.headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {response.status} {response.reason}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode(), body


def _single_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


async def _send(request: web.Request, pieces: list[bytes], interval: float = 0.0) -> web.Response:
    """Write raw bytes, with a pause after each piece, and close the connection.

    The response that it gives is never sent, because the connection is closed then; aiohttp wants one.
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


def _large_json(mebibytes: int) -> bytes:
    padding = "x" * (mebibytes * MEBIBYTE)
    return json.dumps({"padding": padding}).encode()


@lru_cache(maxsize=2)
def _gzip_bomb(mebibytes: int) -> bytes:
    """Compress an empty JSON object behind many spaces, one MiB at a time."""
    compressor = zlib.compressobj(wbits=GZIP_FORMAT)
    spaces = b" " * MEBIBYTE
    pieces = [compressor.compress(spaces) for _ in range(mebibytes)]
    return b"".join([*pieces, compressor.compress(b"{}"), compressor.flush()])
