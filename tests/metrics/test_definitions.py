"""A snapshot as metrics: the values, the labels, and what has no sample."""

import ast
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.error_log import ErrorLog, LogFailure, RecordCause
from sitecore_cdp_exporter.api.errors import LogReason, Reason
from sitecore_cdp_exporter.config.model import FeedConfig
from sitecore_cdp_exporter.metrics import definitions
from sitecore_cdp_exporter.metrics.collector import Families
from sitecore_cdp_exporter.metrics.families import batch_families, poll_families
from sitecore_cdp_exporter.poll.cause import FailureCause
from sitecore_cdp_exporter.poll.due import Due
from sitecore_cdp_exporter.poll.open_failure import FailureKind, OpenFailure
from sitecore_cdp_exporter.poll.reading import Reading
from sitecore_cdp_exporter.poll.snapshot import BatchState, DiscoveryState, FeedState, Snapshot
from sitecore_cdp_exporter.service import Service
from sitecore_cdp_exporter.watch.watchlist import Source, Watched
from tests.finished_batch import FINISHED_WITH_ERRORS, REF

POLLED = 1.75e9

BARE = Batch(ref=REF, status=BatchStatus.UPLOADING, error_log_available=False)

Samples = dict[str, list[tuple[dict[str, str], float]]]


def state(
    batch: Batch | None,
    failure: Reason | None = None,
    *,
    watched: Watched | None = None,
    accepted: bool | None = None,
    superseded: bool | None = None,
    open_failure: OpenFailure | None = None,
) -> BatchState:
    reading = None if batch is None else Reading(batch, POLLED)
    return BatchState(
        watched=watched or Watched(REF),
        reading=reading,
        failure=failure,
        accepted=accepted,
        superseded=superseded,
        open_failure=open_failure,
    )


def snapshot(*states: BatchState, api_up: bool | None = True, api_last_success: float | None = POLLED) -> Snapshot:
    return Snapshot(batches=states, api_up=api_up, api_last_success=api_last_success, poll_duration=0.25)


def expose(*states: BatchState) -> Samples:
    """Return the samples of the batches as a Prometheus would parse them, by name."""
    text = generate_latest(Families(batch_families(snapshot(*states)))).decode()
    return {
        family.name: [(sample.labels, sample.value) for sample in family.samples]
        for family in text_string_to_metric_families(text)
    }


def test_a_finished_batch_with_errors_has_every_value() -> None:
    samples = expose(state(FINISHED_WITH_ERRORS, accepted=False))
    statuses = {labels.pop("status"): value for labels, value in samples.pop("sitecore_cdp_batch_status")}
    assert statuses == {status: float(status == "error") for status in BatchStatus}
    assert len(statuses) == 7
    assert {name: value for name, [(labels, value)] in samples.items()} == {
        "sitecore_cdp_batch_status_code": 5,
        "sitecore_cdp_batch_total_records": 121776,
        "sitecore_cdp_batch_succeeded_records": 121460,
        "sitecore_cdp_batch_failed_records": 316,
        "sitecore_cdp_batch_time_to_process_seconds": 614.867,
        "sitecore_cdp_batch_size_bytes": 3456,
        "sitecore_cdp_batch_created_timestamp_seconds": 1745483580.77,
        "sitecore_cdp_batch_modified_timestamp_seconds": 1745484364,
        "sitecore_cdp_batch_upload_expiry_timestamp_seconds": 1745487180.77,
        "sitecore_cdp_batch_error_log_available": 1,
        "sitecore_cdp_batch_accepted": 0,
        "sitecore_cdp_batch_polled_timestamp_seconds": POLLED,
        "sitecore_cdp_batch_poll_success": 1,
    }


def test_what_the_api_did_not_say_has_no_sample() -> None:
    assert set(expose(state(BARE))) == {
        "sitecore_cdp_batch_status",
        "sitecore_cdp_batch_status_code",
        "sitecore_cdp_batch_error_log_available",
        "sitecore_cdp_batch_unfinished_since_timestamp_seconds",
        "sitecore_cdp_batch_polled_timestamp_seconds",
        "sitecore_cdp_batch_poll_success",
    }


@pytest.mark.parametrize("status", list(BatchStatus))
def test_only_an_unfinished_batch_waits_and_its_status_says_for_what(status: BatchStatus) -> None:
    samples = expose(state(replace(BARE, status=status, created=1.0, modified=1.0)))
    expected = None if status.finished else [({"ref": REF, "status": status.value}, 1.0)]
    assert samples.get("sitecore_cdp_batch_unfinished_since_timestamp_seconds") == expected


