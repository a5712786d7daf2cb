"""A snapshot as metric families. No I/O: what is not in the snapshot has no sample.

# HELP sitecore_cdp_batch_status Whether the batch has this status: one series for each (status.code).
# TYPE sitecore_cdp_batch_status gauge
sitecore_cdp_batch_status{feed="nightly-guests",ref="5a0c2f0e-…",status="error",team="crm"} 1.0
# HELP sitecore_cdp_batch_failed_records Records that were not processed (summaryStats.failedCount).
# TYPE sitecore_cdp_batch_failed_records gauge
sitecore_cdp_batch_failed_records{feed="nightly-guests",ref="5a0c2f0e-…",team="crm"} 316.0
# HELP sitecore_cdp_batch_poll_success Whether the last poll of the batch succeeded.
# TYPE sitecore_cdp_batch_poll_success gauge
sitecore_cdp_batch_poll_success{feed="nightly-guests",ref="5a0c2f0e-…",team="crm"} 1.0
"""

import platform
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sitecore_cdp_exporter import __version__
from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.config.reload import ReloadState
from sitecore_cdp_exporter.poll.snapshot import BatchState, DiscoveryState, FeedState, Reading, Snapshot
from sitecore_cdp_exporter.watch.watchlist import Source

STATUS_CODES: Mapping[BatchStatus, int] = {
    BatchStatus.UPLOADING: 0,
    BatchStatus.FILE_UPLOADED: 1,
    BatchStatus.PROCESSING: 2,
    BatchStatus.SUCCESS: 3,
    BatchStatus.CORRUPTED: 4,
    BatchStatus.ERROR: 5,
    BatchStatus.UNKNOWN: -1,
}

_STATUS_LABELS = tuple((status, {"status": status.value}) for status in BatchStatus)
_STATUS_CODES_IN_WORDS = ", ".join(f"{code} {status}" for status, code in STATUS_CODES.items())


@dataclass(frozen=True, slots=True)
class BatchFamily:
    """A gauge that has series for each batch.

    Attributes:
        name: Its name.
        documentation: Its HELP.
        samples: The value of each series of a batch, after the labels that it has beside those of the batch.

    """

    name: str
    documentation: str
    samples: Callable[[BatchState], Iterable[tuple[Mapping[str, str], float]]]


def _of_reading(name: str, documentation: str, value: Callable[[Reading], float | None]) -> BatchFamily:
    """Make a family with one series for a batch that was read. None: no sample."""
    return _of_state(name, documentation, lambda state: None if state.reading is None else value(state.reading))


def _of_state(name: str, documentation: str, value: Callable[[BatchState], float | None]) -> BatchFamily:
    """Make a family with one series for a batch. None: no sample."""

    def samples(state: BatchState) -> list[tuple[Mapping[str, str], float]]:
        sample = value(state)
        return [] if sample is None else [({}, float(sample))]

    return BatchFamily(name, documentation, samples)


def _statuses(state: BatchState) -> list[tuple[Mapping[str, str], float]]:
    if state.reading is None:
        return []
    status = state.reading.batch.status
    return [(labels, float(status is each)) for each, labels in _STATUS_LABELS]


def _failures(state: BatchState) -> list[tuple[Mapping[str, str], float]]:
    return [] if state.failure is None else [({"reason": state.failure.value}, 1.0)]


