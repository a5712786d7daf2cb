"""Every query of the dashboard against the real Prometheus, which scrapes real exporters."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from grafana.evaluation import DASHBOARD_FILE, Prometheus, Result, TimeRange, any_of, evaluate
from grafana.expressions import NOT_READ
from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, Exporter, running_exporter
from tools.program import MAX_WAIT
from tools.prometheus_server import PrometheusServer, running_prometheus
from tools.sandbox import Sandbox

pytestmark = pytest.mark.e2e

DASHBOARD = json.loads(DASHBOARD_FILE.read_text(encoding="utf-8"))
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
    {"name": "orders", "expect_success_every": "1h", "labels": {"team": "sales"}},
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
        server.wait_for_query("min(count_over_time(sitecore_cdp_up[1m])) > 2")
        server.wait_for_query('count(ALERTS{alertstate="firing"}) == 4 and count(ALERTS{alertstate="pending"}) == 1')
        yield server


@dataclass(frozen=True)
class Evaluation:
    """The results of all queries, by the title of the panel and the name of the query."""

    results: dict[tuple[str, str], Result]

    def number(self, title: str) -> float:
        [series] = self.results[title, "A"].series
        return float(series["value"][1])

    def rows(self, title: str, name: str, key: str) -> dict[str, float]:
        """Return the values of a column of a table; a row that is there twice is an error."""
        series = self.results[title, name].series
        rows = {each["metric"][key]: float(each["value"][1]) for each in series}
        assert len(rows) == len(series)
        return rows

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
    # The last point of a graph is the last whole minute. This makes it one that is after all scrapes, the newest of
    # which is still what Prometheus finds when it looks back.
    times = TimeRange(end=time.time() + 60, length=600, interval=60)
    results = evaluate(DASHBOARD, Prometheus(prometheus.url), times, chosen)
    return Evaluation({(result.panel["title"], result.name): result for result in results})


ONE = (1, 1, 1)
FINISHED_BATCHES = (len(FINISHED), len(FINISHED) + 1, len(FINISHED) + 1)
COUNTED_BATCHES = (len(COUNTED), len(COUNTED) + 1, len(COUNTED) + 1)
READ_BATCHES = (len(DISCOVERED), len(READ), len(READ))
# The labels of each query's series, and how many there are for an exporter that discovers, for two that list, and for
# all three at once.
SHAPES: dict[tuple[str, str], tuple[set[str], tuple[int, int, int]]] = {
    ("Failing scrapes", "A"): (set(), ONE),
    ("Batch API", "A"): (set(), ONE),
    ("Failed", "A"): (set(), ONE),
    ("Failed in part", "A"): (set(), ONE),
    ("Corrupted", "A"): (set(), ONE),
    ("Stuck", "A"): (set(), ONE),
    ("Not read", "A"): (set(), ONE),
    ("Overdue feeds", "A"): (set(), ONE),
    ("Alerts that fire", "age"): ({"alertname", "severity", "job", "feed", "ref"}, (2, 2, 3)),
    ("Batches", "rank"): ({"ref"}, (len(DISCOVERED), len(LISTED), len(LISTED))),
    ("Batches", "status"): ({"feed", "ref"}, (len(DISCOVERED), len(LISTED), len(LISTED))),
    ("Batches", "why"): ({"ref", "reason"}, (0, 1, 1)),
    ("Batches", "outcome"): ({"ref"}, FINISHED_BATCHES),
    ("Batches", "records"): ({"ref"}, COUNTED_BATCHES),
    ("Batches", "failed"): ({"ref"}, COUNTED_BATCHES),
    # There is no share of no records, and nothing was processed.
    ("Batches", "share"): ({"ref"}, (len(COUNTED) - 1, len(COUNTED), len(COUNTED))),
    ("Batches", "duration"): ({"ref"}, (len(COUNTED) - 1, len(COUNTED), len(COUNTED))),
    ("Batches", "age"): ({"ref"}, READ_BATCHES),
    ("Times and files", "created"): ({"ref"}, READ_BATCHES),
    ("Times and files", "modified"): ({"ref"}, READ_BATCHES),
    # The list has neither this nor the size and the log.
    ("Times and files", "expiry"): ({"ref"}, (len(FINISHED), len(READ), len(READ))),
    ("Times and files", "polled"): ({"ref"}, READ_BATCHES),
    ("Times and files", "size"): ({"ref"}, (len(FINISHED), len(READ), len(READ))),
    ("Times and files", "log"): ({"ref"}, (len(FINISHED), len(READ), len(READ))),
    ("Feeds", "state"): ({"feed"}, (3, 3, 3)),
    ("Feeds", "accepted"): ({"feed"}, (2, 2, 2)),
    ("Feeds", "due"): ({"feed"}, (3, 3, 3)),
    ("Feeds", "grace"): ({"feed"}, (3, 3, 3)),
    ("Feeds", "small"): ({"feed"}, (3, 3, 3)),
    ("Feeds", "least"): ({"feed"}, (3, 3, 3)),
    ("Feeds", "tolerated"): ({"feed"}, (3, 3, 3)),
    ("Share of the allowed time that has passed", "A"): ({"feed"}, (2, 2, 2)),
    ("States of the 30 newest batches", "A"): ({"feed", "ref"}, (len(DISCOVERED), len(LISTED), len(LISTED))),
    ("Watched batches by status", "A"): ({"status"}, (6, 7, 7)),
    ("Watched batches by status", "B"): (set(), (0, 1, 1)),
    ("All batches of the past 30 days by status", "A"): ({"status"}, (6, 0, 6)),
    ("Records", "A"): ({"feed"}, (3, 3, 3)),
    ("Failed records", "A"): ({"feed"}, (3, 3, 3)),
    ("Time to process", "A"): ({"feed"}, (3, 3, 3)),
    ("Records a second", "A"): ({"feed"}, (3, 3, 3)),
    ("Discovery", "A"): (set(), (1, 0, 1)),
    ("Dropped by max_batches", "A"): (set(), (1, 0, 1)),
    ("Config reload", "A"): (set(), ONE),
    ("Bad batch files", "A"): (set(), (0, 1, 1)),
    ("Since the API last answered", "A"): (set(), ONE),
    ("Details to be read", "A"): (set(), ONE),
    ("Exporters", "up"): ({"instance"}, (1, 3, 4)),
    ("Exporters", "version"): ({"instance", "version"}, (1, 2, 3)),
    ("Exporters", "watched"): ({"instance"}, (1, 2, 3)),
    ("Exporters", "retired"): ({"instance"}, (1, 2, 3)),
    ("Exporters", "memory"): ({"instance"}, (1, 2, 3)),
    ("Exporters", "age"): ({"instance"}, (1, 2, 3)),
    ("Batch API over time", "A"): ({"instance"}, (1, 2, 3)),
    ("Requests by code", "A"): ({"code"}, (1, 2, 2)),
    ("Duration of requests", "A"): (set(), ONE),
    ("Duration of requests", "B"): (set(), ONE),
    ("Duration of requests", "C"): (set(), ONE),
    ("Duration of polls", "A"): ({"instance"}, (1, 2, 3)),
    ("Failing polls by reason", "A"): ({"reason"}, (0, 1, 1)),
    ("Failing polls by reason", "B"): ({"reason"}, (0, 0, 0)),
    ("Watched batches by source", "A"): ({"source"}, (3, 3, 3)),
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
    expected = {name: counts[scenario] for name, (_, counts) in SHAPES.items()}
    deadline = time.monotonic() + MAX_WAIT
    while True:
        results = evaluation(prometheus, job=jobs).results
        shape = {name: len(result.series) for name, result in results.items()}
        # A request that failed on a busy machine stays in the rates for a while.
        if shape == expected or time.monotonic() > deadline:
            break
    assert shape == expected
    for name, result in results.items():
        labels = set().union(*(series["metric"] for series in result.series))
        assert labels == (SHAPES[name][0] if result.series else set()), name


def test_what_is_broken_is_counted_as_the_alerts_would(prometheus: PrometheusServer) -> None:
    found = evaluation(prometheus, job=["discovering", "listing"])
    assert {
        title: found.number(title)
        for title in [
            "Failing scrapes", "Batch API", "Failed", "Failed in part", "Corrupted", "Stuck", "Not read",
            "Overdue feeds", "Bad batch files", "Details to be read",
        ]
    } == {
        "Failing scrapes": 1,
        "Batch API": 1,
        "Failed": len({FAILED, FAILED_WITHOUT_COUNTS, FAILED_WITHOUT_RECORDS}),
        "Failed in part": len({FAILED_IN_PART, FAILED_BUT_SMALL}),
        "Corrupted": 1,
        "Stuck": len({STUCK, EXPIRED}),
        "Not read": 1,
        "Overdue feeds": 0,
        "Bad batch files": 1,
        "Details to be read": 0,
    }  # fmt: skip


def test_the_table_shows_what_happened_to_each_batch(prometheus: PrometheusServer) -> None:
    found = evaluation(prometheus, job=["listing"])
    status = found.rows("Batches", "status", "ref")
    assert status == (
        dict.fromkeys(ERRORS | {FAILED_LONG_AGO}, 5)
        | {LOADED: 3, LOADED_LATER: 3, CORRUPTED: 4, QUEUED: 1, EXPIRED: 0, UNKNOWN: -1, MISSING: NOT_READ}
        | dict.fromkeys([STUCK, PROCESSING], 2)
    )
    not_accepted = (ERRORS | {CORRUPTED, FAILED_LONG_AGO}) - {SUPERSEDED, TOLERATED}
    assert found.rows("Batches", "outcome", "ref") == (
        dict.fromkeys(not_accepted, 0) | {LOADED: 1, LOADED_LATER: 1, TOLERATED: 1, SUPERSEDED: 2}
    )
    shares = found.rows("Batches", "share", "ref")
    assert (shares[LOADED], shares[FAILED], shares[FAILED_IN_PART]) == (0, 0.1, 0.02)
    [why] = found.results["Batches", "why"].series
    assert why["metric"] == {"ref": MISSING, "reason": "not_found"}
    feeds = {each["metric"]["ref"]: each["metric"].get("feed") for each in found.results["Batches", "status"].series}
    assert {ref: feed for ref, feed in feeds.items() if feed} == {
        LOADED: GUESTS, FAILED: GUESTS, TOLERATED: GUESTS, SUPERSEDED: "products", LOADED_LATER: "products",
    }  # fmt: skip


def test_the_worst_batches_come_first_and_of_these_the_newest(prometheus: PrometheusServer) -> None:
    found = evaluation(prometheus, job=["listing"])
    rank = found.rows("Batches", "rank", "ref")
    age = found.rows("Batches", "age", "ref")
    groups: list[set[str]] = [
        {MISSING},
        {
            FAILED,
            FAILED_IN_PART,
            FAILED_BUT_SMALL,
            FAILED_WITHOUT_COUNTS,
            FAILED_WITHOUT_RECORDS,
            CORRUPTED,
            FAILED_LONG_AGO,
        },
        {STUCK, EXPIRED, UNKNOWN},
        {PROCESSING, QUEUED},
        {LOADED, LOADED_LATER, TOLERATED},
        {SUPERSEDED},
    ]
    in_order = iter(sorted(rank, key=lambda ref: rank[ref], reverse=True))
    for group in groups:
        shown = [next(in_order) for _ in group]
        assert set(shown) == group
        ages = [age[ref] for ref in shown if ref != MISSING]
        assert ages == sorted(ages)
    assert list(in_order) == []


@pytest.mark.parametrize(
    ("chosen", "of_the_batch"),
    [
        pytest.param({}, 1, id="everything"),
        pytest.param({"feed": [GUESTS]}, 1, id="its-feed"),
        pytest.param({"feed": ["orders"]}, 0, id="another-feed"),
        pytest.param({"ref": [FAILED]}, 1, id="its-ref"),
        pytest.param({"ref": [LOADED]}, 0, id="another-ref"),
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
    assert found.rows("Feeds", "state", "feed") == {GUESTS: 0, "orders": 3, "products": 0}
    assert found.rows("Feeds", "small", "feed") == {GUESTS: 2, "orders": 0, "products": 0}
    assert found.rows("Feeds", "accepted", "feed").keys() == {GUESTS, "products"}


def test_volumes_are_those_of_the_batches_that_finished(prometheus: PrometheusServer) -> None:
    found = evaluation(prometheus, job=["discovering", "listing"])
    assert found.last_points("Records", "feed") == {GUESTS: 2100, "products": 110, "no feed": 110}
    assert found.last_points("Failed records", "feed") == {GUESTS: 11, "products": 100, "no feed": 11}
    assert found.last_points("Time to process", "feed") == {GUESTS: 50, "products": 50, "no feed": 50}
    assert found.last_points("Records a second", "feed") == {
        GUESTS: 14, "products": pytest.approx(110 / 51), "no feed": 1.1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "shown"),
    [
        pytest.param({"status": ["error"]}, ERRORS | {FAILED_LONG_AGO, MISSING}, id="status-and-what-was-not-read"),
        pytest.param({"status": ["processing", "uploading"]}, {STUCK, PROCESSING, EXPIRED, MISSING}, id="two-statuses"),
        pytest.param({"feed": [GUESTS]}, {LOADED, FAILED, TOLERATED}, id="feed"),
        pytest.param(
            {"feed": [GUESTS, "products"]}, {LOADED, FAILED, TOLERATED, SUPERSEDED, LOADED_LATER}, id="two-feeds"
        ),
        pytest.param({"ref": [FAILED]}, {FAILED}, id="ref"),
        pytest.param({"ref": [MISSING]}, {MISSING}, id="ref-that-was-not-read"),
        pytest.param({"ref": ["5a0c2f0e"]}, {LOADED, FAILED, TOLERATED}, id="beginning-of-a-ref"),
        pytest.param({"job": ["nobody"]}, set(), id="unknown-job"),
    ],
)
def test_tables_and_timeline_show_the_batches_that_were_chosen(
    chosen: dict[str, list[str]], shown: set[str], prometheus: PrometheusServer
) -> None:
    found = evaluation(prometheus, **{"job": ["listing"], **chosen})
    assert found.rows("Batches", "status", "ref").keys() == shown
    assert found.rows("Batches", "rank", "ref").keys() == shown
    for name in ("outcome", "records", "failed", "share", "duration", "age"):
        assert found.rows("Batches", name, "ref").keys() <= shown
    assert found.rows("Times and files", "created", "ref").keys() == shown - {MISSING}
    assert found.last_points("States of the 30 newest batches", "ref").keys() == shown


def test_one_of_two_instances_can_be_chosen(exporters: dict[str, list[Exporter]], prometheus: PrometheusServer) -> None:
    instance = exporters["listing"][1].url.removeprefix("http://")
    found = evaluation(prometheus, instance=[instance])
    assert found.rows("Exporters", "up", "instance") == {instance: 1}
    assert found.rows("Batches", "status", "ref").keys() == LISTED


def test_all_jobs_are_those_of_the_exporter_and_500_batches_stay_readable(prometheus: PrometheusServer) -> None:
    found = evaluation(prometheus)
    assert f'job=~"({any_of([CROWD_JOB])}|discovering|listing)"' in found.results["Batch API", "A"].expression
    assert found.rows("Batches", "status", "ref").keys() == LISTED | CROWD
    timeline = found.last_points("States of the 30 newest batches", "ref").keys()
    # Those of the crowd are the oldest.
    assert len(timeline) == 30
    assert timeline > LISTED
    alone = evaluation(prometheus, job=[CROWD_JOB])
    assert alone.number("Failed") == 0
    assert alone.results["Overdue feeds", "A"].series == []
    assert alone.results["Feeds", "least"].series == []


def test_the_command_writes_the_table_of_panels(prometheus: PrometheusServer) -> None:
    command = [sys.executable, "-m", "grafana.evaluation", f"--prometheus-url={prometheus.url}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    title, rule, *rows = ended.stdout.splitlines()
    assert (title, rule) == ("| panel | query | series | expression |", "|---|---|---|---|")
    assert [tuple(row.split(" | ")[:2]) for row in rows] == [(f"| {panel}", name) for panel, name in SHAPES]
    assert f"| Batches | status | {len(LISTED | CROWD)} | " in ended.stdout
    assert "$" not in ended.stdout
