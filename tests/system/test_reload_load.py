"""Hundreds of reloads under scrape load leave memory, threads and files where they were."""

import gc
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry

from sitecore_cdp_exporter.api.errors import Reason
from sitecore_cdp_exporter.config.model import ConfigError
from sitecore_cdp_exporter.service import Service
from tests.conditions import wait_until
from tests.fake_api import MAX_WAIT, ref
from tools.exporter_program import API_TOKEN, CLIENT_KEY
from tools.sandbox import Sandbox

RELOADS = 500
BATCHES = 10
# A client that is not let go of takes 50 KB and more, of which there would be hundreds.
SLACK = 15_000_000


def write(path: Path, sandbox: Sandbox, **api: object) -> None:
    basic_auth = {"username": CLIENT_KEY, "password": API_TOKEN}
    document = {
        "api": {"base_url": sandbox.base_url, "basic_auth": basic_auth, **api},
        "batches": [ref(number) for number in range(BATCHES)],
    }
    path.write_text(yaml.safe_dump(document), encoding="utf-8")


@contextmanager
def scraping(service: Service) -> Iterator[Counter[Reason | None]]:
    """Scrape as fast as it goes, and count what the polls of the batches came to; None is a success."""
    counts: Counter[Reason | None] = Counter()
    stopping = threading.Event()

    def scrape() -> None:
        while not stopping.is_set():
            snapshot = service.poller.poll(time.monotonic() + MAX_WAIT)
            counts.update(state.failure for state in snapshot.batches)

    scraper = threading.Thread(target=scrape, name="scraper")
    scraper.start()
    try:
        yield counts
    finally:
        stopping.set()
        scraper.join()


def resident_memory() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGESIZE")


def threads_and_files() -> tuple[int, int]:
    return threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208  A count is all that is wanted.


def reload_many_times(service: Service, path: Path, sandboxes: tuple[Sandbox, Sandbox], times: int) -> None:
    for number in range(times):
        if number % 10 == 9:
            path.write_text("api: {timeout: 5}", encoding="utf-8")
        else:
            write(path, sandboxes[number % 7 == 0], concurrency=1 + number % 4, timeout=f"{30 + number % 3}s")
        with suppress(ConfigError):
            service.reloader.reload()
    # The logs of the sandboxes are in this process, too.
    for sandbox in sandboxes:
        sandbox.clear_requests()


@pytest.mark.slow(
    reason="reloads 500 times under load; test_reload_exporter does so 200 times, but does not measure memory"
)
def test_hundreds_of_reloads_under_load_leave_everything_where_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Captured records would be kept.
    caplog.set_level(logging.CRITICAL)
    path = tmp_path / "config.yaml"
    with (
        Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as one,
        Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as other,
    ):
        for sandbox in (one, other):
            for number in range(BATCHES):
                sandbox.put_batch(ref(number), status="processing")
        write(path, one)
        before = threads_and_files()
        service = Service(path, CollectorRegistry())
        with scraping(service) as counts:
            reload_many_times(service, path, (one, other), 100)
            memory_before = resident_memory()
            reload_many_times(service, path, (one, other), RELOADS - 100)
            memory_after = resident_memory()
        service.close()
        wait_until(lambda: one.open_connections == other.open_connections == 0)
        wait_until(lambda: all(now <= then for now, then in zip(threads_and_files(), before, strict=True)))
    assert set(counts) == {None}, "no scrape shows a failure because of a reload"
    assert memory_after - memory_before < SLACK
