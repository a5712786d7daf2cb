"""Encoding finished batches, compared with prometheus_client and with merely joining the same lines.

Encoding is measured in CPU time: it waits for nothing, but other load on the machine would make it wait. Each
round encodes the same batches and readings in new states, as each poll does. How long the event loop is held is
measured by a task that wakes up every millisecond while a thread encodes: the longest that it slept too long.
"""

import asyncio
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from prometheus_client import generate_latest
from prometheus_client.exposition import choose_encoder

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.metrics.collector import Families
from sitecore_cdp_exporter.metrics.encoder import Encoder, Exposition
from sitecore_cdp_exporter.metrics.families import batch_families
from sitecore_cdp_exporter.poll.reading import Reading
from sitecore_cdp_exporter.poll.snapshot import BatchState, Snapshot
from sitecore_cdp_exporter.watch.watchlist import Watched
from tools.bench.exporter_process import ACCEPT
from tools.bench.figures import Group, Measured, Settings, take_turns
from tools.bench.upstream import ref

JOINING = "(d) bare joining of the same lines"
TEXT = "(d) encoding of finished batches, text"
OPENMETRICS = "(d) encoding of finished batches, OpenMetrics"
FIRST = "(d) encoding, the first time"
BY_PROMETHEUS_CLIENT = "(d) generate_latest of the same families"
HELD = "(d) event loop held by encoding, at most"
HELD_BY_PROMETHEUS_CLIENT = "(d) event loop held by generate_latest, at most"
HELD_BY_NOTHING = "(d) event loop held by nothing, at most"
# How many times the bare joining the encoding may take.
MAX_TIMES_THE_JOINING = 3
# Python changes threads every 5 ms, but not in the midst of joining a block.
MAX_SWITCH_INTERVALS = 2
TICK = 0.001
TIMES_A_ROUND = 5


def finished(number: int) -> BatchState:
    batch = Batch(
        ref=ref(number),
        status=BatchStatus.SUCCESS,
        error_log_available=False,
        total_records=121776,
        succeeded_records=121776,
        failed_records=0,
        time_to_process_seconds=614.867,
        size_bytes=3456,
        created=1745483580.77 + number,
        modified=1745484364.0 + number,
        upload_expiry=1745487180.77 + number,
    )
    watched = Watched(ref(number), "nightly-guests", {"team": "crm"})
    return BatchState(watched=watched, reading=Reading(batch, 1.75e9 + number / 7), accepted=True)


def repeated(snapshot: Snapshot) -> Snapshot:
    """Return the next poll's snapshot when nothing has changed."""
    return replace(snapshot, batches=tuple(map(replace, snapshot.batches)))


def encode(exposition: Exposition, snapshot: Snapshot, encoder: Encoder) -> Iterable[bytes]:
    return [*exposition.encode(snapshot, Families(), encoder)]


def encode_by_prometheus_client(snapshot: Snapshot) -> bytes:
    return generate_latest(Families(batch_families(snapshot)))


def measure(batches: int, settings: Settings) -> Mapping[str, Measured]:
    snapshot = Snapshot(batches=tuple(map(finished, range(batches))), api_up=True, api_last_success=0, poll_duration=1)
    openmetrics, _ = choose_encoder(ACCEPT)
    exposition = Exposition()
    body = encode_by_prometheus_client(snapshot)
    if b"".join(encode(exposition, snapshot, generate_latest)) != body:
        raise AssertionError("these are not the bytes of prometheus_client")
    lines = body.splitlines(keepends=True)

    def of_next_poll(run: Callable[[Snapshot], object]) -> float:
        polled = repeated(snapshot)
        return processor_seconds_of(lambda: run(polled))

    def held(run: Callable[[], object]) -> float:
        return asyncio.run(longest_hold(run))

    medians = take_turns(
        settings.rounds,
        {
            JOINING: lambda: best(lambda: processor_seconds_of(lambda: b"".join(lines))),
            TEXT: lambda: best(lambda: of_next_poll(lambda polled: encode(exposition, polled, generate_latest))),
            OPENMETRICS: lambda: best(lambda: of_next_poll(lambda polled: encode(exposition, polled, openmetrics))),
            FIRST: lambda: of_next_poll(lambda polled: encode(Exposition(), polled, generate_latest)),
            BY_PROMETHEUS_CLIENT: lambda: of_next_poll(encode_by_prometheus_client),
            HELD: lambda: best(lambda: held(lambda: encode(exposition, snapshot, generate_latest))),
            HELD_BY_PROMETHEUS_CLIENT: lambda: held(lambda: encode_by_prometheus_client(snapshot)),
            HELD_BY_NOTHING: lambda: best(lambda: held(lambda: time.sleep(0.1))),
        },
    )
    joining = MAX_TIMES_THE_JOINING * medians[JOINING]
    limits = {TEXT: joining, OPENMETRICS: joining, HELD: MAX_SWITCH_INTERVALS * sys.getswitchinterval()}
    return {name: Measured(value, limits.get(name), "s", grows="held" not in name) for name, value in medians.items()}


def processor_seconds_of(run: Callable[[], object]) -> float:
    started = time.thread_time()
    run()
    return time.thread_time() - started


def best(measure: Callable[[], float]) -> float:
    """Return the least of a few, for what else the machine does can only add to it."""
    return min(measure() for _ in range(TIMES_A_ROUND))


async def longest_hold(run: Callable[[], object]) -> float:
    """Return by how much the loop was late at most while a thread runs something."""
    longest = 0.0
    running = asyncio.get_running_loop().run_in_executor(None, run)
    while not running.done():
        slept_since = time.perf_counter()
        await asyncio.sleep(TICK)
        longest = max(longest, time.perf_counter() - slept_since - TICK)
    await running
    return longest


GROUPS = (
    Group(
        names=(
            JOINING, TEXT, OPENMETRICS, FIRST, BY_PROMETHEUS_CLIENT, HELD, HELD_BY_PROMETHEUS_CLIENT, HELD_BY_NOTHING,
        ),
        sizes=(1000, 10_000),
        quick_sizes=(1000, 10_000),
        measure=measure,
    ),
)  # fmt: skip
