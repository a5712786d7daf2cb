"""How many requests the exporter makes of the Batch API: from scrape to scrape, in a day, and after a restart.

    make bench-requests

The first and the third table are counted in the sandbox's own log. For the second, of a whole day, the sandbox would
take too long: there the exporter's poller meets an API of a few lines, and clocks that jump from scrape to scrape.
"""

import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry

from sitecore_cdp_exporter.api.batch import Batch, BatchAnswer, BatchPage, BatchStatus
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.error_log import LogReading
from sitecore_cdp_exporter.api.error_log_url import LogUrl
from sitecore_cdp_exporter.config.model import Config
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.snapshot import Snapshot
from sitecore_cdp_exporter.service import Service
from sitecore_cdp_exporter.watch.batch_files import BatchFiles
from tools.bench.upstream import ref
from tools.sandbox import Sandbox, faults

DAY = 86400.0
LISTED_DAYS = 30
START = 1.75e9
SCRAPE_INTERVAL = 15.0
PROMETHEUS_TIMEOUT = 9.5
MAX_WAIT = 60.0


@contextmanager
def service_and_sandbox(*, max_batches: int = 10_000, answer_delay: float = 0.0) -> Iterator[tuple[Service, Sandbox]]:
    """Give an exporter with discovery, and the sandbox that it asks."""
    with tempfile.TemporaryDirectory() as directory, Sandbox() as sandbox:
        if answer_delay:
            sandbox.set_fault(faults.Delay(answer_delay))
        config = Path(directory) / "config.yaml"
        config.write_text(
            f"""
            api:
              base_url: {sandbox.base_url}
              endpoint: inspect
              basic_auth: {{username: sandbox-client, password: sandbox-token}}
            discovery: {{enabled: true, max_batches: {max_batches}}}
            """,
            encoding="utf-8",
        )
        service = Service(config, CollectorRegistry())
        try:
            yield service, sandbox
        finally:
            service.poller.stop()
            service.close()


def put(sandbox: Sandbox, number: int, status: str) -> None:
    created = datetime.now(UTC) - timedelta(hours=12) + timedelta(seconds=number)
    sandbox.put_batch(ref(number), status=status, total=7, failed=0, created_at=created)


def requests_of_scrape(service: Service, sandbox: Sandbox) -> int:
    """Scrape, and count in the sandbox's log."""
    sandbox.clear_requests()
    service.poller.poll(time.monotonic() + MAX_WAIT)
    return len(sandbox.requests)


@dataclass(frozen=True)
class Scrapes:
    """The requests of the scrapes of an organisation with this many batches."""

    first: int
    quiet: int
    two_finished: int


def count_scrapes(batches: int, unfinished: int) -> Scrapes:
    with service_and_sandbox() as (service, sandbox):
        for number in range(batches):
            put(sandbox, number, "processing" if number < unfinished else "success")
        first = requests_of_scrape(service, sandbox)
        quiet = requests_of_scrape(service, sandbox)
        put(sandbox, 0, "success")
        put(sandbox, 1, "error")
        return Scrapes(first, quiet, requests_of_scrape(service, sandbox))


class Organisation:
    """A Batch API with this many uploads a day, evenly spread, for 30 days. Each finishes after ten minutes."""

    seconds_under_way = 600.0

    def __init__(self, uploads: int) -> None:
        self.now = 0.0
        self.requests = 0
        self.interval = DAY / uploads
        self._batches: dict[tuple[int, bool, bool], Batch] = {}

    def read_credentials(self) -> Credentials:
        return Credentials("client", "token")

    def read_batch(self, ref: str, credentials: Credentials) -> BatchAnswer:  # noqa: ARG002  Everybody may read.
        self.requests += 1
        return BatchAnswer(self._batch(int(ref[-12:], 16), details=True))

    def read_error_log(self, url: LogUrl, seconds: float) -> LogReading | None:
        raise AssertionError(f"no log is expected, but there is {url}, for {seconds} s")

    def read_page(
        self,
        statuses: Sequence[BatchStatus],
        offset: int,
        limit: int,
        credentials: Credentials,  # noqa: ARG002  Likewise.
    ) -> BatchPage:
        self.requests += 1
        last, last_finished, first = (
            math.floor((LISTED_DAYS * DAY + self.now - age) / self.interval)
            for age in (0.0, self.seconds_under_way, LISTED_DAYS * DAY)
        )
        is_unfinished = BatchStatus.PROCESSING in statuses
        numbers = range(last, last_finished, -1) if is_unfinished else range(last_finished, first, -1)
        page = tuple(self._batch(number, details=False) for number in numbers[offset : offset + limit])
        return BatchPage(len(numbers), len(page), page)

    def _batch(self, number: int, *, details: bool) -> Batch:
        created = START - LISTED_DAYS * DAY + number * self.interval
        finished = created + self.seconds_under_way <= START + self.now
        key = (number, finished, details)
        if key not in self._batches:
            self._batches[key] = Batch(
                ref=ref(number),
                status=BatchStatus.SUCCESS if finished else BatchStatus.PROCESSING,
                created=created,
                modified=created + self.seconds_under_way * finished,
                error_log_available=False if details else None,
            )
        return self._batches[key]


