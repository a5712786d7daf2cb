"""Merge the watched batches: those in the config, then in batch files, then discovered ones."""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from sitecore_cdp_exporter.config.model import Config, FeedConfig, WatchedBatch

_NO_REFS: frozenset[str] = frozenset()
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


class Source(enum.StrEnum):
    """Where a batch is listed. These are the values of the label `source`."""

    CONFIG = "config"
    FILE = "file"
    DISCOVERY = "discovery"


@dataclass(frozen=True, slots=True)
class Watched:
    """A watched batch. Its own labels override those of its feed.

    `replaces`: the refs of other batches, in lower case.
    """

    ref: str
    feed: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    source: Source = Source.CONFIG
    replaces: frozenset[str] = frozenset()


class BatchLists(Protocol):
    """The part of `batch_files.BatchFiles` that a poll uses."""

    @property
    def batches(self) -> Mapping[str, WatchedBatch]:
        """The batches in the files, by ref in lower case."""

    def refresh(self, timeout: float | None = None) -> None:
        """Read the files again, waiting up to `timeout` seconds for a slow disk. None: no limit."""


def watch(config: Config, of_files: Iterable[WatchedBatch], discovered: Iterable[str]) -> dict[str, Watched]:
    """Return the watched batches, by ref in lower case, since the case of a UUID does not matter.

    For a batch that is listed more than once, the config takes precedence, then the first file.
    """
    watched: dict[str, Watched] = {}
    for source, batches in ((Source.CONFIG, config.batches), (Source.FILE, of_files)):
        for batch in batches:
            of_feed = _labels(config.feeds_by_name.get(batch.feed or ""))
            # Thousands of batches share what is the same for all.
            labels = {**of_feed, **batch.labels} if batch.labels else of_feed
            replaces = frozenset(map(str.lower, batch.replaces)) if batch.replaces else _NO_REFS
            watched.setdefault(_key(batch.ref), Watched(batch.ref, batch.feed, labels, source, replaces))
    prefixes = [(feed.ref_prefix, feed) for feed in config.feeds if feed.ref_prefix]
    for ref in discovered:
        key = _key(ref)
        if key not in watched:
            feed = next((feed for prefix, feed in prefixes if key.startswith(prefix)), None)
            watched[key] = Watched(ref, feed.name if feed else None, _labels(feed), Source.DISCOVERY)
    return watched


def overruled(config: Config, of_files: Mapping[str, WatchedBatch]) -> set[str]:
    """Return the refs, in lower case, whose feed, labels or replaces in files differ from the config."""
    listed = ((batch.ref.lower(), batch) for batch in config.batches)
    return {ref for ref, batch in listed if ref in of_files and not batch.agrees_with(of_files[ref])}


def _key(ref: str) -> str:
    """Return a ref in lower case; the same object, not a copy, if that is what it is."""
    key = ref.lower()
    return ref if ref == key else key


def _labels(feed: FeedConfig | None) -> Mapping[str, str]:
    return _NO_LABELS if feed is None else feed.labels