def test_zeros_that_the_api_did_say_are_samples() -> None:
    stats = Batch(
        ref=REF,
        status=BatchStatus.SUCCESS,
        error_log_available=False,
        total_records=0,
        failed_records=0,
        time_to_process_seconds=0.0,
    )
    samples = expose(state(stats))
    for name in ("total_records", "failed_records", "time_to_process_seconds"):
        assert samples[f"sitecore_cdp_batch_{name}"] == [({"ref": REF}, 0)]


@pytest.mark.parametrize(("awaited", "expected"), [(True, [({"ref": REF}, 1.0)]), (False, None)])
def test_an_error_log_that_nobody_waits_for_has_no_series(
    *, awaited: bool, expected: list[tuple[dict[str, str], float]] | None
) -> None:
    samples = expose(replace(state(FINISHED_WITH_ERRORS), error_log_awaited=awaited))
    assert samples.get("sitecore_cdp_batch_error_log_awaited") == expected


def test_a_failure_that_is_tolerated_has_its_share() -> None:
    samples = expose(replace(state(FINISHED_WITH_ERRORS, accepted=True), tolerated_ratio=0.25))
    assert samples["sitecore_cdp_batch_tolerated_failure_ratio"] == [({"ref": REF}, 0.25)]


@pytest.mark.parametrize("reason", list(Reason))
def test_a_failed_poll_has_its_reason_and_nothing_else(reason: Reason) -> None:
    assert expose(state(None, reason)) == {
        "sitecore_cdp_batch_poll_success": [({"ref": REF}, 0)],
        "sitecore_cdp_batch_poll_failure": [({"ref": REF, "reason": reason.value}, 1)],
    }


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (BatchStatus.UPLOADING, 0),
        (BatchStatus.FILE_UPLOADED, 1),
        (BatchStatus.PROCESSING, 2),
        (BatchStatus.SUCCESS, 3),
        (BatchStatus.CORRUPTED, 4),
        (BatchStatus.ERROR, 5),
        (BatchStatus.UNKNOWN, -1),
    ],
)
def test_each_status_has_its_code(status: BatchStatus, code: int) -> None:
    samples = expose(state(Batch(ref=REF, status=status, error_log_available=False)))
    assert samples["sitecore_cdp_batch_status_code"] == [({"ref": REF}, code)]
    assert [labels["status"] for labels, value in samples["sitecore_cdp_batch_status"] if value] == [status]


@pytest.mark.parametrize("truncated", [True, False])
def test_an_error_log_has_its_counts_by_cause(truncated: bool) -> None:  # noqa: FBT001  A column.
    log = ErrorLog({RecordCause.IDENTITY_MISSING: 300, RecordCause.NOT_FOUND: 16}, truncated)
    failed = state(FINISHED_WITH_ERRORS)
    samples = expose(replace(failed, error_log=log, cause=FailureCause.RECORDS_REJECTED))
    assert samples["sitecore_cdp_batch_failure_cause"] == [({"ref": REF, "cause": "records_rejected"}, 1)]
    assert samples["sitecore_cdp_batch_error_log_records"] == [
        ({"ref": REF, "cause": "identity_missing"}, 300),
        ({"ref": REF, "cause": "not_found"}, 16),
    ]
    assert samples["sitecore_cdp_batch_error_log_read"] == [({"ref": REF}, 1)]
    assert samples["sitecore_cdp_batch_error_log_truncated"] == [({"ref": REF}, truncated)]
    assert "sitecore_cdp_batch_error_log_read_failure" not in samples


def test_an_error_log_without_rejections_is_read_all_the_same() -> None:
    samples = expose(replace(state(FINISHED_WITH_ERRORS), error_log=ErrorLog({})))
    assert samples["sitecore_cdp_batch_error_log_read"] == [({"ref": REF}, 1)]
    assert "sitecore_cdp_batch_error_log_records" not in samples


@pytest.mark.parametrize("reason", [*Reason, *LogReason])
def test_an_error_log_that_could_not_be_read_has_its_reason(reason: LogFailure) -> None:
    samples = expose(replace(state(FINISHED_WITH_ERRORS), error_log_failure=reason))
    assert samples["sitecore_cdp_batch_error_log_read"] == [({"ref": REF}, 0)]
    assert samples["sitecore_cdp_batch_error_log_read_failure"] == [({"ref": REF, "reason": reason.value}, 1)]
    assert not [name for name in samples if name.endswith(("_log_records", "_truncated"))]


@pytest.mark.parametrize("value", [True, False, None])
def test_acceptance_is_reported_where_it_is_known(value: bool | None) -> None:  # noqa: FBT001  A column.
    samples = expose(state(FINISHED_WITH_ERRORS, accepted=value, superseded=value))
    for name in ("accepted", "superseded"):
        exposed = samples.get(f"sitecore_cdp_batch_{name}")
        assert exposed == (None if value is None else [({"ref": REF}, value)])


