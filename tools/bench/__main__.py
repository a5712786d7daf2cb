"""Measure the exporter, and print a table with the limit beside each figure.

    make bench
    make bench ARGS=--quick
    make bench ARGS=--json-exporter=/path/to/json_exporter

The upstream is the sandbox over HTTPS, in a process of its own. What is compared is measured in turns, in one run, and
the median is reported, because other load on the machine affects all of them alike.
"""

import argparse
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from sitecore_cdp_exporter import __version__
from tools.bench import encoding, error_logs, requests_of_a_scrape, resources, scrape
from tools.bench.figures import Group, Measured, Settings, row, table

GROUPS: tuple[Group, ...] = (
    *scrape.GROUPS,
    *requests_of_a_scrape.GROUPS,
    *resources.GROUPS,
    *encoding.GROUPS,
    *error_logs.GROUPS,
)
ROUNDS = 3
LIBRARIES = ("prometheus-client", "requests", "urllib3", "aiohttp")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description="Measure the exporter.")
    parser.add_argument("--quick", action="store_true", help="fewer batches: two minutes")
    parser.add_argument("--json-exporter", type=Path, metavar="PATH", help="compare with this json_exporter, too")
    options = parser.parse_args(arguments)
    settings = Settings(rounds=ROUNDS, json_exporter=options.json_exporter)
    print(machine())
    print(
        f"Each request takes the API {scrape.ANSWER_TIME * 1000:.0f} ms in (a), (e), (f) and (g), and nothing in the "
        f"others; concurrency {scrape.CONCURRENCY}; median of at least {ROUNDS} rounds.\n"
    )
    print(*table(measure(settings, quick=options.quick)), sep="\n")


def machine() -> str:
    libraries = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    return (
        f"{datetime.now(UTC):%Y-%m-%d}: sitecore-cdp-batch-exporter {__version__}, "
        f"Python {platform.python_version()}, {libraries}; "
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores."
    )


def measure(settings: Settings, *, quick: bool) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for group in GROUPS:
        measured: dict[int, Mapping[str, Measured]] = {}
        for size in group.quick_sizes if quick else group.sizes:
            print(f"{group.names[0]}, {size:,} batches ...", file=sys.stderr)
            measured[size] = group.measure(size, settings)
        rows += [row(name, size, measured[size].get(name)) for name in group.names for size in measured]
    # By the letter in front.
    return sorted(rows, key=lambda cells: cells[0][:3])


if __name__ == "__main__":
    main()
