"""Declare gauges, and turn them into metric families for prometheus_client."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar, Generic, TypeAlias, TypeVar

from prometheus_client import Metric
from prometheus_client.registry import Collector

# What a metric describes: a batch, a feed, a poll.
Subject = TypeVar("Subject")
# The labels beyond those of the subject, and the value.
Sample: TypeAlias = tuple[Mapping[str, str], float]


@dataclass(frozen=True, slots=True)
class Definition(Generic[Subject]):
    """A metric.

    Attributes:
        name: The metric name.
        documentation: The HELP text.
        samples: Returns the samples for one subject.

    """

    name: str
    documentation: str
    samples: Callable[[Subject], Iterable[Sample]]
    type: ClassVar[str]


@dataclass(frozen=True, slots=True)
class Gauge(Definition[Subject]):
    """A gauge."""

    type = "gauge"


@dataclass(frozen=True, slots=True)
class Counter(Definition[Subject]):
    """A counter. Its name ends in `_total`, and its value never falls."""

    type = "counter"


def gauge(name: str, documentation: str, value: Callable[[Subject], float | None]) -> Gauge[Subject]:
    """Declare a gauge with at most one sample per subject. None: no sample."""

    def samples(subject: Subject) -> list[Sample]:
        sample = value(subject)
        return [] if sample is None else [({}, float(sample))]

    return Gauge(name, documentation, samples)


def families(
    definitions: Iterable[Definition[Subject]], labelled: Iterable[tuple[Subject, Mapping[str, str]]]
) -> Iterator[Metric]:
    """Yield a family for each metric that has samples for any of these subjects, given with their labels."""
    subjects = list(labelled)
    for each in definitions:
        # GaugeMetricFamily requires the same labels on each sample, but each batch has its own.
        # A family of counters is named without `_total`.
        family = Metric(each.name.removesuffix("_total"), each.documentation, each.type)
        for subject, labels in subjects:
            for more_labels, value in each.samples(subject):
                family.add_sample(each.name, {**labels, **more_labels}, value)
        if family.samples:
            yield family


class Families(Collector):
    """The families of one scrape, as a Collector for prometheus_client to encode.

    Args:
        families: The families, in the order of the exposition.

    """

    def __init__(self, *families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        return chain.from_iterable(self._families)


class GaugeCollector(Collector, Generic[Subject]):
    """Gauges of a single subject, for a registry.

    Args:
        gauges: The gauges, in the order of the exposition.
        subject: Returns the current state of the subject.

    """

    def __init__(self, gauges: Iterable[Gauge[Subject]], subject: Callable[[], Subject]) -> None:
        self._gauges = gauges
        self._subject = subject

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        return families(self._gauges, [(self._subject(), {})])