def test_a_batch_known_only_from_the_list_has_no_error_log_sample() -> None:
    samples = expose(state(Batch(ref=REF, status=BatchStatus.PROCESSING)))
    assert "sitecore_cdp_batch_error_log_available" not in samples
    assert samples["sitecore_cdp_batch_poll_success"] == [({"ref": REF}, 1)]


def test_a_series_has_only_the_labels_that_its_batch_has() -> None:
    other = "439332a9-f837-496f-9e4a-87491689bb90"
    samples = expose(
        state(BARE, watched=Watched(REF, "nightly-guests", {"team": "crm", "region": "eu"})),
        state(None, Reason.TIMEOUT, watched=Watched(other)),
    )
    assert samples["sitecore_cdp_batch_poll_success"] == [
        ({"ref": REF, "feed": "nightly-guests", "team": "crm", "region": "eu"}, 1),
        ({"ref": other}, 0),
    ]


def test_label_values_are_escaped() -> None:
    feed = 'a "feed" with \\ and ünïcode {}'
    samples = expose(state(BARE, watched=Watched(REF, feed)))
    assert samples["sitecore_cdp_batch_poll_success"] == [({"ref": REF, "feed": feed}, 1)]


def test_a_batch_makes_as_many_series_as_the_documentation_says() -> None:
    finished = expose(state(FINISHED_WITH_ERRORS, accepted=False))
    failing = expose(state(None, Reason.TIMEOUT))
    assert sum(map(len, finished.values())) == 20
    assert sum(map(len, failing.values())) == 2


def test_an_open_failure_has_its_kind_and_how_much_is_missing() -> None:
    failed = expose(state(FINISHED_WITH_ERRORS, accepted=False, open_failure=OpenFailure(FailureKind.REJECTED, 0.25)))
    assert failed["sitecore_cdp_batch_open_failure_ratio"] == [({"ref": REF, "kind": "rejected"}, 0.25)]
    assert "sitecore_cdp_batch_open_failure_ratio" not in expose(state(FINISHED_WITH_ERRORS, accepted=False))


def test_an_api_that_is_down_shows_why() -> None:
    down = replace(snapshot(api_up=False), api_failure=Reason.SERVER_ERROR)
    assert samples_of(down)["sitecore_cdp_api_failure"] == [({"reason": "server_error"}, 1)]
    assert "sitecore_cdp_api_failure" not in samples_of(snapshot())


def test_each_scrape_has_families_of_its_own() -> None:
    assert "sitecore_cdp_batch_total_records" in expose(state(FINISHED_WITH_ERRORS))
    assert "sitecore_cdp_batch_total_records" not in expose(state(BARE))


def samples_of(snapshot: Snapshot) -> dict[str, list[tuple[dict[str, str], float]]]:
    return {
        family.name: [(sample.labels, sample.value) for sample in family.samples] for family in poll_families(snapshot)
    }


def test_the_poll_as_a_whole() -> None:
    discovered = Watched(REF, source=Source.DISCOVERY)
    assert samples_of(snapshot(state(BARE), state(BARE), state(BARE, watched=discovered))) == {
        "sitecore_cdp_up": [({}, 1)],
        "sitecore_cdp_api_last_success_timestamp_seconds": [({}, POLLED)],
        "sitecore_cdp_watched_batches": [
            ({"source": "config"}, 2),
            ({"source": "file"}, 0),
            ({"source": "discovery"}, 1),
        ],
        "sitecore_cdp_retired_batches": [({}, 0)],
        "sitecore_cdp_unread_batches": [({}, 0)],
        "sitecore_cdp_exporter_poll_duration_seconds": [({}, 0.25)],
    }


def test_before_the_first_request_there_are_no_samples_of_the_api() -> None:
    names = set(samples_of(snapshot(api_up=None, api_last_success=None)))
    assert not names & {"sitecore_cdp_up", "sitecore_cdp_api_last_success_timestamp_seconds"}


def test_the_list_of_batches_has_totals_with_their_zeros() -> None:
    totals = dict.fromkeys(BatchStatus, 0) | {BatchStatus.SUCCESS: 7}
    discovery = DiscoveryState(failure=None, totals=totals, dropped=3, unreadable=2)
    samples = samples_of(replace(snapshot(), discovery=discovery))
    assert samples["sitecore_cdp_batches"] == [({"status": status}, count) for status, count in totals.items()]
    assert samples["sitecore_cdp_discovery_success"] == [({}, 1)]
    assert samples["sitecore_cdp_discovery_dropped_batches"] == [({}, 3)]
    assert samples["sitecore_cdp_discovery_unreadable_items"] == [({}, 2)]
    assert "sitecore_cdp_discovery_failure" not in samples


