"""What docs/listing.md says that a way to list batches costs, against what the exporter does in a simulated day."""

import math
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchAnswer, BatchPage, BatchStatus
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.error_log import LogReading
from sitecore_cdp_exporter.api.error_log_url import LogUrl
from sitecore_cdp_exporter.config.model import Config, WatchedBatch
from sitecore_cdp_exporter.poll.poller import Poller
from tests.conditions import wait_until
from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, running_exporter
from tests.fake_api import MAX_WAIT, Clock, Lists
from tests.markdown import rows
from tools.sandbox import Sandbox

LISTING = ROOT / "docs" / "listing.md"
HOUR, DAY = 3600.0, 86400.0
NOW = 1.75e9
# Of the page, and of the simulation: the formulas hold for any, and a simulated day is long.
SCRAPE_INTERVAL, SIMULATED_SCRAPE_INTERVAL = 15.0, 120.0
UNDER_WAY = 600.0
ONE_IN_SO_MANY_FAILS = 20
UPLOADS_A_DAY = (3, 500)


def cost(row: str, uploads: int) -> int:
    """Read the table of the page."""
    [cells] = [cells[-2:] for cells in rows(LISTING) if cells[0].startswith(row)]
    return int(cells[UPLOADS_A_DAY.index(uploads)].replace(",", ""))


@cache
def watched(ref: str) -> WatchedBatch:
    return WatchedBatch(ref=ref)


class Organisation:
    """A Batch API with so many uploads a day, evenly spread, for longer than its list goes back."""

    def __init__(self, uploads: int, clock: Clock) -> None:
        self.interval = DAY / uploads
        self.clock = clock
        self.started = clock.now
        self.requests = 0
        self._batches: dict[tuple[int, bool, bool], Batch] = {}

    def now(self) -> float:
        return NOW + self.clock.now - self.started

    def read_credentials(self) -> Credentials:
        return Credentials("client", "token")

    def read_batch(self, ref: str, credentials: Credentials) -> BatchAnswer:  # noqa: ARG002  Everybody may read.
        self.requests += 1
        return BatchAnswer(self.batch(int(ref[-12:], 16) - int(DAY), details=True))

    def read_error_log(self, url: LogUrl, seconds: float) -> LogReading | None:
        raise AssertionError(f"no log is expected, but there is {url}, for {seconds} s")

    def read_page(
        self,
        statuses: tuple[BatchStatus, ...],
        offset: int,
        limit: int,
        credentials: Credentials,  # noqa: ARG002  Likewise.
    ) -> BatchPage:
        self.requests += 1
        last = self.last_allocated(age=0)
        last_finished = self.last_allocated(age=UNDER_WAY)
        numbers = (
            range(last, last_finished, -1)
            if BatchStatus.PROCESSING in statuses
            else range(last_finished, self.last_allocated(age=30 * DAY), -1)
        )
        page = tuple(self.batch(number) for number in numbers[offset : offset + limit])
        return BatchPage(len(numbers), len(page), page)

    def last_allocated(self, *, age: float) -> int:
        """Number the last batch that was allocated so long ago; the one of the start is number 0."""
        return math.floor((self.now() - age - NOW) / self.interval)

    def ref(self, number: int) -> str:
        return f"00000000-0000-4000-8000-{number + int(DAY):012x}"

    def refs_of(self, days: int) -> list[WatchedBatch]:
        numbers = range(self.last_allocated(age=days * DAY) + 1, self.last_allocated(age=0) + 1)
        return [watched(self.ref(number)) for number in numbers]

    def batch(self, number: int, *, details: bool = False) -> Batch:
        created = NOW + number * self.interval
        finished = created + UNDER_WAY <= self.now()
        key = (number, finished, details)
        if key not in self._batches:
            final = BatchStatus.SUCCESS if number % ONE_IN_SO_MANY_FAILS else BatchStatus.ERROR
            self._batches[key] = Batch(
                ref=self.ref(number),
                status=final if finished else BatchStatus.PROCESSING,
                created=created,
                modified=created + UNDER_WAY * finished,
                error_log_available=False if details else None,
                total_records=7 if details else None,
            )
        return self._batches[key]


def make_poller(organisation: Organisation, lists: Lists, *, discovery: bool) -> Poller:
    config = Config.model_validate(
        {"api": {"base_url": "https://api.example", "endpoint": "inspect"}, "discovery": {"enabled": discovery}}
    )
    return Poller(
        organisation, config, lists, clock=organisation.clock, wall_clock=organisation.now, wait=organisation.clock.wait
    )


def requests_in(hours: int, organisation: Organisation, *, discovery: bool) -> int:
    """Let a Prometheus scrape for this long, and count the requests, except those of the first scrape."""
    clock, lists = organisation.clock, Lists()
    poller = make_poller(organisation, lists, discovery=discovery)
    of_the_start = 0
    for scrape in range(int(hours * HOUR / SIMULATED_SCRAPE_INTERVAL)):
        if not discovery:
            lists.replace(organisation.refs_of(days=1))
        poller.poll(clock.now + MAX_WAIT)
        if scrape == 0:
            of_the_start = organisation.requests
        clock.now += SIMULATED_SCRAPE_INTERVAL
    return organisation.requests - of_the_start


