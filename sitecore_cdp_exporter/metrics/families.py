"""Convert a snapshot into metric families, with the labels of batches and feeds."""

from collections.abc import Iterator
from itertools import chain

from prometheus_client import Metric

from sitecore_cdp_exporter.metrics.collector import families
from sitecore_cdp_exporter.metrics.definitions import (
    BATCH_GAUGES,
    DISCOVERY_GAUGES,
    FEED_BATCH_GAUGES,
    FEED_COUNTERS,
    FEED_GAUGES,
    POLL_GAUGES,
)
from sitecore_cdp_exporter.poll.snapshot import BatchState, FeedHistory, Snapshot


def batch_labels(state: BatchState) -> dict[str, str]:
    """Return the labels common to all series of a batch."""
    feed = {} if state.watched.feed is None else {"feed": state.watched.feed}
    return {**state.watched.labels, **feed, "ref": state.watched.ref}


def batch_families(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield the families with series per batch."""
    return families(BATCH_GAUGES, ((state, batch_labels(state)) for state in snapshot.batches))


def poll_families(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield the families about the API, the feeds and the poll."""
    feeds = ((state, {**state.feed.labels, "feed": state.feed.name}) for state in snapshot.feeds)
    histories = [(history, _feed_labels(history)) for history in snapshot.histories]
    return chain(
        families(FEED_GAUGES, feeds),
        families(FEED_COUNTERS, histories),
        families(FEED_BATCH_GAUGES, histories),
        families(DISCOVERY_GAUGES, [] if snapshot.discovery is None else [(snapshot.discovery, {})]),
        families(POLL_GAUGES, [(snapshot, {})]),
    )


def _feed_labels(history: FeedHistory) -> dict[str, str]:
    return {**history.labels} if history.name is None else {**history.labels, "feed": history.name}