# In the order in which they are shown.
BATCH_FAMILIES: tuple[BatchFamily, ...] = (
    BatchFamily(
        "sitecore_cdp_batch_status",
        "Whether the batch has this status: one series for each (status.code).",
        _statuses,
    ),
    _of_reading(
        "sitecore_cdp_batch_status_code",
        f"Status of the batch as a number, not an HTTP code: {_STATUS_CODES_IN_WORDS} (status.code).",
        lambda reading: STATUS_CODES[reading.batch.status],
    ),
    _of_reading(
        "sitecore_cdp_batch_total_records",
        "Records in the batch (summaryStats.totalCount).",
        lambda reading: reading.batch.total_records,
    ),
    _of_reading(
        "sitecore_cdp_batch_succeeded_records",
        "Records that were processed (summaryStats.succeededCount).",
        lambda reading: reading.batch.succeeded_records,
    ),
    _of_reading(
        "sitecore_cdp_batch_failed_records",
        "Records that were not processed (summaryStats.failedCount).",
        lambda reading: reading.batch.failed_records,
    ),
    _of_reading(
        "sitecore_cdp_batch_time_to_process_seconds",
        "Time that Sitecore CDP took to process the batch (summaryStats.timeToProcessMillis / 1000).",
        lambda reading: reading.batch.time_to_process_seconds,
    ),
    _of_reading(
        "sitecore_cdp_batch_size_bytes",
        "Size of the gzipped file as declared by the uploader (size).",
        lambda reading: reading.batch.size_bytes,
    ),
    _of_reading(
        "sitecore_cdp_batch_created_timestamp_seconds",
        "When the batch was allocated (createdAt).",
        lambda reading: reading.batch.created,
    ),
    _of_reading(
        "sitecore_cdp_batch_modified_timestamp_seconds",
        "When the batch last changed (modifiedAt).",
        lambda reading: reading.batch.modified,
    ),
    _of_reading(
        "sitecore_cdp_batch_upload_expiry_timestamp_seconds",
        "When the upload URL of the batch expires (location.expiry).",
        lambda reading: reading.batch.upload_expiry,
    ),
    _of_reading(
        "sitecore_cdp_batch_error_log_available",
        "Whether the API offers an error log of the batch (status.log).",
        lambda reading: reading.batch.error_log_available,
    ),
    _of_reading(
        "sitecore_cdp_batch_polled_timestamp_seconds",
        "When the values of the batch were read. A finished batch is asked again only every recheck_finished.",
        lambda reading: reading.polled,
    ),
    _of_state(
        "sitecore_cdp_batch_accepted",
        "Whether the finished batch counts as loaded: success, or error within the max_failed_ratio of its feed "
        "(status.code).",
        lambda state: state.accepted,
    ),
    _of_state(
        "sitecore_cdp_batch_superseded",
        "Whether a batch of the feed that was created later was accepted; failed batches of feeds with "
        "next_success_resolves.",
        lambda state: state.superseded,
    ),
    _of_state(
        "sitecore_cdp_batch_poll_success",
        "Whether the last poll of the batch succeeded. Re-checks of finished batches never lower it.",
        lambda state: state.failure is None,
    ),
    BatchFamily(
        "sitecore_cdp_batch_poll_failure", "Why the last poll of the batch failed; 1 while it does.", _failures
    ),
)


