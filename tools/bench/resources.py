"""Processor time and memory of the exporter when all that it watches is finished.

CPU time and resident memory come from a process of its own; the latter grows by what the allocators take at a time, so
the memory of a batch is traced: `tracemalloc` counts what Python allocates, in a process of its own that loads the
config, polls, encodes and compresses as the exporter does. What a process with a few batches needs is taken off.
"""

import multiprocessing
import tempfile
import time
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from sitecore_cdp_exporter.metrics.collector import Families
from sitecore_cdp_exporter.metrics.encoder import Exposition
from sitecore_cdp_exporter.metrics.families import poll_families
from sitecore_cdp_exporter.service import Service
from sitecore_cdp_exporter.web.negotiation import compress
from tools.bench.exporter_process import running_exporter, write_config
from tools.bench.figures import Group, Measured, Settings, take_turns
from tools.bench.scrape import CONCURRENCY
from tools.bench.upstream import Upstream, running_upstream

SCRAPE = "(c) scrape, all finished"
PROCESSOR = "(c) processor time of a scrape, all finished"
RESIDENT = "(c) resident memory at its peak"
TRACED = "(c) memory of the watched, traced, at its peak"
# In MB. So 10,000 batches, the most that `max_batches` allows, take less than the process itself.
MAX_MEMORY_OF_A_BATCH = 5e-3
# The system counts processor time in steps of 10 ms, so few batches are scraped often.
MIN_SCRAPES = 5
BATCHES_SCRAPED = 20_000
TRACED_SCRAPES = 3
MAX_WAIT = 600.0


def measure(batches: int, _: Settings) -> Mapping[str, Measured]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with running_upstream(directory, finished=batches) as upstream:
            with running_exporter(upstream, directory, concurrency=CONCURRENCY) as exporter:
                exporter.scrape()
                before = exporter.usage().processor_seconds
                scrapes = max(MIN_SCRAPES, BATCHES_SCRAPED // batches)
                seconds = take_turns(scrapes, {SCRAPE: exporter.scrape})[SCRAPE]
                processor = (exporter.usage().processor_seconds - before) / scrapes
                resident = exporter.usage().most_resident_bytes
            # As many batches as there are connections need all that does not grow.
            few = replace(upstream, refs=upstream.refs[:CONCURRENCY])
            traced = traced_memory(upstream, directory) - traced_memory(few, directory)
    return {
        SCRAPE: Measured(seconds, None, "s"),
        PROCESSOR: Measured(processor, None, "s"),
        RESIDENT: Measured(resident / 1e6, None, "MB", grows=False),
        TRACED: Measured(traced / 1e6, batches * MAX_MEMORY_OF_A_BATCH, "MB"),
    }


def traced_memory(upstream: Upstream, directory: Path) -> int:
    config = write_config(upstream, directory, concurrency=CONCURRENCY)
    with multiprocessing.get_context("spawn").Pool(1) as processes:
        return processes.apply(scrape_traced, (config,))


def scrape_traced(config: Path) -> int:
    """Return the most bytes that were allocated at once since before the config was read."""
    tracemalloc.start()
    service = Service(config, CollectorRegistry())
    exposition = Exposition()
    for _ in range(TRACED_SCRAPES):
        snapshot = service.poller.poll(time.monotonic() + MAX_WAIT)
        blocks = exposition.encode(snapshot, Families(poll_families(snapshot)), generate_latest)
        b"".join(compress(blocks))
    service.close()
    return tracemalloc.get_traced_memory()[1]


GROUPS = (
    Group(
        names=(SCRAPE, PROCESSOR, RESIDENT, TRACED),
        sizes=(100, 1000, 10_000),
        quick_sizes=(100, 1000),
        measure=measure,
    ),
)
