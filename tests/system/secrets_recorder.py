"""A relay before the sandbox that remembers every byte that a client sent."""

import asyncio
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from tools.raw_server import RawServer


class Request(NamedTuple):
    """One request; `headers` are by their name in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]


class Recorder(RawServer):
    """Passes everything on to another port of loopback. With an `ssl_context` clients speak TLS to it."""

    def __init__(self, port: int, ssl_context: ssl.SSLContext | None = None) -> None:
        super().__init__(self._relay, ssl_context)
        self._upstream_port = port
        self._received: list[bytearray] = []

    def requests(self) -> list[Request]:
        """Take apart what was sent. A body, or anything else that is no head of a request, is an AssertionError."""
        return [request for received in self._received for request in _parse(bytes(received))]

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = bytearray()
        self._received.append(received)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        directions = [
            asyncio.create_task(_pump(reader, upstream_writer, received)),
            asyncio.create_task(_pump(upstream_reader, writer, bytearray())),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            upstream_writer.transport.abort()
            with suppress(OSError):
                await upstream_writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            record += data
            writer.write(data)
            await writer.drain()


def _parse(received: bytes) -> list[Request]:
    *heads, rest = received.split(b"\r\n\r\n")
    assert rest == b"", "something follows the last head"
    return [_parse_head(head.decode()) for head in heads]


def _parse_head(head: str) -> Request:
    first, *lines = head.split("\r\n")
    found = re.fullmatch(r"([A-Z]+) (\S+) HTTP/1\.1", first)
    assert found, "no head of a request, so it is a body"
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert len(headers) == len(lines), "a header stands twice"
    return Request(
        found[1], found[2], {name: line.split(": ", 1)[1] for name, line in zip(headers, lines, strict=True)}
    )