class Families(Collector):
    """Families that were made for one scrape, in the form that prometheus_client encodes.

    Args:
        families: They are shown in this order.

    """

    def __init__(self, *families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        return chain.from_iterable(self._families)


def batch_labels(state: BatchState) -> dict[str, str]:
    """Return the labels that all series of a batch have."""
    feed = {} if state.watched.feed is None else {"feed": state.watched.feed}
    return {**state.watched.labels, **feed, "ref": state.watched.ref}


def batch_families(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield the families that have series for each batch. A family without any sample is left out."""
    labelled = [(state, batch_labels(state)) for state in snapshot.batches]
    for each in BATCH_FAMILIES:
        family = _gauge(each.name, each.documentation)
        for state, labels in labelled:
            for more_labels, value in each.samples(state):
                family.add_sample(each.name, {**labels, **more_labels}, value)
        if family.samples:
            yield family


def poll_families(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield the families that describe the API, the feeds and the poll as a whole."""
    yield from feed_families(snapshot.feeds)
    if snapshot.discovery is not None:
        yield from discovery_families(snapshot.discovery)
    if snapshot.api_up is not None:
        yield GaugeMetricFamily(
            "sitecore_cdp_up",
            "Whether the Batch API answers: 0 when every request that ended since the poll before failed for a reason "
            "that is not the batch's own.",
            float(snapshot.api_up),
        )
    if snapshot.api_last_success is not None:
        yield GaugeMetricFamily(
            "sitecore_cdp_api_last_success_timestamp_seconds",
            "When a batch was last read from the Batch API.",
            snapshot.api_last_success,
        )
    watched = GaugeMetricFamily(
        "sitecore_cdp_watched_batches", "Batches that are watched, by where they are listed.", labels=["source"]
    )
    sources = Counter(state.watched.source for state in snapshot.batches)
    for source in Source:
        watched.add_metric([source], float(sources[source]))
    yield watched
    yield GaugeMetricFamily(
        "sitecore_cdp_retired_batches",
        "Batches that are known but past their retention: they have no series and no requests.",
        float(snapshot.retired),
    )
    yield GaugeMetricFamily(
        "sitecore_cdp_unread_batches",
        "Finished batches that are watched and whose details are still to be read.",
        float(snapshot.unread),
    )
    yield GaugeMetricFamily(
        "sitecore_cdp_exporter_poll_duration_seconds",
        "Time that the poll took whose values are shown.",
        snapshot.poll_duration,
    )


def discovery_families(discovery: DiscoveryState) -> Iterator[Metric]:
    """Yield the families of the list of batches. Without the list there are no totals: unknown is not zero."""
    if discovery.totals is not None:
        totals = GaugeMetricFamily(
            "sitecore_cdp_batches",
            "Batches of the past 30 days, watched or not, by status (the list's totalCount and status).",
            labels=["status"],
        )
        for status, count in discovery.totals.items():
            totals.add_metric([status], float(count))
        yield totals
    yield GaugeMetricFamily(
        "sitecore_cdp_discovery_success",
        "Whether the list of batches was read in the last poll.",
        float(discovery.failure is None),
    )
    if discovery.failure is not None:
        failure = GaugeMetricFamily(
            "sitecore_cdp_discovery_failure",
            "Why the list of batches could not be read; 1 while it can not.",
            labels=["reason"],
        )
        failure.add_metric([discovery.failure], 1.0)
        yield failure
    yield GaugeMetricFamily(
        "sitecore_cdp_discovery_dropped_batches",
        "Discovered batches that are not watched because of discovery.max_batches.",
        float(discovery.dropped),
    )
    yield GaugeMetricFamily(
        "sitecore_cdp_discovery_unreadable_items",
        "Items of the list of batches that could not be read, wholly or in part.",
        float(discovery.unreadable),
    )


# Name, help and value of each gauge of a feed. None: no sample.
_FEED_GAUGES: tuple[tuple[str, str, Callable[[FeedState], float | None]], ...] = (
    (
        "sitecore_cdp_feed_last_accepted_timestamp_seconds",
        "When the newest accepted batch of the feed was modified (modifiedAt); 0 if none was seen.",
        lambda state: state.last_accepted,
    ),
    (
        "sitecore_cdp_feed_expected_interval_seconds",
        "How often a batch of the feed should be accepted (expect_success_every of the config).",
        lambda state: state.feed.expect_success_every,
    ),
    (
        "sitecore_cdp_feed_grace_seconds",
        "How much later is still in time (grace of the config).",
        lambda state: None if state.feed.expect_success_every is None else state.feed.grace,
    ),
    (
        "sitecore_cdp_feed_max_failed_ratio",
        "Share of failed records up to which an error counts as accepted (max_failed_ratio of the config).",
        lambda state: state.feed.max_failed_ratio,
    ),
    (
        "sitecore_cdp_feed_min_records",
        "How many records a batch of the feed should have at least (min_records of the config).",
        lambda state: state.feed.min_records,
    ),
)


def feed_families(feeds: Iterable[FeedState]) -> Iterator[Metric]:
    """Yield the families of the feeds of the config."""
    for name, documentation, value in _FEED_GAUGES:
        family = _gauge(name, documentation)
        for state in feeds:
            if (sample := value(state)) is not None:
                family.add_sample(name, {**state.feed.labels, "feed": state.feed.name}, float(sample))
        if family.samples:
            yield family


class ExporterCollector(Collector):
    """What the exporter says of itself, its config and its batch files.

    Args:
        reload_state: Whether the last attempt to load the config succeeded, and when one last did.
        batch_file_errors: Whether each batch file, by its name, has an error now.

    """

    def __init__(
        self, reload_state: Callable[[], ReloadState], batch_file_errors: Callable[[], Mapping[str, bool]]
    ) -> None:
        self._reload_state = reload_state
        self._batch_file_errors = batch_file_errors

    def collect(self) -> Iterator[Metric]:
        """Yield the families of the exporter itself."""
        reload_state = self._reload_state()
        yield GaugeMetricFamily(
            "sitecore_cdp_exporter_config_last_reload_successful",
            "Whether the last attempt to load the config succeeded.",
            float(reload_state.successful),
        )
        yield GaugeMetricFamily(
            "sitecore_cdp_exporter_config_last_reload_success_timestamp_seconds",
            "When the config was last loaded.",
            reload_state.last_success,
        )
        errors = GaugeMetricFamily(
            "sitecore_cdp_exporter_batch_file_error",
            "Whether the batch file, or an entry of it, can not be used.",
            labels=["file"],
        )
        for file, has_error in self._batch_file_errors().items():
            errors.add_metric([file], float(has_error))
        if errors.samples:
            yield errors
        build_info = GaugeMetricFamily(
            "sitecore_cdp_exporter_build_info",
            "Version of the exporter and of Python; always 1.",
            labels=["version", "python"],
        )
        build_info.add_metric([__version__, platform.python_version()], 1.0)
        yield build_info


def _gauge(name: str, documentation: str) -> Metric:
    # GaugeMetricFamily wants the same labels on each sample; a batch has only those that were set for it.
    return Metric(name, documentation, "gauge")
