"""How long a scrape takes, compared with the minimum possible and with alternatives.

The limit is the time of one request that is alone, times the rounds that `concurrency` leaves no way around: 1,000
batches, 16 at a time, are 63 rounds.
"""

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tools.bench.bare_client import BareClient, bare_client
from tools.bench.exporter_process import ExporterProcess, running_exporter
from tools.bench.figures import Group, Measured, Settings, take_turns
from tools.bench.json_exporter import running_json_exporter
from tools.bench.plain_loop import PlainLoop
from tools.bench.upstream import Upstream, running_upstream
from tools.exporter_program import API_TOKEN, CLIENT_KEY

ANSWER_TIME = 0.1
CONCURRENCY = 16
SIZE_OF_FEW = 100

SCRAPE = "(a) scrape of unfinished batches"
BARE = "(a) their requests by a bare client"
PROCESSOR = "(c) processor time of a scrape, all unfinished"
LOOP = "(f) plain loop, once around"
JSON_EXPORTER = "(g) json_exporter, all probes"
START = "(e) from the start to the first whole scrape"
# The least that a start takes is to start Python and to import what the exporter is made of.
IMPORTS = "import aiohttp.web, bcrypt, prometheus_client, pydantic, requests, structlog, yaml"


@contextmanager
def slow_upstream(batches: int) -> Iterator[tuple[Upstream, Path]]:
    """Return an API with unfinished batches that takes its time, and a directory."""
    with (
        tempfile.TemporaryDirectory() as name,
        running_upstream(Path(name), unfinished=batches, answer_time=ANSWER_TIME) as upstream,
    ):
        yield upstream, Path(name)


def limit(bare: BareClient, batches: int) -> float:
    return math.ceil(batches / CONCURRENCY) * bare.latency()


def measure_scrape(batches: int, settings: Settings) -> Mapping[str, Measured]:
    with slow_upstream(batches) as (upstream, directory), ExitStack() as stack:
        exporter = stack.enter_context(running_exporter(upstream, directory, concurrency=CONCURRENCY))
        bare = stack.enter_context(bare_client(upstream, concurrency=CONCURRENCY))
        exporter.scrape()
        processor_before = exporter.usage().processor_seconds
        contenders: dict[str, Callable[[], float]] = {
            "limit": lambda: limit(bare, batches),
            SCRAPE: exporter.scrape,
            BARE: lambda: seconds_of(bare.read_all),
        }
        if settings.json_exporter is not None:
            json_exporter = stack.enter_context(
                running_json_exporter(settings.json_exporter, upstream, directory, concurrency=CONCURRENCY)
            )
            contenders[JSON_EXPORTER] = lambda: seconds_of(json_exporter.probe_all)
        # What is over soon is disturbed more, and can be measured more often.
        rounds = settings.rounds * (1 + SIZE_OF_FEW // batches)
        medians = take_turns(rounds, contenders)
        processor = (exporter.usage().processor_seconds - processor_before) / rounds
        loop = PlainLoop(upstream.base_url, (CLIENT_KEY, API_TOKEN), str(upstream.ca_file), upstream.refs)
        least = medians.pop("limit")
        # It takes so long that once is enough.
        medians[LOOP] = seconds_of(loop.run_once)
    measured = {name: Measured(seconds, least, "s") for name, seconds in medians.items()}
    return measured | {PROCESSOR: Measured(processor, None, "s")}


def measure_start(batches: int, settings: Settings) -> Mapping[str, Measured]:
    with slow_upstream(batches) as (upstream, directory), bare_client(upstream, concurrency=CONCURRENCY) as bare:

        def start_and_scrape() -> float:
            with running_exporter(upstream, directory, concurrency=CONCURRENCY) as exporter:
                return whole_scrape(exporter)

        medians = take_turns(
            settings.rounds,
            {
                "imports": lambda: seconds_of(import_libraries),
                "limit": lambda: limit(bare, batches),
                START: start_and_scrape,
            },
        )
    return {START: Measured(medians[START], medians["imports"] + medians["limit"], "s")}


def import_libraries() -> None:
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)  # noqa: S603  It is this very Python.


def whole_scrape(exporter: ExporterProcess) -> float:
    """Scrape, and return the seconds since the start of the exporter."""
    exporter.scrape()
    return time.perf_counter() - exporter.started


def seconds_of(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


GROUPS = (
    Group(
        names=(SCRAPE, BARE, PROCESSOR, LOOP, JSON_EXPORTER),
        sizes=(10, 100, 1000),
        quick_sizes=(10, 100),
        measure=measure_scrape,
    ),
    Group(names=(START,), sizes=(10, 100, 1000), quick_sizes=(10, 100), measure=measure_start),
)