def count_time(uploads_a_day: int, seconds: float, *, prometheus: int = 2) -> int:
    """Count the requests within a time, with each Prometheus scraping every 15 s, after the first scrape."""
    organisation = Organisation(uploads_a_day)
    config = Config.model_validate(
        {"api": {"base_url": "https://api.example", "endpoint": "inspect"}, "discovery": {"enabled": True}}
    )

    poller = Poller(
        organisation,
        config,
        BatchFiles((), Path()),
        clock=lambda: organisation.now,
        wall_clock=lambda: START + organisation.now,
    )
    poller.poll(MAX_WAIT)
    organisation.requests = 0
    while organisation.now < seconds:
        organisation.now += SCRAPE_INTERVAL / prometheus
        poller.poll(organisation.now + MAX_WAIT)
    return organisation.requests


@dataclass(frozen=True)
class Restart:
    """One scrape after a restart."""

    seconds: float
    requests: int
    unread: int
    failure: str | None
    newest_first: bool


def count_restart(batches: int, *, answer_delay: float, deadline: float = PROMETHEUS_TIMEOUT) -> list[Restart]:
    """Scrape an organisation with this many finished batches until all details are read."""
    scrapes: list[Restart] = []
    asked: list[str] = []
    with service_and_sandbox(answer_delay=answer_delay) as (service, sandbox):
        for number in range(batches):
            put(sandbox, number, "success")
        while not scrapes or scrapes[-1].unread or scrapes[-1].failure:
            sandbox.clear_requests()
            started = time.monotonic()
            snapshot = service.poller.poll(started + deadline)
            seconds = time.monotonic() - started
            # A request that was under way at the deadline is answered soon after.
            time.sleep(2 * answer_delay)
            details = [entry.path[-36:] for entry in sandbox.requests if not entry.query]
            asked += details
            scrapes.append(_restart(snapshot, seconds, len(sandbox.requests), details))
            if len(asked) != len(set(asked)):
                raise AssertionError("a batch was asked for twice")
    if len(asked) != batches:
        raise AssertionError("a batch was never asked for")
    return scrapes


def _restart(snapshot: Snapshot, seconds: float, requests: int, details: Sequence[str]) -> Restart:
    discovery = snapshot.discovery
    # Threads overtake each other by a few places.
    ranks = [int(each[-12:], 16) for each in details]
    in_order = all(rank < lowest + 100 for rank, lowest in zip(ranks, accumulate(ranks, min), strict=True))
    failure = None if discovery is None or discovery.failure is None else str(discovery.failure)
    return Restart(seconds, requests, snapshot.unread, failure, in_order)


def main() -> None:
    print("Requests of a scrape, counted by the sandbox")
    print(f"{'batches':>8} {'unfinished':>11} {'first':>6} {'quiet':>6} {'after two finished':>19}")
    for batches, unfinished in ((100, 10), (1000, 50), (9000, 250)):
        scrapes = count_scrapes(batches, unfinished)
        print(f"{batches:>8} {unfinished:>11} {scrapes.first:>6} {scrapes.quiet:>6} {scrapes.two_finished:>19}")

    print("\nRequests a day of two Prometheus that scrape every 15 s (11,520 scrapes)")
    print(f"{'uploads a day':>14} {'in the list':>12} {'requests':>9} {'a scrape':>9}")
    for uploads in (3, 33, 100):
        requests = count_time(uploads, DAY)
        print(f"{uploads:>14} {uploads * LISTED_DAYS:>12} {requests:>9} {requests / (2 * DAY / SCRAPE_INTERVAL):>9.2f}")

    for batches, answer_delay in ((1000, 0.05), (9900, 0.05)):
        milliseconds = answer_delay * 1000
        print(f"\nA restart with {batches} finished batches: {milliseconds:.0f} ms an answer, at most 9.5 s a scrape")
        print(f"{'scrape':>7} {'seconds':>8} {'requests':>9} {'unread':>7}  list")
        for number, scrape in enumerate(count_restart(batches, answer_delay=answer_delay), 1):
            line = f"{number:>7} {scrape.seconds:>8.2f} {scrape.requests:>9} {scrape.unread:>7}"
            print(f"{line}  {scrape.failure or 'read'}{'' if scrape.newest_first else ', not newest first'}")


if __name__ == "__main__":
    main()
