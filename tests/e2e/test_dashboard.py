"""Every query of the dashboards against the real Prometheus, which scrapes real exporters."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from grafana.colors import FRESHNESS, NOT_READ
from grafana.evaluation import Prometheus, Result, TimeRange, any_of, evaluate, panels
from grafana.expressions import NO_DATA
from tests.dashboards import BATCH, BATCHES, named, overrides, panel_of
from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, Exporter, running_exporter
from tools.program import MAX_WAIT
from tools.prometheus_server import PrometheusServer, running_prometheus
from tools.sandbox import Sandbox

pytestmark = pytest.mark.e2e

# A name that has to be escaped in a regular expression.
GUESTS = "guests (EU)+"
FEEDS: list[dict[str, Any]] = [
    {
        "name": GUESTS,
        "ref_prefix": "5a0c2f0e",
        "expect_success_every": "24h",
        "grace": "3h",
        "min_records": 2000,
        "max_failed_ratio": 0.01,
    },
    {"name": "orders", "ref_prefix": "7c2e4b10", "expect_success_every": "1h", "labels": {"team": "sales"}},
    {
        "name": "products",
        "ref_prefix": "6b1d3a0f",
        "next_success_resolves": True,
        "expect_success_by": {"time": "23:30", "timezone": "Europe/Berlin"},
    },
]


def new_ref(number: int, *, prefix: str = "11111111") -> str:
    return f"{prefix}-0000-4000-8000-{number:012}"


# Refs by what happened to the batches. Some belong to feeds.
LOADED = new_ref(1, prefix="5a0c2f0e")
FAILED = new_ref(2, prefix="5a0c2f0e")
FAILED_IN_PART = new_ref(3)
FAILED_BUT_SMALL = new_ref(4)
FAILED_WITHOUT_COUNTS = new_ref(5)
CORRUPTED = new_ref(6)
STUCK = new_ref(7)
PROCESSING = new_ref(8)
QUEUED = new_ref(9)
EXPIRED = new_ref(10)
SUPERSEDED = new_ref(11, prefix="6b1d3a0f")
LOADED_LATER = new_ref(12, prefix="6b1d3a0f")
TOLERATED = new_ref(16, prefix="5a0c2f0e")
FAILED_WITHOUT_RECORDS = new_ref(17)
ERRORS = {
    FAILED,
    FAILED_IN_PART,
    FAILED_BUT_SMALL,
    FAILED_WITHOUT_COUNTS,
    FAILED_WITHOUT_RECORDS,
    SUPERSEDED,
    TOLERATED,
}
FINISHED = ERRORS | {LOADED, CORRUPTED, LOADED_LATER}
COUNTED = FINISHED - {CORRUPTED, FAILED_WITHOUT_COUNTS}
DISCOVERED = FINISHED | {STUCK, PROCESSING, QUEUED, EXPIRED}
# Discovery does not find these: its retention is over, its status is unheard of, and it was never allocated.
FAILED_LONG_AGO = new_ref(13)
UNKNOWN = new_ref(14)
MISSING = new_ref(15)
LISTED = DISCOVERED | {FAILED_LONG_AGO, UNKNOWN, MISSING}
READ = LISTED - {MISSING}
# Two exporters list it.
ONLY_THE_MISSING_ONE_IS_UNREAD = (
    "count(sitecore_cdp_batch_poll_success == 0) == 2"
    f' and count(sitecore_cdp_batch_poll_success{{ref="{MISSING}"}} == 0) == 2'
    " and count(sitecore_cdp_discovery_success == 1) == 1"
)
CROWD = {new_ref(number, prefix="22222222") for number in range(500)}
CROWD_JOB = "crowd (500)"
LAST_PANEL_OF_ONE = 7
# Of what a refresh may bring with 500 batches, this is JSON with more words than Grafana's.
MAX_BYTES = 1_000_000
NOBODY = "127.0.0.1:1"
# They fire at once, or wait for longer than the tests last. The shipped ones fire after minutes.
ALERTS: dict[str, Any] = {
    "name": "alerts",
    "rules": [
        {
            "alert": "SitecoreCdpBatchFailed",
            "expr": f'max without (instance) (sitecore_cdp_batch_accepted{{ref="{FAILED}"}}) == 0',
            "labels": {"severity": "critical"},
        },
        {"alert": "SitecoreCdpExporterDown", "expr": "vector(1)", "labels": {"severity": "critical"}},
        {"alert": "SitecoreCdpApiDown", "expr": "vector(1)", "for": "1h", "labels": {"severity": "warning"}},
        {"alert": "Unrelated", "expr": "vector(1)", "labels": {"severity": "warning"}},
    ],
}


def place_batches(sandbox: Sandbox) -> None:
    """Place one batch for each thing that can happen. What has finished did so in the time range of the graphs."""
    now = datetime.now(UTC)
    finished: dict[str, Any] = {"created_at": now - timedelta(minutes=20), "modified_at": now - timedelta(seconds=100)}
    error: dict[str, Any] = {"status": "error", "log": True, "time_to_process_millis": 50_000}
    sandbox.put_batch(LOADED, total=1000, succeeded=1000, failed=0, time_to_process_millis=50_000, **finished)
    sandbox.put_batch(FAILED, total=100, succeeded=90, failed=10, **error, **finished)
    sandbox.put_batch(TOLERATED, total=1000, succeeded=999, failed=1, **error, **finished)
    sandbox.put_batch(FAILED_IN_PART, total=100, succeeded=98, failed=2, **error, **finished)
    sandbox.put_batch(FAILED_BUT_SMALL, total=10, succeeded=1, failed=9, **error, **finished)
    sandbox.put_batch(FAILED_WITHOUT_COUNTS, status="error", **finished)
    sandbox.put_batch(FAILED_WITHOUT_RECORDS, status="error", total=0, succeeded=0, failed=0, **finished)
    sandbox.put_batch(CORRUPTED, status="corrupted", **finished)
    sandbox.put_batch(SUPERSEDED, total=100, succeeded=0, failed=100, **error, **finished)
    sandbox.put_batch(STUCK, status="processing", created_at=now - timedelta(hours=3))
    sandbox.put_batch(PROCESSING, status="processing", created_at=now - timedelta(minutes=1))
    sandbox.put_batch(QUEUED, status="file_uploaded", created_at=now - timedelta(minutes=1))
    sandbox.put_batch(EXPIRED, status="uploading", created_at=now - timedelta(hours=2))
    sandbox.put_batch(UNKNOWN, status="archived", created_at=now - timedelta(minutes=2))
    later = finished | {"created_at": now - timedelta(minutes=10)}
    sandbox.put_batch(LOADED_LATER, total=10, succeeded=10, failed=0, time_to_process_millis=1000, **later)
    long_ago = now - timedelta(days=8)
    sandbox.put_batch(FAILED_LONG_AGO, total=100, succeeded=0, failed=100, created_at=long_ago, **error)
    for ref in CROWD:
        sandbox.put_batch(ref, total=10, succeeded=10, failed=0, created_at=now - timedelta(days=40))


def listed(ref: str) -> dict[str, str]:
    """Write the ref into a list, with the feed that discovery would find."""
    for feed in FEEDS:
        if ref[:8] == feed.get("ref_prefix"):
            return {"ref": ref, "feed": feed["name"]}
    return {"ref": ref}


@pytest.fixture(scope="module")
def api() -> Iterator[Sandbox]:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        place_batches(sandbox)
        yield sandbox


@pytest.fixture(scope="module")
def exporters(api: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Exporter]]]:
    """Run, by job, an exporter that discovers, two that have the same list, and one that has a long list."""
    with ExitStack() as stack:

        def run(name: str, **sections: Any) -> Exporter:  # noqa: ANN401  Those of the config.
            directory = tmp_path_factory.mktemp(name)
            (directory / "good.yaml").write_text("[]", encoding="utf-8")
            (directory / "bad.yaml").write_text("[what]", encoding="utf-8")
            return stack.enter_context(running_exporter(api, directory, **sections))

        with_list: dict[str, Any] = {
            "feeds": FEEDS,
            "batches": [listed(ref) for ref in LISTED],
            "batch_files": ["good.yaml", "bad.yaml"],
        }
        yield {
            "discovering": [run("discovering", feeds=FEEDS, discovery={"enabled": True})],
            "listing": [run("one", **with_list), run("two", **with_list)],
            CROWD_JOB: [run("crowd", batches=sorted(CROWD))],
        }


@pytest.fixture(scope="module")
def prometheus(
    exporters: dict[str, list[Exporter]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrometheusServer]:
    targets = {
        job: [exporter.url.removeprefix("http://") for exporter in running] for job, running in exporters.items()
    }
    targets["listing"].append(NOBODY)
    scrape_configs = [
        {"job_name": job, "static_configs": [{"targets": addresses}]} for job, addresses in targets.items()
    ]
    directory = tmp_path_factory.mktemp("prometheus")
    config = directory / "prometheus.yml"
    intervals = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"}
    (directory / "rules.yml").write_text(yaml.safe_dump({"groups": [ALERTS]}), encoding="utf-8")
    sections = {"global": intervals, "scrape_configs": scrape_configs, "rule_files": ["rules.yml"]}
    config.write_text(yaml.safe_dump(sections), encoding="utf-8")
    with running_prometheus(config, directory=directory, scraped=exporters["discovering"][0].program) as server:
        # All details were read, and there are enough scrapes for a rate.
        finished = len(FINISHED) + 2 * len(FINISHED | {FAILED_LONG_AGO}) + len(CROWD)
        server.wait_for_query(f"count(sitecore_cdp_batch_accepted) == {finished}")
        server.wait_for_query(ONLY_THE_MISSING_ONE_IS_UNREAD)
        with_log = ERRORS - {FAILED_WITHOUT_COUNTS, FAILED_WITHOUT_RECORDS}
        logs = len(with_log) + 2 * len(with_log | {FAILED_LONG_AGO})
        server.wait_for_query(f"sum(sitecore_cdp_batch_error_log_read) == {logs}")
        server.wait_for_query("min(count_over_time(sitecore_cdp_up[1m])) > 2")
        server.wait_for_query('count(ALERTS{alertstate="firing"}) == 4 and count(ALERTS{alertstate="pending"}) == 1')
        yield server


@dataclass(frozen=True)
class Evaluation:
    """The results of all queries, by the title of the panel and the name of the query."""

    results: dict[tuple[str, str], Result]

    def tiles(self, number: int = 12) -> dict[str, float]:
        """Return the number of each tile: there is one, whatever happens."""
        panel = panel_of(BATCHES if number > LAST_PANEL_OF_ONE else BATCH, number)
        tiles = {}
        for (_, properties), target in zip(overrides(panel), panel["targets"], strict=True):
            [series] = self.results[named(panel), target["refId"]].series
            tiles[properties["displayName"].partition(" ${")[0]] = float(series["value"][1])
        return tiles

    def rows(self, title: str, name: str, key: str) -> dict[str, float]:
        """Return the values of a column of a table; a row that is there twice is an error."""
        series = self.results[title, name].series
        rows = {each["metric"][key]: float(each["value"][1]) for each in series}
        assert len(rows) == len(series)
        return rows

    def why(self) -> dict[str, str]:
        """Return why each batch failed or was not read: the first word of what the link of the column has."""
        series = self.results[TABLE, "why"].series
        return {each["metric"]["ref"]: re.findall(r"\w+", each["metric"]["why"])[0] for each in series}

    def last_points(self, title: str, key: str) -> dict[str, float]:
        """Return the newest value of each series of a graph."""
        return {each["metric"].get(key, ""): float(each["values"][-1][1]) for each in self.results[title, "A"].series}


def evaluation(prometheus: PrometheusServer, **chosen: list[str]) -> Evaluation:
    """Evaluate the dashboard while everything is read: on a busy machine a scrape may run out of time."""
    while True:
        prometheus.wait_for_query(ONLY_THE_MISSING_ONE_IS_UNREAD)
        found = evaluation_now(prometheus, **chosen)
        if prometheus.query(ONLY_THE_MISSING_ONE_IS_UNREAD):
            return found


def evaluation_now(prometheus: PrometheusServer, **chosen: list[str]) -> Evaluation:
    return evaluation_of(BATCHES, prometheus, chosen)


def evaluation_of_batch(prometheus: PrometheusServer, ref: str) -> Evaluation:
    return evaluation_of(BATCH, prometheus, {"ref": [ref]})


def evaluation_of(
    dashboard: Mapping[str, Any], prometheus: PrometheusServer, chosen: Mapping[str, list[str]], *, after: float = 60
) -> Evaluation:
    # The last point of a graph is the last whole minute. This makes it one that is after all scrapes, the newest of
    # which is still what Prometheus finds when it looks back.
    times = TimeRange(end=time.time() + after, length=600, interval=60)
    results = evaluate(dashboard, Prometheus(prometheus.url), times, chosen)
    return Evaluation({(named(result.panel), result.name): result for result in results})


TABLE = "Batches: the worst, and the 30 newest"
TIMELINE = "States of the 30 newest batches"
# How many series each query has for an exporter that discovers, for two that list, and for all three at once, where
# that is not one each time; and their labels.
FINISHED_BATCHES = (len(FINISHED), len(FINISHED) + 1, len(FINISHED) + 1)
COUNTED_BATCHES = (len(COUNTED), len(COUNTED) + 1, len(COUNTED) + 1)
# There is no share of no records, and nothing was processed.
WITH_RECORDS = (len(COUNTED) - 1, len(COUNTED), len(COUNTED))
READ_BATCHES = (len(DISCOVERED), len(READ), len(READ))
EXPORTERS = (1, 2, 3)
THREE = (3, 3, 3)
SHAPES: dict[tuple[str, str], tuple[set[str], tuple[int, int, int]]] = {
    (TABLE, "rank"): ({"ref"}, (len(DISCOVERED), len(LISTED), len(LISTED))),
    (TABLE, "status"): ({"feed", "ref"}, (len(DISCOVERED), len(LISTED), len(LISTED))),
    (TABLE, "why"): ({"ref", "why"}, (8, 10, 10)),
    (TABLE, "outcome"): ({"ref"}, FINISHED_BATCHES),
    (TABLE, "records"): ({"ref"}, COUNTED_BATCHES),
    (TABLE, "share"): ({"ref"}, WITH_RECORDS),
    (TABLE, "time"): ({"ref"}, WITH_RECORDS),
    (TABLE, "age"): ({"ref"}, READ_BATCHES),
    ("Alerts that fire", "age"): (
        {"alertname", "severity", "job", "feed", "ref", "order", "section"}, (2, 2, 3),
    ),
    ("Feeds", "state"): ({"feed"}, THREE),
    ("Feeds", "accepted"): ({"feed"}, (2, 2, 2)),
    ("Feeds", "due"): ({"feed"}, THREE),
    ("Feeds: fresh, late, stale", "A"): ({"feed"}, THREE),
    # And those without a feed.
    ("How the feeds did", "finished"): ({"feed"}, (4, 4, 4)),
    ("How the feeds did", "week"): ({"feed"}, THREE),
    # The recorded series are not there.
    ("How the feeds did", "month"): (set(), (0, 0, 0)),
    ("How the feeds did", "median"): ({"feed"}, THREE),
    ("How the feeds did", "time"): ({"feed"}, (2, 2, 2)),
    ("How the feeds did", "records"): ({"feed"}, (2, 2, 2)),
    ("Watched batches by status", "A"): ({"status"}, (6, 7, 7)),
    ("Watched batches by status", "B"): (set(), (0, 1, 1)),
    (TIMELINE, "A"): ({"age", "feed", "ref", "short"}, READ_BATCHES),
    ("Exporters", "up"): ({"instance"}, (1, 3, 4)),
    ("Exporters", "version"): ({"instance", "version"}, EXPORTERS),
    ("Exporters", "watched"): ({"instance"}, EXPORTERS),
    ("Exporters", "retired"): ({"instance"}, EXPORTERS),
    ("Exporters", "memory"): ({"instance"}, EXPORTERS),
    ("Exporters", "age"): ({"instance"}, EXPORTERS),
    ("Batch API over time", "A"): ({"instance"}, EXPORTERS),
    ("Requests by code", "A"): ({"code"}, (1, 2, 2)),
    ("Duration of polls", "A"): ({"instance"}, EXPORTERS),
    ("Failing polls by reason", "A"): ({"reason"}, (0, 1, 1)),
    ("Failing polls by reason", "B"): ({"reason"}, (0, 0, 0)),
    ("Watched batches by source", "A"): ({"source"}, THREE),
    ("All batches of the past 30 days by status", "A"): ({"status"}, (6, 0, 6)),
}  # fmt: skip
# They show what happened while somebody watched, which is tested by itself.
OF_COUNTERS = {
    "Finished batches by status",
    "Rejected records by cause",
    "Records by feed",
    "Time to process",
    "Time to process, by the feed's own median",
}


@pytest.mark.parametrize(
    ("scenario", "jobs"),
    [
        pytest.param(0, ["discovering"], id="discovery-on"),
        pytest.param(1, ["listing"], id="discovery-off-two-instances"),
        pytest.param(2, ["discovering", "listing"], id="all-at-once"),
    ],
)
def test_every_query_returns_series_of_the_expected_shape(
    scenario: int, jobs: list[str], prometheus: PrometheusServer
) -> None:
    deadline = time.monotonic() + MAX_WAIT
    while True:
        results = {
            name: result
            for name, result in evaluation(prometheus, job=jobs).results.items()
            if name[0] not in OF_COUNTERS
        }
        shape = {name: len(result.series) for name, result in results.items()}
        expected = {name: SHAPES[name][1][scenario] if name in SHAPES else 1 for name in results}
        # A request that failed on a busy machine stays in the rates for a while.
        if shape == expected or time.monotonic() > deadline:
            break
    assert shape == expected
    assert SHAPES.keys() <= shape.keys()
    for name, result in results.items():
        labels = set().union(*(series["metric"] for series in result.series))
        assert labels == (SHAPES[name][0] if name in SHAPES and result.series else set()), name


def test_what_is_broken_is_counted_as_the_alerts_would(prometheus: PrometheusServer) -> None:
    found = evaluation(prometheus, job=["discovering", "listing"])
    assert found.tiles() == {
        "Failing scrapes": 1,
        "Batch API": 1,
        "Failed": len({FAILED, FAILED_WITHOUT_COUNTS, FAILED_WITHOUT_RECORDS}),
        "Corrupted": 1,
        "Upload expired": 1,
        "Too few records": len({LOADED, TOLERATED}),
        "Overdue feeds": 0,
        "Failed in part": len({FAILED_IN_PART, FAILED_BUT_SMALL}),
        "Stuck": 1,
        "Not read": 1,
        "Under way": len({STUCK, PROCESSING, QUEUED, EXPIRED}),
    }
    well = found.tiles(63)
    assert 0 <= well.pop("API silent for") < MAX_WAIT
    assert well == {"Discovery": 1, "Dropped": 0, "Reload": 1, "Bad files": 1, "Details": 0}


def test_where_nothing_was_scraped_every_tile_says_so(prometheus: PrometheusServer) -> None:
    found = evaluation_now(prometheus, job=["nobody"])
    for number in (12, 63):
        assert set(found.tiles(number).values()) == {NO_DATA}
    assert set(evaluation_of_batch(prometheus, new_ref(99)).tiles(1).values()) == {NO_DATA}


def test_the_table_shows_what_happened_to_each_batch_and_why(prometheus: PrometheusServer) -> None:
    found = evaluation(prometheus, job=["listing"])
    status = found.rows(TABLE, "status", "ref")
    assert status == (
        dict.fromkeys(ERRORS | {FAILED_LONG_AGO}, 5)
        | {LOADED: 3, LOADED_LATER: 3, CORRUPTED: 4, QUEUED: 1, EXPIRED: 0, UNKNOWN: -1, MISSING: NOT_READ}
        | dict.fromkeys([STUCK, PROCESSING], 2)
    )
    not_accepted = (ERRORS | {CORRUPTED, FAILED_LONG_AGO}) - {SUPERSEDED, TOLERATED}
    assert found.rows(TABLE, "outcome", "ref") == (
        dict.fromkeys(not_accepted, 0) | {LOADED: 3, LOADED_LATER: 1, TOLERATED: 3, SUPERSEDED: 2}
    )
    shares = found.rows(TABLE, "share", "ref")
    assert (shares[LOADED], shares[FAILED], shares[FAILED_IN_PART]) == (0, 0.1, 0.02)
    why = found.why()
    of_the_log = dict.fromkeys(ERRORS - {FAILED_WITHOUT_COUNTS, FAILED_WITHOUT_RECORDS}, "unparsable_line")
    assert why == of_the_log | {
        FAILED_LONG_AGO: "unparsable_line",
        FAILED_WITHOUT_COUNTS: "file_unreadable",
        CORRUPTED: "checksum_or_size_mismatch",
        EXPIRED: "upload_expired",
        MISSING: "not_found",
    }
    feeds = {each["metric"]["ref"]: each["metric"].get("feed") for each in found.results[TABLE, "status"].series}
    assert {ref: feed for ref, feed in feeds.items() if feed} == {
        LOADED: GUESTS, FAILED: GUESTS, TOLERATED: GUESTS, SUPERSEDED: "products", LOADED_LATER: "products",
    }  # fmt: skip


def test_the_worst_batches_come_first(prometheus: PrometheusServer) -> None:
    rank = evaluation(prometheus, job=["listing"]).rows(TABLE, "rank", "ref")
    open_failures = {FAILED, FAILED_IN_PART, FAILED_BUT_SMALL, FAILED_WITHOUT_COUNTS, FAILED_WITHOUT_RECORDS, CORRUPTED}
    assert rank == (
        {MISSING: 5}
        # Too few records are a failure, too.
        | dict.fromkeys(open_failures | {EXPIRED, LOADED, TOLERATED}, 4)
        | dict.fromkeys([STUCK, PROCESSING, QUEUED, UNKNOWN], 2)
        | dict.fromkeys([LOADED_LATER, SUPERSEDED, FAILED_LONG_AGO], 1)
    )


@pytest.mark.parametrize(
    ("chosen", "of_the_batch"),
    [
        pytest.param({}, 1, id="everything"),
        pytest.param({"feed": [GUESTS]}, 1, id="its-feed"),
        pytest.param({"feed": ["orders"]}, 0, id="another-feed"),
        pytest.param({"status": ["success"]}, 1, id="whatever-status"),
        pytest.param({"job": ["nobody"]}, 0, id="another-job"),
    ],
)
def test_alerts_that_fire_are_listed_and_those_without_labels_always(
    chosen: dict[str, list[str]], of_the_batch: int, prometheus: PrometheusServer
) -> None:
    found = evaluation(prometheus, **{"job": ["listing"], **chosen}).results["Alerts that fire", "age"].series
    names = sorted(each["metric"]["alertname"] for each in found)
    assert names == ["SitecoreCdpBatchFailed"] * of_the_batch + ["SitecoreCdpExporterDown"]
    assert all(float(each["value"][1]) > 0 for each in found)


def test_the_feeds_are_fresh_or_not_by_what_is_expected_of_them(prometheus: PrometheusServer) -> None:
    found = evaluation(prometheus, job=["listing"])
    states = {feed: FRESHNESS[int(code)][0] for feed, code in found.rows("Feeds", "state", "feed").items()}
    assert states == {GUESTS: "fresh", "orders": "never", "products": "fresh"}
    assert found.rows("Feeds", "accepted", "feed").keys() == {GUESTS, "products"}


@pytest.mark.parametrize(
    ("chosen", "shown"),
    [
        pytest.param({"status": ["error"]}, ERRORS | {FAILED_LONG_AGO, MISSING}, id="status-and-what-was-not-read"),
        pytest.param({"status": ["processing", "uploading"]}, {STUCK, PROCESSING, EXPIRED, MISSING}, id="two-statuses"),
        pytest.param({"status": ["not_read"]}, {MISSING}, id="only-what-was-not-read"),
        pytest.param({"feed": [GUESTS]}, {LOADED, FAILED, TOLERATED}, id="feed"),
        pytest.param(
            {"feed": [GUESTS, "products"]}, {LOADED, FAILED, TOLERATED, SUPERSEDED, LOADED_LATER}, id="two-feeds"
        ),
        pytest.param({"job": ["nobody"]}, set(), id="unknown-job"),
    ],
)
def test_the_table_and_the_timeline_show_the_batches_that_were_chosen(
    chosen: dict[str, list[str]], shown: set[str], prometheus: PrometheusServer
) -> None:
    found = evaluation(prometheus, **{"job": ["listing"], **chosen})
    # Grafana leaves out the rows that have no status of these.
    assert found.rows(TABLE, "status", "ref").keys() == shown
    assert found.rows(TABLE, "rank", "ref").keys() >= shown
    # What was never read has no states.
    assert found.last_points(TIMELINE, "ref").keys() == shown - {MISSING}


def test_500_batches_stay_readable_and_small(prometheus: PrometheusServer) -> None:
    found = evaluation(prometheus)
    expression = found.results["stat 12", "B"].expression
    assert f'job=~"({any_of([CROWD_JOB])}|discovering|listing)"' in expression
    shown = found.rows(TABLE, "status", "ref").keys()
    assert len(shown & CROWD) <= 30
    assert shown >= LISTED
    timeline = found.last_points(TIMELINE, "ref").keys()
    # Those of the crowd are the oldest.
    assert len(timeline) == 30
    assert timeline > READ
    alone = evaluation(prometheus, job=[CROWD_JOB])
    assert alone.tiles()["Failed"] == 0
    assert alone.results["Feeds", "due"].series == []
    for each in (found, alone):
        answers = [json.dumps(result.series) for result in each.results.values()]
        assert sum(len(answer) for answer in answers) < MAX_BYTES


def test_the_dashboard_of_one_batch_shows_it_and_its_feed(prometheus: PrometheusServer) -> None:
    found = evaluation_of_batch(prometheus, FAILED)
    tiles = found.tiles(1)
    assert tiles.pop("Changed, ago") > 0
    assert tiles == {
        "Status": 5, "Outcome": 0, "Records": 100, "Failed": 10, "Failed share": 0.1, "Took": 50, "Times the median": 1,
    }  # fmt: skip
    assert found.rows("Why it failed", "causes", "why") == {"#records_rejected": 1}
    assert found.rows("Why records were rejected", "causes", "why") == {"#unparsable_line": 10}
    assert {each["metric"]["feed"] for each in found.results["Times and file", "created"].series} == {GUESTS}
    assert found.rows("The 30 newest batches of its feed", "status", "ref") == {LOADED: 3, TOLERATED: 5, FAILED: 5}
    firing = {each["metric"]["alertname"] for each in found.results["Alerts that fire", "age"].series}
    assert firing == {"SitecoreCdpBatchFailed"}
    unread = evaluation_of_batch(prometheus, MISSING)
    assert unread.tiles(1)["Status"] == NOT_READ
    assert unread.rows("Why it failed", "causes", "why") == {"?not_found#sitecorecdpbatchunreadable": 1}
    without_feed = evaluation_of_batch(prometheus, CORRUPTED)
    others = without_feed.rows("The 30 newest batches of its feed", "status", "ref").keys()
    assert len(others) == 30
    assert not others & {LOADED, FAILED, TOLERATED, SUPERSEDED, LOADED_LATER}


def test_the_command_writes_the_table_of_panels(prometheus: PrometheusServer) -> None:
    command = [sys.executable, "-m", "grafana.evaluation", f"--prometheus-url={prometheus.url}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    title, rule, *rows = ended.stdout.splitlines()
    assert (title, rule) == ("| panel | query | series | expression |", "|---|---|---|---|")
    assert len(rows) == sum(len(panel["targets"]) for panel in panels(BATCHES))
    assert not re.search(r"\$[a-z_{]", ended.stdout)
