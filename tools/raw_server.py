"""Servers for what the sandbox cannot do: a scripted TCP server, and an HTTP proxy."""

import asyncio
import socket
import ssl
import struct
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

# A linger time of zero: closing the socket then sends a TCP reset.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class RawServer:
    """Runs a script for each connection, on loopback; the connection is closed when its script ends.

    `connections` counts them, `heads` holds the requests that were read with `read_head`.
    """

    def __init__(self, script: Script, ssl_context: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.heads: list[str] = []
        self.port = 0
        self._script = script
        self._ssl_context = ssl_context
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="raw-server")

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    @property
    def url(self) -> str:
        """Its URL on loopback."""
        return f"{'http' if self._ssl_context is None else 'https'}://127.0.0.1:{self.port}"

    async def read_head(self, reader: asyncio.StreamReader) -> str:
        """Read a request up to its body, and keep and return it."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        return head

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopped = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=self._ssl_context)
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stopped.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.create_task(self._converse(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # The client may leave at any time.
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._script(reader, writer)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()
            with suppress(OSError):
                await writer.wait_closed()


def answering(*replies: bytes) -> RawServer:
    """Answer each request of a connection with the next of these bytes, then close it."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            await server.read_head(reader)
            writer.write(reply)

    server = RawServer(script)
    return server


def flooding(beginning: bytes, repeated: bytes, interval: float | None = None) -> RawServer:
    """Answer a request, or nothing at all, with bytes that never end, as fast as they go or one piece an interval."""

    async def script(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(beginning)
        while True:
            writer.write(repeated)
            await writer.drain()
            if interval is not None:
                await asyncio.sleep(interval)

    return RawServer(script)


def reset(writer: asyncio.StreamWriter) -> None:
    """Make the end of a connection a TCP reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)


class Proxy(RawServer):
    """An HTTP proxy: tunnels for CONNECT, to loopback for any name. It refuses everything else.

    `connecting` is called before it connects. `refusal` is a status line and headers to answer with instead, and can be
    changed at any time; None: it does not refuse.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        connecting: Callable[[], None] = lambda: None,
        refusal: bytes | None = None,
    ) -> None:
        super().__init__(self._serve, ssl_context)
        self._connecting = connecting
        self.refusal = refusal

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await self.read_head(reader)
        method, target, _ = head.split(" ", 2)
        self._connecting()
        if self.refusal is not None:
            writer.write(self.refusal)
            return
        if method != "CONNECT":
            writer.write(b"HTTP/1.1 405 Tunnels only\r\nContent-Length: 0\r\n\r\n")
            return
        where = urlsplit(f"//{target}")
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", where.port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        try:
            await asyncio.wait(
                [
                    asyncio.create_task(_pump(reader, upstream_writer)),
                    asyncio.create_task(_pump(upstream_reader, writer)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            upstream_writer.transport.abort()
            with suppress(OSError):
                await upstream_writer.wait_closed()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
