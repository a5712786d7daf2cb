"""What scrapes show of the history of a feed: its counters, its newest finished batch, and the list's batches."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.error_log import ErrorLog, LogReading, RecordCause
from sitecore_cdp_exporter.api.errors import PollError
from sitecore_cdp_exporter.config.model import Config, WatchedBatch
from sitecore_cdp_exporter.metrics.families import poll_families
from sitecore_cdp_exporter.poll.feed_totals import FeedTotals
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.snapshot import FeedHistory, Snapshot
from tests.conditions import wait_until
from tests.fake_api import MAX_WAIT, Clock, FakeApi, Lists, ref
from tests.poll.polling import Scrape

NOW = 1.75e9
HOUR = 3600.0
GUESTS = {"name": "guests", "labels": {"team": "crm"}, "ref_prefix": "00000001"}
SUCCESS, ERROR, CORRUPTED = BatchStatus.SUCCESS, BatchStatus.ERROR, BatchStatus.CORRUPTED
PROCESSING = BatchStatus.PROCESSING


@dataclass
class Exporter:
    """A poller, and what a test changes: the batches that files list, the config, and the time."""

    api: FakeApi
    clock: Clock
    sections: dict[str, Any] = field(default_factory=lambda: {"feeds": [GUESTS]})
    started: float = NOW

    def __post_init__(self) -> None:
        self.lists = Lists()
        self.poller = Poller(
            self.api,
            self.config(),
            self.lists,
            clock=self.clock,
            wall_clock=lambda: self.started + self.clock.now,
            wait=self.clock.wait,
        )

    def config(self) -> Config:
        api = {"base_url": "https://api.example", "endpoint": "inspect"}
        return Config.model_validate({"api": api, **self.sections})

    def reload(self, **sections: Any) -> None:  # noqa: ANN401  Sections of the config file.
        self.sections |= sections
        self.poller.reconfigure(self.api, self.config())

    def list_batches(self, feeds: Mapping[int, str | None]) -> None:
        self.lists.replace(WatchedBatch(ref=ref(number), feed=feed) for number, feed in feeds.items())

    def scrape(self) -> Snapshot:
        self.clock.now += 15
        return self.poller.poll(self.clock.now + MAX_WAIT)

    def totals(self, feed: str | None = "guests") -> FeedTotals:
        return history(self.scrape(), feed).totals

    def finished(self, feed: str | None = "guests") -> dict[str, int]:
        return {status: count for status, count in self.totals(feed).finished.items() if count}


@pytest.fixture
def exporter(api: FakeApi, clock: Clock) -> Exporter:
    return Exporter(api, clock)


def history(snapshot: Snapshot, feed: str | None) -> FeedHistory:
    (found,) = [each for each in snapshot.histories if each.name == feed]
    return found


def put(api: FakeApi, number: int, status: BatchStatus, *, age: float = 60.0, failed: int = 0, total: int = 10) -> str:
    """Let the API have a batch, in its list and by itself."""
    key, moment = ref(number), NOW + 1000 - age
    listed = Batch(ref=key, status=status, created=moment, modified=moment)
    api.listed = [listed, *(batch for batch in api.listed if batch.ref != key)]
    api.answers[key] = replace(
        listed,
        error_log_available=failed > 0,
        total_records=total,
        succeeded_records=total - failed,
        failed_records=failed,
        time_to_process_seconds=float(number),
    )
    return key


def samples(snapshot: Snapshot) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in poll_families(snapshot)
        for sample in family.samples
        if sample.name.startswith("sitecore_cdp_feed_")
    }


def names(keys: Iterable[tuple[str, object]]) -> set[str]:
    return {name for name, _ in keys}


def test_the_first_scrape_shows_zeros_of_each_feed_and_the_next_one_what_it_found(
    api: FakeApi, exporter: Exporter
) -> None:
    put(api, 1, SUCCESS)
    put(api, 2, ERROR, failed=3)
    put(api, 3, CORRUPTED)
    exporter.list_batches({1: "guests", 2: "orders", 3: None})
    snapshot = exporter.scrape()
    assert [each.name for each in snapshot.histories] == ["guests", "orders", None]
    assert all(each.totals == FeedTotals() for each in snapshot.histories)
    assert exporter.finished("guests") == {"success": 1}
    orders = exporter.totals("orders")
    assert (orders.succeeded_records, orders.failed_records, orders.accepted) == (7, 3, 0)
    assert exporter.finished(None) == {"corrupted": 1}


def test_a_feed_that_a_batch_brings_later_begins_at_zero_although_it_has_finished(
    api: FakeApi, exporter: Exporter
) -> None:
    exporter.scrape()
    put(api, 1, SUCCESS)
    exporter.list_batches({1: "orders"})
    assert exporter.finished("orders") == {}
    assert exporter.finished("orders") == {"success": 1}


def test_scrapes_that_share_the_first_poll_show_zeros(
    api: FakeApi, exporter: Exporter, background: ThreadPoolExecutor
) -> None:
    put(api, 1, SUCCESS)
    exporter.list_batches({1: "guests"})
    api.open.clear()
    both = [Scrape(background, exporter.clock, exporter.poller.poll) for _ in range(2)]
    api.wait_until_asked([ref(1)])
    api.open.set()
    assert [history(scrape.result(), "guests").totals for scrape in both] == [FeedTotals()] * 2
    assert exporter.finished() == {"success": 1}


def test_every_series_is_there_from_the_first_scrape(exporter: Exporter) -> None:
    counters = {key: value for key, value in samples(exporter.scrape()).items() if key[0].endswith("_total")}
    assert set(counters.values()) == {0.0}
    labels = {"feed": "guests", "team": "crm"}.items()
    assert counters.keys() == {
        *(
            ("sitecore_cdp_feed_finished_batches_total", frozenset({*labels, ("status", status)}))
            for status in ("success", "corrupted", "error")
        ),
        ("sitecore_cdp_feed_accepted_batches_total", frozenset(labels)),
        *(
            ("sitecore_cdp_feed_records_total", frozenset({*labels, ("result", result)}))
            for result in ("succeeded", "failed")
        ),
        *(
            ("sitecore_cdp_feed_error_log_records_total", frozenset({*labels, ("cause", cause.value)}))
            for cause in RecordCause
        ),
    }


def test_a_probe_counts_nothing(api: FakeApi, exporter: Exporter) -> None:
    put(api, 1, SUCCESS)
    put(api, 2, SUCCESS)
    exporter.list_batches({1: "guests"})
    exporter.scrape()
    for number in (1, 2):
        assert exporter.poller.probe(ref(number), exporter.clock.now + MAX_WAIT).histories == ()
    assert [each.name for each in exporter.scrape().histories] == ["guests"]
    assert exporter.finished() == {"success": 1}


def test_a_listed_batch_counts_although_a_probe_was_the_first_to_see_it_finished(
    api: FakeApi, exporter: Exporter
) -> None:
    put(api, 1, PROCESSING)
    exporter.list_batches({1: "guests"})
    exporter.scrape()
    put(api, 1, SUCCESS)
    exporter.poller.probe(ref(1), exporter.clock.now + MAX_WAIT)
    assert exporter.finished() == {"success": 1}
    assert exporter.totals().succeeded_records == 10


@pytest.mark.parametrize(("age", "finished"), [(60.0, {"success": 1}), (HOUR, {})])
def test_after_a_restart_what_finished_lately_counts_and_nothing_else(
    api: FakeApi, clock: Clock, age: float, finished: dict[str, int]
) -> None:
    put(api, 1, SUCCESS, age=age)
    for _ in range(2):
        exporter = Exporter(api, clock)
        exporter.list_batches({1: "guests"})
        exporter.scrape()
        assert exporter.finished() == finished


def test_the_list_counts_a_batch_and_its_details_its_records_whenever_they_are_read(
    api: FakeApi, exporter: Exporter
) -> None:
    exporter.reload(discovery={"enabled": True}, feeds=[{**GUESTS, "ref_prefix": "00000000"}])
    exporter.scrape()
    key = put(api, 1, ERROR, failed=4)
    answer, api.answers[key] = api.answers[key], PollError.of_status(403)
    totals = exporter.totals()
    assert (totals.finished[ERROR], totals.succeeded_records, totals.failed_records) == (1, 0, 0)
    api.answers[key] = answer
    exporter.clock.now += HOUR
    exporter.scrape()
    totals = exporter.totals()
    assert (totals.finished[ERROR], totals.succeeded_records, totals.failed_records) == (1, 6, 4)


@pytest.mark.parametrize("limit", ["retention", "max_batches"])
def test_a_discovered_batch_is_shown_until_its_records_count(limit: str, api: FakeApi, exporter: Exporter) -> None:
    if limit == "retention":
        exporter.reload(discovery={"enabled": True}, retention={"succeeded": "0s", "failed": "0s"})
    else:
        exporter.reload(discovery={"enabled": True, "max_batches": 1})
    for number in (1, 2, 3, 4):
        put(api, number, PROCESSING)
    exporter.scrape()
    put(api, 1, SUCCESS, total=7)
    key = put(api, 2, ERROR, total=10, failed=4)
    answer, api.answers[key] = api.answers[key], PollError.of_status(503)
    refused = put(api, 3, ERROR)
    api.answers[refused] = PollError.of_status(404)
    assert shown(exporter.scrape()) == {1, 2, 3, 4}
    assert shown(exporter.scrape()) == {2, 4}
    api.answers[key] = answer
    assert shown(exporter.scrape()) == {2, 4}
    snapshot = exporter.scrape()
    assert shown(snapshot) == {4}
    totals = history(snapshot, None).totals
    assert (totals.finished[SUCCESS], totals.finished[ERROR]) == (1, 2)
    assert (totals.succeeded_records, totals.failed_records) == (7 + 6, 4)


def test_batches_whose_records_still_have_to_count_push_no_failure_out(api: FakeApi, exporter: Exporter) -> None:
    exporter.reload(discovery={"enabled": True, "max_batches": 1})
    put(api, 1, ERROR, age=2 * HOUR)
    assert shown(exporter.scrape()) == {1}
    put(api, 2, SUCCESS)
    put(api, 3, SUCCESS)
    assert shown(exporter.scrape()) == {1, 2, 3}
    assert shown(exporter.scrape()) == {1}


def shown(snapshot: Snapshot) -> set[int]:
    return {int(state.watched.ref[-12:], 16) for state in snapshot.batches}


def test_a_batch_that_leaves_the_list_and_comes_back_does_not_count_twice(api: FakeApi, exporter: Exporter) -> None:
    put(api, 1, SUCCESS)
    for feeds in ({1: "guests"}, {}, {1: "guests"}, {1: "orders"}):
        exporter.list_batches(feeds)
        exporter.scrape()
    assert exporter.finished() == {"success": 1}
    assert exporter.finished("orders") == {}


def test_an_error_log_counts_when_it_was_read(api: FakeApi, exporter: Exporter) -> None:
    key = put(api, 1, ERROR, failed=4)
    old = put(api, 2, ERROR, failed=4, age=HOUR)
    log = LogReading(ErrorLog({RecordCause.VALIDATION: 3, RecordCause.NOT_FOUND: 1}))
    api.logs = {key: log, old: log}
    exporter.list_batches({1: "guests", 2: "guests"})
    exporter.scrape()
    wait_until(lambda: all(state.error_log is not None for state in exporter.scrape().batches))
    for _ in range(2):
        counted = {cause: count for cause, count in exporter.totals().error_log_records.items() if count}
        assert counted == {"validation": 3, "not_found": 1}, "that of the batch which counts"


def test_a_reload_changes_no_counter(api: FakeApi, exporter: Exporter) -> None:
    put(api, 1, SUCCESS)
    put(api, 2, ERROR, failed=4)
    exporter.list_batches({1: "guests", 2: "guests"})
    exporter.scrape()
    before = exporter.totals()
    assert (before.accepted, before.finished[ERROR]) == (1, 1)
    for feeds in (
        [{**GUESTS, "max_failed_ratio": 1}],
        [{**GUESTS, "labels": {"team": "shop"}}, {"name": "hourly"}],
        [],
        [GUESTS],
    ):
        exporter.reload(feeds=feeds)
        assert exporter.totals() == before
    exporter.list_batches({})
    exporter.reload(feeds=[{"name": "hourly"}])
    assert history(exporter.scrape(), "guests").labels == {}
    assert exporter.totals() == before


def test_another_organisation_takes_the_counters_on_and_counts_what_is_new_there(
    api: FakeApi, exporter: Exporter
) -> None:
    put(api, 1, SUCCESS)
    exporter.list_batches({1: "guests"})
    exporter.scrape()
    exporter.clock.now += HOUR
    put(api, 2, SUCCESS)
    exporter.list_batches({2: "guests"})
    exporter.reload(api={"base_url": "https://other.example"})
    exporter.scrape()
    assert exporter.finished() == {"success": 1}, "the other one had finished long before the reload"
    put(api, 3, SUCCESS, age=-HOUR)
    exporter.list_batches({3: "guests"})
    exporter.scrape()
    assert exporter.finished() == {"success": 2}


def test_a_reload_with_a_mistake_and_another_without_it_count_no_batch_twice(api: FakeApi, exporter: Exporter) -> None:
    put(api, 1, SUCCESS)
    exporter.list_batches({1: "guests"})
    exporter.scrape()
    assert exporter.finished() == {"success": 1}
    exporter.reload(api={"base_url": "https://other.example"})
    exporter.scrape()
    exporter.reload(api={"base_url": "https://api.example"})
    exporter.scrape()
    assert exporter.finished() == {"success": 1}


def test_the_newest_finished_batch_of_a_feed_has_all_values_of_one_batch(api: FakeApi, exporter: Exporter) -> None:
    exporter.list_batches({1: "guests", 2: "guests", 3: "guests"})
    put(api, 1, SUCCESS, age=HOUR, total=100)
    put(api, 2, ERROR, age=60, failed=4)
    put(api, 3, PROCESSING, age=1)
    shown = samples(exporter.scrape())
    labels = frozenset({("feed", "guests"), ("team", "crm")})
    prefix = "sitecore_cdp_feed_last_finished_"
    assert {name.removeprefix(prefix): value for (name, _), value in shown.items() if name.startswith(prefix)} == {
        "created_timestamp_seconds": NOW + 940,
        "modified_timestamp_seconds": NOW + 940,
        "status_code": 5,
        "accepted": 0,
        "total_records": 10,
        "failed_records": 4,
        "time_to_process_seconds": 2,
    }
    assert (f"{prefix}status_code", labels) in shown


@pytest.mark.parametrize(("ratio", "accepted"), [(0.3, False), (0.4, True)])
def test_whether_the_newest_finished_batch_is_accepted_is_by_the_rule_of_its_feed(
    api: FakeApi,
    exporter: Exporter,
    ratio: float,
    accepted: bool,  # noqa: FBT001  A column.
) -> None:
    exporter.reload(feeds=[{**GUESTS, "max_failed_ratio": ratio}])
    exporter.list_batches({1: "guests"})
    put(api, 1, ERROR, failed=4)
    assert history(exporter.scrape(), "guests").last_accepted is accepted


def test_no_value_of_the_newest_finished_batch_is_that_of_another(api: FakeApi, exporter: Exporter) -> None:
    exporter.reload(discovery={"enabled": True}, feeds=[{**GUESTS, "ref_prefix": "00000000"}])
    put(api, 1, SUCCESS, age=HOUR)
    exporter.scrape()
    key = put(api, 2, ERROR)
    api.answers[key] = PollError.of_status(500)
    shown = names(samples(exporter.scrape()))
    assert {name for name in shown if "last_finished" in name} == {
        "sitecore_cdp_feed_last_finished_created_timestamp_seconds",
        "sitecore_cdp_feed_last_finished_modified_timestamp_seconds",
        "sitecore_cdp_feed_last_finished_status_code",
        "sitecore_cdp_feed_last_finished_accepted",
    }


def test_it_is_absent_until_one_is_known_and_stays_when_it_is_listed_no_more(api: FakeApi, exporter: Exporter) -> None:
    put(api, 1, PROCESSING)
    exporter.list_batches({1: "guests", 2: "orders"})
    assert history(exporter.scrape(), "guests").last_finished is None
    put(api, 1, SUCCESS)
    put(api, 2, SUCCESS)
    exporter.scrape()
    exporter.list_batches({})
    snapshot = exporter.scrape()
    assert snapshot.batches == ()
    last = history(snapshot, "guests")
    assert (last.last_finished, last.last_accepted) == (api.answers[ref(1)], True)
    assert history(snapshot, "orders").last_finished is None, "neither the config nor a batch knows that feed any more"


def test_the_list_is_shown_by_feed_and_adds_up(api: FakeApi, exporter: Exporter) -> None:
    exporter.reload(discovery={"enabled": True}, feeds=[GUESTS, {"name": "orders"}, {"name": "hourly"}])
    for number, status in enumerate([SUCCESS, SUCCESS, ERROR, PROCESSING, CORRUPTED]):
        put(api, number, status)
    exporter.list_batches({0: "guests", 1: "orders", 2: "orders"})
    snapshot = exporter.scrape()
    listed = {
        each.name: {status: count for status, count in (each.listed or {}).items() if count}
        for each in snapshot.histories
    }
    assert listed == {
        "guests": {"success": 1},
        "orders": {"success": 1, "error": 1},
        "hourly": {},
        None: {"processing": 1, "corrupted": 1},
    }
    assert all(len(each.listed or {}) == 6 for each in snapshot.histories)
    put(api, 5, SUCCESS)
    assert history(exporter.scrape(), None).listed == {
        "uploading": 0, "file_uploaded": 0, "processing": 1, "success": 1, "corrupted": 1, "error": 0,
    }  # fmt: skip
    api.list_error = PollError.of_status(500)
    assert "sitecore_cdp_feed_batches" not in names(samples(exporter.scrape()))
    api.list_error = None
    exporter.reload(discovery={"enabled": False})
    assert "sitecore_cdp_feed_batches" not in names(samples(exporter.scrape()))
