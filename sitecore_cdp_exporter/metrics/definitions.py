"""Every metric of the exporter: name, type, labels, HELP and the source of its value. No I/O.

Values missing from a snapshot have no sample.

# HELP sitecore_cdp_batch_status Whether the batch has this status: one series for each (status.code).
# TYPE sitecore_cdp_batch_status gauge
sitecore_cdp_batch_status{feed="nightly-guests",ref="5a0c2f0e-…",status="error",team="crm"} 1.0
# HELP sitecore_cdp_batch_failed_records Records that were not processed (summaryStats.failedCount).
# TYPE sitecore_cdp_batch_failed_records gauge
sitecore_cdp_batch_failed_records{feed="nightly-guests",ref="5a0c2f0e-…",team="crm"} 316.0
"""

import platform
from collections.abc import Callable, Mapping

import prometheus_client
from prometheus_client import CollectorRegistry

from sitecore_cdp_exporter import __version__
from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.config.reload import ReloadState
from sitecore_cdp_exporter.metrics import samples
from sitecore_cdp_exporter.metrics.collector import Counter, Gauge, Subject, gauge
from sitecore_cdp_exporter.metrics.exporter_state import ExporterState
from sitecore_cdp_exporter.poll.snapshot import BatchState, DiscoveryState, FeedHistory, FeedState, Snapshot

STATUS_CODES: Mapping[BatchStatus, int] = dict(zip(BatchStatus, (0, 1, 2, 3, 4, 5, -1), strict=True))
_STATUS_CODES_IN_WORDS = ", ".join(f"{code} {status}" for status, code in STATUS_CODES.items())


# The API's values of a batch, by the suffix of the metric's name. None: no sample.
_BATCH_VALUES: Mapping[str, tuple[str, Callable[[Batch], float | None]]] = {
    "status_code": (
        f"Status of the batch as a number, not an HTTP code: {_STATUS_CODES_IN_WORDS} (status.code).",
        lambda batch: STATUS_CODES[batch.status],
    ),
    "total_records": ("Records in the batch (summaryStats.totalCount).", lambda batch: batch.total_records),
    "succeeded_records": (
        "Records that were processed (summaryStats.succeededCount).",
        lambda batch: batch.succeeded_records,
    ),
    "failed_records": (
        "Records that were not processed (summaryStats.failedCount).",
        lambda batch: batch.failed_records,
    ),
    "time_to_process_seconds": (
        "Time that Sitecore CDP took to process the batch (summaryStats.timeToProcessMillis / 1000).",
        lambda batch: batch.time_to_process_seconds,
    ),
    "size_bytes": ("Size of the gzipped file as declared by the uploader (size).", lambda batch: batch.size_bytes),
    "created_timestamp_seconds": ("When the batch was allocated (createdAt).", lambda batch: batch.created),
    "modified_timestamp_seconds": ("When the batch last changed (modifiedAt).", lambda batch: batch.modified),
    "upload_expiry_timestamp_seconds": (
        "When the upload URL of the batch expires (location.expiry).",
        lambda batch: batch.upload_expiry,
    ),
    "error_log_available": (
        "Whether the API offers an error log of the batch (status.log).",
        lambda batch: batch.error_log_available,
    ),
}


def _of_batch(name: str, documentation: str, value: Callable[[Batch], float | None]) -> Gauge[BatchState]:
    """Declare a gauge for batches that were read. None: no sample."""
    return gauge(name, documentation, lambda state: None if state.reading is None else value(state.reading.batch))


