"""How many requests a scrape makes of the API, counted in the sandbox's log.

Listed by the config, each unfinished batch is one request. With discovery a page of the list covers a hundred of
them, and the first page of the finished ones shows whether any has finished.
"""

import math
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sitecore_cdp_exporter.poll.walk import PAGE_SIZE
from tools.bench.exporter_process import running_exporter
from tools.bench.figures import Group, Measured, Settings
from tools.bench.scrape import CONCURRENCY
from tools.bench.upstream import running_upstream

LISTED = "(b) requests of a scrape, listed and unfinished"
DISCOVERED = "(b) requests of a scrape, discovered and unfinished"
FINISHED = 100


def measure(unfinished: int, _: Settings) -> Mapping[str, Measured]:
    return {
        LISTED: Measured(count(unfinished, discovery=False), unfinished, ""),
        DISCOVERED: Measured(count(unfinished, discovery=True), math.ceil(unfinished / PAGE_SIZE) + 1, ""),
    }


def count(unfinished: int, *, discovery: bool) -> int:
    """Count the requests of a scrape in which no batch finishes; there are finished ones, too."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with (
            running_upstream(directory, unfinished=unfinished, finished=FINISHED) as upstream,
            running_exporter(upstream, directory, concurrency=CONCURRENCY, discovery=discovery) as exporter,
        ):
            exporter.scrape()
            upstream.take_requests()
            exporter.scrape()
            return upstream.take_requests()


GROUPS = (
    Group(names=(LISTED, DISCOVERED), sizes=(10, 100, 1000), quick_sizes=(10, 100), measure=measure),
)  # fmt: skip
