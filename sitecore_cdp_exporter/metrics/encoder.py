"""A caching encoder. Its output is byte-identical to that of prometheus_client.

10,000 finished batches make 200,000 lines. Encoding them takes prometheus_client seconds, and several times the memory
of the response. Nearly all are the same as in the previous scrape, because finished batches do not change. So the
lines of each batch are cached until it changes or is no longer shown.

prometheus_client encodes HELP, TYPE, and everything that is not a batch. Each scrape also encodes a sample with both
encoders. If they differ, prometheus_client encodes it all. That covers the escaping scheme `dots`, and future versions.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from prometheus_client import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from sitecore_cdp_exporter.metrics.collector import Families
from sitecore_cdp_exporter.metrics.definitions import BATCH_GAUGES
from sitecore_cdp_exporter.metrics.families import batch_families, batch_labels
from sitecore_cdp_exporter.poll.snapshot import BatchState, Snapshot

# As `prometheus_client.exposition.choose_encoder` returns it.
Encoder: TypeAlias = Callable[[Collector], bytes]
# Joining a block holds the GIL, so blocks are bounded.
_BATCHES_OF_A_BLOCK = 1000
_OPENMETRICS_END = b"# EOF\n"
# A family that covers all a line may contain: escaping, the order of labels, and numbers of every format.
_SAMPLE_NAME = "sitecore_cdp_batch_sample"
_SAMPLE_LABELS = {"ref": 'quote " backslash \\ line\nbreak é', "a_label": ""}
_SAMPLE_VALUES = (0.0, -1.0, 316.0, 614.867, 1e-7, 1745483580.77, 2.0**63)


class Exposition:
    """Encodes scrapes, and caches the lines of each batch between them. Thread-safe."""

    def __init__(self) -> None:
        # By ref: the batch as last encoded, and its row.
        self._cached: Mapping[str, tuple[BatchState, tuple[bytes, ...]]] = {}

    def encode(self, snapshot: Snapshot, others: Collector, encoder: Encoder) -> Iterator[bytes]:
        """Yield, in blocks, what `encoder` returns for the families of the batches followed by the others."""
        if not _lines_are_known(encoder):
            yield encoder(Families(batch_families(snapshot), others.collect()))
            return
        # One row per batch, one column per family. Without batches there are no columns.
        columns = zip(*self._rows(snapshot), strict=True)
        for family, column in zip(BATCH_GAUGES, columns, strict=False):
            lines = column if all(column) else tuple(filter(None, column))
            if lines:
                yield _head(family.name, family.documentation, encoder)
                yield from _blocks(family.name.encode(), lines)
        yield encoder(others)

    def _rows(self, snapshot: Snapshot) -> list[tuple[bytes, ...]]:
        before, cached = self._cached, {}
        rows = []
        for state in snapshot.batches:
            known = before.get(state.watched.ref)
            if known is None or not known[0] == state:  # noqa: SIM201  `!=` on a dataclass is slower.
                known = state, _row(state)
            cached[state.watched.ref] = known
            rows.append(known[1])
        self._cached = cached
        return rows


def _row(state: BatchState) -> tuple[bytes, ...]:
    """Return the lines of a batch in each family, without the metric name at the start of the first."""
    own = _escaped(batch_labels(state))
    labels = _joined(own)
    return tuple(
        family.name.join(
            [
                _line_after_name(_joined(own | _escaped(more)) if more else labels, value)
                for more, value in family.samples(state)
            ]
        ).encode()
        for family in BATCH_GAUGES
    )


def _blocks(name: bytes, lines: tuple[bytes, ...]) -> Iterator[bytes]:
    """Yield the lines of a family. Not caching the metric name per batch saves a quarter of the memory."""
    for start in range(0, len(lines), _BATCHES_OF_A_BLOCK):
        yield name.join((b"", *lines[start : start + _BATCHES_OF_A_BLOCK]))


def _escaped(labels: Mapping[str, str]) -> dict[str, str]:
    """Return each label as written in a line, by name."""
    return {
        name: '{}="{}"'.format(name, value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\""))
        for name, value in labels.items()
    }


def _joined(escaped: Mapping[str, str]) -> str:
    return ",".join([escaped[name] for name in sorted(escaped)])


def _line_after_name(labels: str, value: float) -> str:
    # prometheus_client does not annotate it.
    return f"{{{labels}}} {floatToGoString(value)}\n"  # type: ignore[no-untyped-call]


def _lines_are_known(encoder: Encoder) -> bool:
    """Whether the encoder formats the lines of a gauge as this module does."""
    family = Metric(_SAMPLE_NAME, "", "gauge")
    for value in _SAMPLE_VALUES:
        family.add_sample(_SAMPLE_NAME, _SAMPLE_LABELS, value)
    labels = _joined(_escaped(_SAMPLE_LABELS))
    lines = "".join([_SAMPLE_NAME + _line_after_name(labels, value) for value in _SAMPLE_VALUES])
    return _without_end(encoder(Families([family]))) == _head(_SAMPLE_NAME, "", encoder) + lines.encode()


def _head(name: str, documentation: str, encoder: Encoder) -> bytes:
    return _without_end(encoder(Families([Metric(name, documentation, "gauge")])))


def _without_end(encoded: bytes) -> bytes:
    return encoded.removesuffix(_OPENMETRICS_END)