# In the order of the exposition.
BATCH_GAUGES: tuple[Gauge[BatchState], ...] = (
    Gauge(
        "sitecore_cdp_batch_status",
        "Whether the batch has this status: one series for each (status.code).",
        samples.statuses,
    ),
    *(
        _of_batch(f"sitecore_cdp_batch_{name}", documentation, value)
        for name, (documentation, value) in _BATCH_VALUES.items()
    ),
    Gauge(
        "sitecore_cdp_batch_unfinished_since_timestamp_seconds",
        "Since when the unfinished batch has been waiting: for its file since it was allocated, then since it last "
        "changed (createdAt and modifiedAt).",
        samples.unfinished_since,
    ),
    gauge(
        "sitecore_cdp_batch_polled_timestamp_seconds",
        "When the values of the batch were read. A finished batch is polled again only every recheck_finished.",
        lambda state: None if state.reading is None else state.reading.polled,
    ),
    gauge(
        "sitecore_cdp_batch_accepted",
        "Whether the finished batch counts as loaded: success, or error within the max_failed_ratio of its feed "
        "(status.code).",
        lambda state: state.accepted,
    ),
    gauge(
        "sitecore_cdp_batch_superseded",
        "Whether an accepted batch supersedes this failed one: one that replaces it or, for feeds with "
        "next_success_resolves, one created later.",
        lambda state: state.superseded,
    ),
    gauge(
        "sitecore_cdp_batch_poll_success",
        "Whether the last poll of the batch succeeded. Re-checks of finished batches never lower it.",
        lambda state: state.failure is None,
    ),
    Gauge(
        "sitecore_cdp_batch_poll_failure",
        "Why the last poll of the batch failed; 1 while it does.",
        samples.poll_failures,
    ),
    Gauge(
        "sitecore_cdp_batch_open_failure_ratio",
        "Share of records that failed, 1 if nothing was loaded, or of the feed's min_records that is missing; only "
        "while the failure is neither resolved nor a week old (summaryStats).",
        samples.open_failures,
    ),
    gauge(
        "sitecore_cdp_batch_tolerated_failure_ratio",
        "Share of records that failed, of a batch that counts as loaded all the same; for a week (summaryStats).",
        lambda state: state.tolerated_ratio,
    ),
    Gauge(
        "sitecore_cdp_batch_failure_cause",
        "Why the batch failed, or its upload expired (status, checksum, summaryStats and location).",
        samples.causes,
    ),
    Gauge(
        "sitecore_cdp_batch_error_log_records",
        "Rejected records by cause, counted in the error log (status.log); only causes that occur.",
        samples.rejected_records,
    ),
    gauge(
        "sitecore_cdp_batch_error_log_read",
        "Whether the error log was read; absent until the first attempt has ended (status.log).",
        samples.log_read,
    ),
    gauge(
        "sitecore_cdp_batch_error_log_awaited",
        "1 while the error log of a batch that has just failed is to be read, for four minutes at most (status.log).",
        lambda state: True if state.error_log_awaited else None,
    ),
    Gauge(
        "sitecore_cdp_batch_error_log_read_failure",
        "Why the error log could not be read; 1 while it could not.",
        samples.log_failures,
    ),
    gauge(
        "sitecore_cdp_batch_error_log_truncated",
        "Whether the error log was counted only in part: it or one of its lines was too long, or time ran out.",
        lambda state: None if state.error_log is None else state.error_log.truncated,
    ),
)

FEED_GAUGES: tuple[Gauge[FeedState], ...] = (
    gauge(
        "sitecore_cdp_feed_last_accepted_timestamp_seconds",
        "When the newest accepted batch of the feed was modified (modifiedAt); 0 if none was seen.",
        lambda state: state.last_accepted,
    ),
    Gauge(
        "sitecore_cdp_feed_due_timestamp_seconds",
        "When the next batch of the feed is due at the latest, grace included: any that ends, or an accepted one "
        "(expect_success_every or expect_success_by of the config).",
        samples.due,
    ),
    gauge(
        "sitecore_cdp_feed_expected_interval_seconds",
        "How often a batch of the feed should be accepted (expect_success_every of the config).",
        lambda state: state.feed.expect_success_every,
    ),
    gauge(
        "sitecore_cdp_feed_grace_seconds",
        "How much later still counts as on time (grace of the config).",
        lambda state: state.feed.grace if state.feed.expects else None,
    ),
    gauge(
        "sitecore_cdp_feed_max_failed_ratio",
        "Share of failed records up to which an error counts as accepted (max_failed_ratio of the config).",
        lambda state: state.feed.max_failed_ratio,
    ),
    gauge(
        "sitecore_cdp_feed_min_records",
        "Minimum number of records expected in a batch of the feed (min_records of the config).",
        lambda state: state.feed.min_records,
    ),
)

FEED_COUNTERS: tuple[Counter[FeedHistory], ...] = (
    Counter(
        "sitecore_cdp_feed_finished_batches_total",
        "Batches of the feed that have finished, by status; each counts once (status.code).",
        samples.finished_batches,
    ),
    Counter(
        "sitecore_cdp_feed_accepted_batches_total",
        "Finished batches of the feed that counted as loaded (status.code).",
        lambda history: [({}, float(history.totals.accepted))],
    ),
    Counter(
        "sitecore_cdp_feed_records_total",
        "Records of these batches, by whether they were processed (summaryStats.succeededCount and failedCount).",
        samples.counted_records,
    ),
    Counter(
        "sitecore_cdp_feed_error_log_records_total",
        "Rejected records of these batches by cause, counted in their error logs (status.log).",
        samples.counted_causes,
    ),
)


def _of_last_finished(name: str) -> Gauge[FeedHistory]:
    """Declare a gauge of the newest finished batch of a feed."""
    documentation, value = _BATCH_VALUES[name]
    return gauge(
        f"sitecore_cdp_feed_last_finished_{name}",
        f"Of the feed's finished batch that was allocated last: {documentation}",
        lambda history: None if history.last_finished is None else value(history.last_finished),
    )


FEED_BATCH_GAUGES: tuple[Gauge[FeedHistory], ...] = (
    _of_last_finished("created_timestamp_seconds"),
    _of_last_finished("modified_timestamp_seconds"),
    _of_last_finished("status_code"),
    gauge(
        "sitecore_cdp_feed_last_finished_accepted",
        "Of the feed's finished batch that was allocated last: Whether it counts as loaded (status.code).",
        lambda history: history.last_accepted,
    ),
    _of_last_finished("total_records"),
    _of_last_finished("failed_records"),
    _of_last_finished("time_to_process_seconds"),
    Gauge(
        "sitecore_cdp_feed_batches",
        "Batches of the feed of the past 30 days, watched or not, by status (the list's status).",
        samples.listed_batches,
    ),
)

