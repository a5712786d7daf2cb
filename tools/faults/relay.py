"""A TCP relay between the exporter and the API, which does to their bytes what networks do."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

from tools.raw_server import RawServer, reset

PIECE = 65536


@dataclass(frozen=True)
class Wire:
    """How bytes are treated.

    Attributes:
        delay: How many seconds later each piece arrives, both ways.
        piece: How many bytes of an answer arrive at once, at most.
        cut_after: After how many bytes of answers the connection is cut; None: it is not.
        by_reset: Whether it is cut by a TCP reset.
        silent: Whether no byte of an answer arrives.
        garble: What is written over the beginning of an answer.
        answer: What is answered to a request instead of asking the API.
        repeated: What follows that answer, endlessly.

    """

    delay: float = 0.0
    piece: int = PIECE
    cut_after: int | None = None
    by_reset: bool = False
    silent: bool = False
    garble: bytes = b""
    answer: bytes | None = None
    repeated: bytes = b""


class Relay(RawServer):
    """Relays connections to the host and port of a URL."""

    def __init__(self, url: str) -> None:
        super().__init__(self._relay)
        self._upstream = urlsplit(url)
        self._wire = Wire()

    @property
    def base_url(self) -> str:
        """The URL of the API through this relay."""
        return f"{self._upstream.scheme}://127.0.0.1:{self.port}"

    def become(self, wire: Wire, *, for_open_connections: bool = False) -> None:
        """Treat bytes differently from now on. Connections that are open are closed, unless it is for these, too."""
        self._wire = wire
        if not for_open_connections:
            asyncio.run_coroutine_threadsafe(self._close_connections(), self._loop).result()

    async def _close_connections(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._wire.answer is not None:
            await self.read_head(reader)
            await self._answer(self._wire.answer, writer)
            return
        upstream_reader, upstream_writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        ways = [
            asyncio.create_task(self._pass_on(reader, upstream_writer)),
            asyncio.create_task(self._pass_back(upstream_reader, writer)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            upstream_writer.transport.abort()
            with suppress(OSError):
                await upstream_writer.wait_closed()

    async def _answer(self, answer: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        while self._wire.repeated:
            writer.write(self._wire.repeated)
            await writer.drain()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(PIECE):
                await asyncio.sleep(self._wire.delay)
                writer.write(data)
                await writer.drain()

    async def _pass_back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passed = 0
        with suppress(OSError):
            while data := await reader.read(self._wire.piece):
                wire = self._wire
                while self._wire.silent:  # noqa: ASYNC110  Another thread ends it.
                    await asyncio.sleep(0.05)
                await asyncio.sleep(wire.delay)
                if wire.garble:
                    data = wire.garble + data[len(wire.garble) :]
                if wire.cut_after is not None and passed + len(data) >= wire.cut_after:
                    writer.write(data[: wire.cut_after - passed])
                    await writer.drain()
                    if wire.by_reset:
                        reset(writer)
                    return
                writer.write(data)
                await writer.drain()
                passed += len(data)