def test_a_list_that_cannot_be_read_has_a_reason_and_no_totals() -> None:
    discovery = DiscoveryState(failure=Reason.SERVER_ERROR, totals=None, dropped=0)
    samples = samples_of(replace(snapshot(), discovery=discovery))
    assert samples["sitecore_cdp_discovery_success"] == [({}, 0)]
    assert samples["sitecore_cdp_discovery_failure"] == [({"reason": "server_error"}, 1)]
    assert "sitecore_cdp_batches" not in samples


def test_a_feed_shows_what_is_expected_of_it() -> None:
    guests = FeedConfig.model_validate(
        {
            "name": "nightly-guests",
            "labels": {"team": "crm"},
            "expect_success_every": "24h",
            "grace": "3h",
            "max_failed_ratio": 0.05,
            "min_records": 1000,
        }
    )
    orders = FeedConfig(name="orders")
    next_due = Due(finished=POLLED + 60, accepted=POLLED + 30)
    feeds = (FeedState(feed=guests, last_accepted=POLLED, due=next_due), FeedState(feed=orders, last_accepted=0))
    samples = samples_of(replace(snapshot(), feeds=feeds))
    of_guests, of_orders = {"feed": "nightly-guests", "team": "crm"}, {"feed": "orders"}
    assert {name: values for name, values in samples.items() if name.startswith("sitecore_cdp_feed_")} == {
        "sitecore_cdp_feed_last_accepted_timestamp_seconds": [(of_guests, POLLED), (of_orders, 0)],
        "sitecore_cdp_feed_due_timestamp_seconds": [
            ({**of_guests, "of": "finished"}, POLLED + 60),
            ({**of_guests, "of": "accepted"}, POLLED + 30),
        ],
        "sitecore_cdp_feed_expected_interval_seconds": [(of_guests, 86400)],
        "sitecore_cdp_feed_grace_seconds": [(of_guests, 10800)],
        "sitecore_cdp_feed_max_failed_ratio": [(of_guests, 0.05), (of_orders, 0)],
        "sitecore_cdp_feed_min_records": [(of_guests, 1000), (of_orders, 0)],
    }


def test_a_feed_that_is_due_by_the_clock_has_a_grace_and_no_interval() -> None:
    config = {"name": "guests", "expect_success_by": {"time": "23:30"}, "grace": "3h"}
    feeds = (FeedState(feed=FeedConfig.model_validate(config), last_accepted=0),)
    samples = samples_of(replace(snapshot(), feeds=feeds))
    assert samples["sitecore_cdp_feed_grace_seconds"] == [({"feed": "guests"}, 10800)]
    assert "sitecore_cdp_feed_expected_interval_seconds" not in samples


def test_a_poll_that_was_complete_has_its_time() -> None:
    samples = samples_of(replace(snapshot(), complete_poll=POLLED))
    assert samples["sitecore_cdp_complete_poll_timestamp_seconds"] == [({}, POLLED)]
    assert "sitecore_cdp_complete_poll_timestamp_seconds" not in samples_of(snapshot())


def test_no_value_is_nan() -> None:
    values = [value for samples in expose(state(FINISHED_WITH_ERRORS)).values() for _, value in samples]
    assert not any(math.isnan(value) for value in values)


def test_the_config_in_use_is_named_after_a_reload_too(tmp_path: Path) -> None:
    config, registry = tmp_path / "config.yaml", CollectorRegistry()
    config.write_text("api: {base_url: https://old.example}", encoding="utf-8")
    service = Service(config, registry)
    labels = {"base_url": "https://old.example", "endpoint": "batches"}
    assert registry.get_sample_value("sitecore_cdp_exporter_config_info", labels) == 1
    config.write_text("api: {base_url: https://new.example, endpoint: inspect}", encoding="utf-8")
    service.reloader.reload()
    service.close()
    assert registry.get_sample_value("sitecore_cdp_exporter_config_info", labels) is None
    labels = {"base_url": "https://new.example", "endpoint": "inspect"}
    assert registry.get_sample_value("sitecore_cdp_exporter_config_info", labels) == 1


def test_every_metric_is_named_in_one_file() -> None:
    package, metric = Path(definitions.__file__).parents[1], "sitecore_cdp_(?!exporter[. ])"
    texts = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    naming = {
        path.relative_to(package).as_posix()
        for path, text in texts.items()
        if re.search(metric, text)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Constant) and re.match(metric, str(node.value))
    }
    # The encoder compares a name of its own with what the library makes of it.
    assert naming - {"metrics/encoder.py"} == {"metrics/definitions.py"}
