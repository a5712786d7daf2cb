"""Reading an error log of a given number of lines: CPU time, memory, and the duration of scrapes meanwhile.

The log is read by a child process, as the exporter does it. What a child needs for a log of one line is taken off.
"""

import asyncio
import json
import multiprocessing
import resource
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from sitecore_cdp_exporter.api.error_log_reader import ErrorLogReader
from sitecore_cdp_exporter.api.error_log_url import LogUrl
from sitecore_cdp_exporter.config.model import ApiConfig, ErrorLogs
from tools.bench.exporter_process import ExporterProcess, running_exporter
from tools.bench.figures import Group, Measured, Settings
from tools.bench.upstream import Upstream, ref
from tools.raw_server import RawServer

PROCESSOR = "(h) processor time of an error log, by its lines"
MEMORY = "(h) memory of reading it"
ALONE = "(h) scrape of 100 unfinished batches"
MEANWHILE = "(h) scrape of them while it is read"
MAX_SECONDS = 10.0
MAX_MEMORY = 8.0
MAX_DELAY = 0.05
SCRAPES = 30
WATCHED = 100
_LINES_AT_ONCE = 1000


class Server(RawServer):
    """An API with batches under way, until one has failed, and the storage of its log."""

    def __init__(self, log: bytes) -> None:
        self.logs = {"/log": log, "/small": error_log(1)}
        self.has_failed = False

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                path = (await self.read_head(reader)).split()[1]
                body = self.logs.get(path) or self._answer(path)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()

        super().__init__(script)

    def _answer(self, path: str) -> bytes:
        has_failed = self.has_failed and path.endswith(ref(0))
        status = {"code": "error", "log": f"{self.url}/log"} if has_failed else {"code": "processing"}
        return json.dumps({"status": status}).encode()


def error_log(lines: int) -> bytes:
    """Return a packed log. Its messages are about as long as real ones."""
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    return b"".join(packer.compress(piece) for piece in _pieces(lines)) + packer.flush()


def _pieces(lines: int) -> Iterator[bytes]:
    message = "Validation error: attribute dateOfBirth has an invalid format, expected yyyy-MM-dd"
    for start in range(0, lines, _LINES_AT_ONCE):
        yield b"".join(
            json.dumps({"ref": ref(number), "code": "400", "message": message}).encode() + b"\n"
            for number in range(start, min(start + _LINES_AT_ONCE, lines))
        )


def measure(lines: int, _: Settings) -> Mapping[str, Measured]:
    with Server(error_log(lines)) as server, tempfile.TemporaryDirectory() as name:
        with multiprocessing.get_context("spawn").Pool(1) as processes:
            seconds, memory = processes.apply(read, (server.url,))
        upstream = Upstream(server.url, Path(DEFAULT_CA_BUNDLE_PATH), tuple(map(ref, range(WATCHED))), None)
        with running_exporter(upstream, Path(name), concurrency=16) as exporter:
            alone, meanwhile = scrape_meanwhile(exporter, server)
    return {
        PROCESSOR: Measured(seconds, MAX_SECONDS, "s"),
        MEMORY: Measured(memory, MAX_MEMORY, "MB", grows=False),
        ALONE: Measured(alone, None, "s", grows=False),
        MEANWHILE: Measured(meanwhile, alone + MAX_DELAY, "s", grows=False),
    }


def read(base_url: str) -> tuple[float, float]:
    """Return the processor time of a log, and how many MB more it takes than one of a line; in a process of its own."""
    reader = ErrorLogReader(ApiConfig(base_url=base_url), ErrorLogs(), {})
    peaks, costs = [], []
    for path in ("/small", "/log"):
        reading = reader.read(LogUrl(f"{base_url}{path}"))
        if reading is None:
            raise RuntimeError("the reading was broken off")
        costs.append(reading.seconds)
        # In KB, of the largest child so far.
        peaks.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
    return costs[1], (peaks[1] - peaks[0]) * 1024 / 1e6


def scrape_meanwhile(exporter: ExporterProcess, server: Server) -> tuple[float, float]:
    """Return what a scrape takes before a batch fails, and from then until its log is read, at the median."""
    exporter.scrape()
    alone = [exporter.scrape() for _ in range(SCRAPES)]
    server.has_failed = True
    meanwhile: list[float] = []
    exporter.scrape()
    while exporter.has_children() or not meanwhile:
        meanwhile.append(exporter.scrape())
    return median(alone), median(meanwhile)


GROUPS = (
    Group(
        names=(PROCESSOR, MEMORY, ALONE, MEANWHILE),
        sizes=(1_000_000,),
        quick_sizes=(1_000_000,),
        measure=measure,
    ),
)
