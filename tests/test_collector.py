"""A snapshot as metrics: the values, the labels, and what has no sample."""

import math

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sitecore_cdp_exporter.api import Reason
from sitecore_cdp_exporter.batch import Batch, BatchStatus
from sitecore_cdp_exporter.collector import Families, batch_families, poll_families
from sitecore_cdp_exporter.config import WatchedBatch
from sitecore_cdp_exporter.poller import BatchState, Reading, Snapshot

REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
POLLED = 1.75e9

FINISHED_WITH_ERRORS = Batch(
    ref=REF,
    status=BatchStatus.ERROR,
    error_log_available=True,
    total_records=121776,
    succeeded_records=121460,
    failed_records=316,
    time_to_process_seconds=614.867,
    size_bytes=3456,
    created=1745483580.77,
    modified=1745484364.0,
    upload_expiry=1745487180.77,
)
BARE = Batch(ref=REF, status=BatchStatus.UPLOADING, error_log_available=False)

Samples = dict[str, list[tuple[dict[str, str], float]]]


def state(batch: Batch | None, failure: Reason | None = None, **watched: object) -> BatchState:
    reading = None if batch is None else Reading(batch, POLLED)
    return BatchState(WatchedBatch.model_validate({"ref": REF, **watched}), reading, failure)


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
    samples = expose(state(FINISHED_WITH_ERRORS))
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
        "sitecore_cdp_batch_polled_timestamp_seconds",
        "sitecore_cdp_batch_poll_success",
    }


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


@pytest.mark.parametrize("reason", list(Reason))
def test_a_failed_poll_has_its_reason_and_nothing_else(reason: Reason) -> None:
    assert expose(state(None, reason)) == {
        "sitecore_cdp_batch_poll_success": [({"ref": REF}, 0)],
        "sitecore_cdp_batch_poll_failure": [({"ref": REF, "reason": reason.value}, 1)],
    }


@pytest.mark.parametrize(
    ("status", "code", "accepted"),
    [
        (BatchStatus.UPLOADING, 0, None),
        (BatchStatus.FILE_UPLOADED, 1, None),
        (BatchStatus.PROCESSING, 2, None),
        (BatchStatus.SUCCESS, 3, 1),
        (BatchStatus.CORRUPTED, 4, 0),
        (BatchStatus.ERROR, 5, 0),
        (BatchStatus.UNKNOWN, -1, None),
    ],
)
def test_each_status_has_its_code_and_finished_ones_say_whether_they_were_accepted(
    status: BatchStatus, code: int, accepted: int | None
) -> None:
    samples = expose(state(Batch(ref=REF, status=status, error_log_available=False)))
    assert samples["sitecore_cdp_batch_status_code"] == [({"ref": REF}, code)]
    assert samples.get("sitecore_cdp_batch_accepted") == (None if accepted is None else [({"ref": REF}, accepted)])
    assert [labels["status"] for labels, value in samples["sitecore_cdp_batch_status"] if value] == [status]


def test_a_series_has_only_the_labels_that_its_batch_has() -> None:
    other = "439332a9-f837-496f-9e4a-87491689bb90"
    samples = expose(
        state(BARE, feed="nightly-guests", labels={"team": "crm", "region": "eu"}),
        BatchState(WatchedBatch(ref=other), None, Reason.TIMEOUT),
    )
    assert samples["sitecore_cdp_batch_poll_success"] == [
        ({"ref": REF, "feed": "nightly-guests", "team": "crm", "region": "eu"}, 1),
        ({"ref": other}, 0),
    ]


def test_label_values_are_escaped() -> None:
    feed = 'a "feed" with \\ and ünïcode {}'
    samples = expose(state(BARE, feed=feed))
    assert samples["sitecore_cdp_batch_poll_success"] == [({"ref": REF, "feed": feed}, 1)]


def test_a_batch_makes_as_many_series_as_the_documentation_says() -> None:
    finished = expose(state(FINISHED_WITH_ERRORS))
    failing = expose(state(None, Reason.TIMEOUT))
    assert sum(map(len, finished.values())) == 20
    assert sum(map(len, failing.values())) == 2


def test_each_scrape_has_families_of_its_own() -> None:
    assert "sitecore_cdp_batch_total_records" in expose(state(FINISHED_WITH_ERRORS))
    assert "sitecore_cdp_batch_total_records" not in expose(state(BARE))


def test_the_poll_as_a_whole() -> None:
    families = {family.name: family.samples for family in poll_families(snapshot(state(BARE), state(BARE)))}
    assert {name: [(sample.labels, sample.value) for sample in samples] for name, samples in families.items()} == {
        "sitecore_cdp_up": [({}, 1)],
        "sitecore_cdp_api_last_success_timestamp_seconds": [({}, POLLED)],
        "sitecore_cdp_watched_batches": [({"source": "config"}, 2)],
        "sitecore_cdp_exporter_poll_duration_seconds": [({}, 0.25)],
    }


def test_before_the_first_request_nothing_is_said_of_the_api() -> None:
    names = {family.name for family in poll_families(snapshot(api_up=None, api_last_success=None))}
    assert names == {"sitecore_cdp_watched_batches", "sitecore_cdp_exporter_poll_duration_seconds"}


def test_no_value_is_nan() -> None:
    values = [value for samples in expose(state(FINISHED_WITH_ERRORS)).values() for _, value in samples]
    assert not any(math.isnan(value) for value in values)