DISCOVERY_GAUGES: tuple[Gauge[DiscoveryState], ...] = (
    Gauge(
        "sitecore_cdp_batches",
        "Batches of the past 30 days, watched or not, by status (the list's totalCount and status).",
        samples.totals,
    ),
    gauge(
        "sitecore_cdp_discovery_success",
        "Whether the last poll could read the list of batches, and the list was consistent.",
        lambda discovery: discovery.failure is None,
    ),
    Gauge(
        "sitecore_cdp_discovery_failure",
        "Why the list of batches could not be read; 1 while it cannot.",
        samples.list_failures,
    ),
    gauge(
        "sitecore_cdp_discovery_dropped_batches",
        "Discovered batches that are not watched because of discovery.max_batches.",
        lambda discovery: discovery.dropped,
    ),
    gauge(
        "sitecore_cdp_discovery_unreadable_items",
        "Items of the list of batches that could not be read, wholly or in part.",
        lambda discovery: discovery.unreadable,
    ),
)

POLL_GAUGES: tuple[Gauge[Snapshot], ...] = (
    gauge(
        "sitecore_cdp_up",
        "Whether the Batch API is up: 0 if all requests that ended since the previous poll failed for reasons other "
        "than the batch itself.",
        lambda snapshot: snapshot.api_up,
    ),
    Gauge("sitecore_cdp_api_failure", "Why the Batch API is down; 1 while it is.", samples.api_failures),
    gauge(
        "sitecore_cdp_api_last_success_timestamp_seconds",
        "When the Batch API last answered successfully, with a batch or a page of the list.",
        lambda snapshot: snapshot.api_last_success,
    ),
    gauge(
        "sitecore_cdp_complete_poll_timestamp_seconds",
        "When all watched batches had last been answered for, even if with an error of the batch.",
        lambda snapshot: snapshot.complete_poll,
    ),
    Gauge("sitecore_cdp_watched_batches", "Batches that are watched, by where they are listed.", samples.sources),
    gauge("sitecore_cdp_retired_batches", "Known batches past their retention.", lambda snapshot: snapshot.retired),
    gauge(
        "sitecore_cdp_unread_batches",
        "Watched finished batches whose details have not been read yet.",
        lambda snapshot: snapshot.unread,
    ),
    gauge(
        "sitecore_cdp_exporter_poll_duration_seconds",
        "Duration of the poll whose values are shown.",
        lambda snapshot: snapshot.poll_duration,
    ),
)


def _of_reload(name: str, what: str, state: Callable[[Subject], ReloadState]) -> tuple[Gauge[Subject], Gauge[Subject]]:
    """Declare the gauges of something that is loaded again while the exporter runs."""
    return (
        gauge(
            f"{name}_last_reload_successful",
            f"Whether the last attempt to load {what} succeeded.",
            lambda subject: state(subject).successful,
        ),
        gauge(
            f"{name}_last_reload_success_timestamp_seconds",
            f"When {what} was last loaded.",
            lambda subject: state(subject).last_success,
        ),
    )


EXPORTER_GAUGES: tuple[Gauge[ExporterState], ...] = (
    *_of_reload("sitecore_cdp_exporter_config", "the config", lambda state: state.reload),
    Gauge(
        "sitecore_cdp_exporter_batch_file_error",
        "Whether the batch file, or an entry of it, cannot be used.",
        lambda state: [({"file": file}, float(has_error)) for file, has_error in state.batch_file_errors.items()],
    ),
    Gauge(
        "sitecore_cdp_exporter_config_info",
        "Which API the config in use names; always 1.",
        lambda state: [({"base_url": state.api.base_url, "endpoint": state.api.endpoint}, 1.0)],
    ),
    Gauge(
        "sitecore_cdp_exporter_build_info",
        "Version of the exporter and of Python; always 1.",
        lambda _: [({"version": __version__, "python": platform.python_version()}, 1.0)],
    ),
)

WEB_CONFIG_GAUGES: tuple[Gauge[ReloadState], ...] = _of_reload(
    "sitecore_cdp_exporter_web_config", "the file of --web.config.file", lambda state: state
)


class RequestMetrics:
    """Counts and times API requests. Outlives the clients, which a reload replaces."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = prometheus_client.Counter(
            "sitecore_cdp_api_requests_total",
            "Requests sent to the Batch API, by endpoint and HTTP status; code is error if no complete answer arrived.",
            ["endpoint", "code"],
            registry=registry,
        )
        self._duration = prometheus_client.Histogram(
            "sitecore_cdp_api_request_duration_seconds",
            "Time from sending a request to the Batch API to the last byte of its answer, by endpoint.",
            ["endpoint"],
            registry=registry,
        )

    def observe(self, endpoint: str, code: str, seconds: float) -> None:
        """Record a finished request."""
        self._requests.labels(endpoint, code).inc()
        self._duration.labels(endpoint).observe(seconds)
