"""Samples with labels beyond those of their subject, for the metrics in definitions.py."""

from collections import Counter

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.metrics.collector import Sample
from sitecore_cdp_exporter.poll.snapshot import BatchState, DiscoveryState, FeedHistory, FeedState, Snapshot
from sitecore_cdp_exporter.watch.watchlist import Source

_STATUS_LABELS = tuple((status, {"status": status.value}) for status in BatchStatus)


def statuses(state: BatchState) -> list[Sample]:
    """Return a sample for each status: 1 for the current one, 0 for the others."""
    if state.reading is None:
        return []
    status = state.reading.batch.status
    return [(labels, float(status is each)) for each, labels in _STATUS_LABELS]


def unfinished_since(state: BatchState) -> list[Sample]:
    """Return since when an unfinished batch has been waiting."""
    since = None if state.reading is None else state.reading.unfinished_since
    if state.reading is None or since is None:
        return []
    return [({"status": state.reading.batch.status.value}, since)]


def poll_failures(state: BatchState) -> list[Sample]:
    """Return why the last poll failed."""
    return [] if state.failure is None else [({"reason": state.failure.value}, 1.0)]


def open_failures(state: BatchState) -> list[Sample]:
    """Return how much of a failed batch is missing, if its failure is open."""
    failure = state.open_failure
    return [] if failure is None else [({"kind": failure.kind.value}, failure.ratio)]


def causes(state: BatchState) -> list[Sample]:
    """Return why the batch failed."""
    return [] if state.cause is None else [({"cause": state.cause.value}, 1.0)]


def rejected_records(state: BatchState) -> list[Sample]:
    """Return the number of rejected records per cause, for causes that occur."""
    log = state.error_log
    return [] if log is None else [({"cause": cause.value}, float(count)) for cause, count in log.records.items()]


def log_read(state: BatchState) -> bool | None:
    """Return whether the error log was read, or None before the first attempt has ended."""
    return None if state.error_log is None and state.error_log_failure is None else state.error_log is not None


def log_failures(state: BatchState) -> list[Sample]:
    """Return why the error log could not be read."""
    return [] if state.error_log_failure is None else [({"reason": state.error_log_failure.value}, 1.0)]


def due(state: FeedState) -> list[Sample]:
    """Return when the next batch of a feed is due."""
    if state.due is None:
        return []
    return [({"of": "finished"}, state.due.finished), ({"of": "accepted"}, state.due.accepted)]


def api_failures(snapshot: Snapshot) -> list[Sample]:
    """Return why the API is down."""
    return [] if snapshot.api_failure is None else [({"reason": snapshot.api_failure.value}, 1.0)]


def list_failures(discovery: DiscoveryState) -> list[Sample]:
    """Return why the list of batches could not be read."""
    return [] if discovery.failure is None else [({"reason": discovery.failure.value}, 1.0)]


def totals(discovery: DiscoveryState) -> list[Sample]:
    """Return the number of batches per status; without the list there are none: unknown is not zero."""
    return [({"status": status.value}, float(count)) for status, count in (discovery.totals or {}).items()]


def sources(snapshot: Snapshot) -> list[Sample]:
    """Return the number of watched batches per source."""
    counts = Counter(state.watched.source for state in snapshot.batches)
    return [({"source": source.value}, float(counts[source])) for source in Source]


def finished_batches(history: FeedHistory) -> list[Sample]:
    """Return how many batches of a feed have finished with each status."""
    return [({"status": status.value}, float(count)) for status, count in history.totals.finished.items()]


def counted_records(history: FeedHistory) -> list[Sample]:
    """Return how many records of a feed were processed, and how many were not."""
    totals = history.totals
    return [
        ({"result": "succeeded"}, float(totals.succeeded_records)),
        ({"result": "failed"}, float(totals.failed_records)),
    ]


def counted_causes(history: FeedHistory) -> list[Sample]:
    """Return how many records of a feed were rejected for each cause."""
    return [({"cause": cause.value}, float(count)) for cause, count in history.totals.error_log_records.items()]


def listed_batches(history: FeedHistory) -> list[Sample]:
    """Return how many batches of a feed the list has in each status."""
    return [({"status": status.value}, float(count)) for status, count in (history.listed or {}).items()]