def requests_for_listed(uploads: int, scrape_interval: float) -> float:
    """Apply the first part of the page's formula, which has no re-checks; they begin half a day after the start."""
    return uploads * (UNDER_WAY / scrape_interval + 1)


def pages_of_the_list(uploads: int) -> int:
    return math.ceil(30 * uploads / 100)


def requests_for_discovery(uploads: int, scrape_interval: float) -> float:
    """Apply the formula of the page."""
    return 2 * DAY / scrape_interval + uploads + 144 * (pages_of_the_list(uploads) - 1)


@pytest.mark.parametrize(("uploads", "hours", "others"), [(3, 24, 4 + 288), (500, 1, 0)])
def test_the_requests_a_day_for_listed_batches(uploads: int, hours: int, others: int) -> None:
    a_day = requests_in(hours, Organisation(uploads, Clock()), discovery=False) * 24 / hours
    listed = requests_for_listed(uploads, SIMULATED_SCRAPE_INTERVAL)
    assert 0.95 * listed <= a_day <= 1.05 * (listed + others)


# An hour of 500 a day would take a minute.
@pytest.mark.parametrize(("uploads", "hours"), [(3, 6), (40, 1)])
def test_the_requests_a_day_for_discovery(uploads: int, hours: int) -> None:
    organisation = Organisation(uploads, Clock())
    # The first scrape reads the whole list, too, and is not counted.
    requests = requests_in(hours, organisation, discovery=True) + pages_of_the_list(uploads) - 1
    a_day = requests * 24 / hours
    assert a_day == pytest.approx(requests_for_discovery(uploads, SIMULATED_SCRAPE_INTERVAL), rel=0.02)


def test_the_formulas_give_what_is_documented() -> None:
    for uploads in UPLOADS_A_DAY:
        assert cost("requests a day, discovery", uploads) == requests_for_discovery(uploads, SCRAPE_INTERVAL)
        listed = requests_for_listed(uploads, SCRAPE_INTERVAL) + cost("batches shown at once", uploads)
        assert listed <= cost("requests a day, listed", uploads) <= listed + 288


@pytest.mark.parametrize("uploads", UPLOADS_A_DAY)
def test_the_batches_that_are_shown(uploads: int) -> None:
    clock, lists = Clock(), Lists()
    organisation = Organisation(uploads, clock)
    poller = make_poller(organisation, lists, discovery=False)
    lists.replace(organisation.refs_of(days=9))
    poller.poll(clock.now + MAX_WAIT)
    shown = len(poller.poll(clock.now + MAX_WAIT).batches)
    assert shown == pytest.approx(cost("batches shown at once", uploads), rel=0.01, abs=1)


@pytest.mark.parametrize("uploads", UPLOADS_A_DAY)
def test_the_series_follow_from_the_batches(uploads: int) -> None:
    assert cost("their series", uploads) == 20 * cost("batches shown at once", uploads)
    assert cost("batches shown by the config", uploads) == 30 * uploads
    assert cost("new series a day", uploads) == 20 * uploads


def test_the_series_of_batches_feeds_files_and_discovery(tmp_path: Path) -> None:
    finished, failed, missing, under_way = (f"5a0c2f0e-6d0b-4c51-9d3c-00000000000{number}" for number in range(4))
    (tmp_path / "batches.yaml").write_text("\n".join(f"- {ref}" for ref in (finished, missing)), encoding="utf-8")
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        for ref, status in ((finished, "success"), (failed, "error")):
            sandbox.put_batch(
                ref,
                status=status,
                size=9,
                total=7,
                succeeded=7 if status == "success" else 5,
                failed=0 if status == "success" else 2,
                time_to_process_millis=5,
                log=status == "error",
            )
        sandbox.put_batch(under_way, status="processing")
        with running_exporter(
            sandbox,
            tmp_path,
            batches=[{"ref": failed, "feed": "nightly"}],
            batch_files=["batches.yaml"],
            discovery={"enabled": True},
            feeds=[
                {"name": "nightly", "next_success_resolves": True},
                {"name": "hourly", "expect_success_every": "1h"},
            ],
        ) as exporter:
            wait_until(lambda: "sitecore_cdp_batch_error_log_read" in exporter.scrape())
            samples = exporter.scrape()
    series = [(name, dict(labels)) for name, values in samples.items() for labels in values]
    of_refs = Counter(labels["ref"] for _, labels in series if "ref" in labels)
    # For its cause, its open failure, its log, and the one cause in that.
    more_if_failed = 1 + 1 + 2 + 1
    assert of_refs == {finished: 20, failed: 21 + more_if_failed, missing: 2, under_way: 13}
    of_feeds = Counter(labels.get("feed") for name, labels in series if name.startswith("sitecore_cdp_feed_"))
    counters, last_finished, in_list = 16, 7, 6
    costs = " ".join(LISTING.read_text(encoding="utf-8").split())
    assert f"a feed up to {7 + counters + last_finished + in_list}." in costs
    assert of_feeds == {
        "nightly": 3 + counters + last_finished + in_list,
        "hourly": 7 + counters + in_list,
        None: counters + in_list,
    }
    assert [labels for _, labels in series if "file" in labels] == [{"file": "batches.yaml"}]
    of_discovery = [name for name, _ in series if re.match("sitecore_cdp_(batches|discovery_.*)$", name)]
    assert len(of_discovery) == 9
