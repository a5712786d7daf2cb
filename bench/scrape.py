"""How long a scrape takes against the least it could take, and how many requests it makes.

    make bench

The exporter runs as a process of its own against a sandbox in this one. The limit of a scrape is the API's answer time
times the rounds that `concurrency` leaves no way around: 200 batches, 16 at a time, are 13 rounds.
"""

import math
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import requests

from sitecore_cdp_exporter import __version__
from sitecore_cdp_exporter.sandbox import Sandbox
from tests.exporter_program import API_TOKEN, CLIENT_KEY, Exporter, running_exporter

ANSWER_TIME = 0.1
CONCURRENCY = 16
SCRAPES = 5


def main() -> None:
    print(f"sitecore-cdp-batch-exporter {__version__}, Python {platform.python_version()}, {platform.machine()}")
    print(
        f"\nUnfinished batches: answer time {ANSWER_TIME * 1000:.0f} ms, concurrency {CONCURRENCY}, best of {SCRAPES}"
    )
    print(f"{'batches':>8} {'limit s':>8} {'scrape s':>9} {'ratio':>6} {'requests':>9}")
    for batches in (10, 50, 100, 200, 400):
        with exporter_and_sandbox(batches, status="processing") as (exporter, sandbox):
            sandbox_requests_before = len(sandbox.requests)
            times = [scrape(exporter) for _ in range(SCRAPES)]
            requests_per_scrape = (len(sandbox.requests) - sandbox_requests_before) / SCRAPES
            limit = math.ceil(batches / CONCURRENCY) * ANSWER_TIME
            best = min(times)
            print(f"{batches:>8} {limit:>8.2f} {best:>9.3f} {best / limit:>6.3f} {requests_per_scrape:>9.0f}")
    print("\nFinished batches: the first scrape reads them, the second has nothing to ask")
    print(f"{'batches':>8} {'scrape':>7} {'seconds':>8} {'requests':>9} {'bytes':>9}")
    for batches in (100, 1000):
        with exporter_and_sandbox(batches, status="success") as (exporter, sandbox):
            for number in (1, 2):
                sandbox.clear_requests()
                seconds = scrape(exporter)
                size = len(metrics(exporter))
                print(f"{batches:>8} {number:>7} {seconds:>8.3f} {len(sandbox.requests):>9} {size:>9}")


@contextmanager
def exporter_and_sandbox(batches: int, *, status: str) -> Iterator[tuple[Exporter, Sandbox]]:
    refs = [str(uuid4()) for _ in range(batches)]
    with (
        tempfile.TemporaryDirectory() as directory,
        Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, answer_delay=ANSWER_TIME) as sandbox,
    ):
        for ref in refs:
            sandbox.put_batch(ref, status=status, total=1000, succeeded=1000, failed=0, time_to_process_millis=5000)
        api = {"concurrency": CONCURRENCY}
        with running_exporter(sandbox, Path(directory), batches=refs, api=api) as exporter:
            yield exporter, sandbox


def scrape(exporter: Exporter) -> float:
    started = time.perf_counter()
    metrics(exporter)
    return time.perf_counter() - started


def metrics(exporter: Exporter) -> bytes:
    headers = {"X-Prometheus-Scrape-Timeout-Seconds": "60"}
    response = requests.get(f"{exporter.url}/metrics", headers=headers, timeout=60)
    response.raise_for_status()
    return response.content


if __name__ == "__main__":
    main()
