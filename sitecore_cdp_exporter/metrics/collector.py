"""How a metric is declared, and how it becomes a family that prometheus_client encodes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeAlias, TypeVar

from prometheus_client import Metric
from prometheus_client.registry import Collector

# What a metric is about: a batch, a feed, a poll.
Subject = TypeVar("Subject")
# A value, after the labels that it has beside those of its subject.
Sample: TypeAlias = tuple[Mapping[str, str], float]


@dataclass(frozen=True, slots=True)
class Gauge(Generic[Subject]):
    """A gauge.

    Attributes:
        name: Its name.
        documentation: Its HELP.
        samples: Its samples for one subject.

    """

    name: str
    documentation: str
    samples: Callable[[Subject], Iterable[Sample]]


def gauge(name: str, documentation: str, value: Callable[[Subject], float | None]) -> Gauge[Subject]:
    """Declare a gauge with at most one sample for a subject. None: no sample."""

    def samples(subject: Subject) -> list[Sample]:
        sample = value(subject)
        return [] if sample is None else [({}, float(sample))]

    return Gauge(name, documentation, samples)


def families(
    gauges: Iterable[Gauge[Subject]], labelled: Iterable[tuple[Subject, Mapping[str, str]]]
) -> Iterator[Metric]:
    """Yield a family for each gauge, of subjects with their labels. A family without any sample is left out."""
    subjects = list(labelled)
    for each in gauges:
        # GaugeMetricFamily wants the same labels on each sample; a batch has only those that were set for it.
        family = Metric(each.name, each.documentation, "gauge")
        for subject, labels in subjects:
            for more_labels, value in each.samples(subject):
                family.add_sample(each.name, {**labels, **more_labels}, value)
        if family.samples:
            yield family


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


class GaugeCollector(Collector, Generic[Subject]):
    """Gauges of one subject, for a registry.

    Args:
        gauges: They are shown in this order.
        subject: Returns the subject as it is now.

    """

    def __init__(self, gauges: Iterable[Gauge[Subject]], subject: Callable[[], Subject]) -> None:
        self._gauges = gauges
        self._subject = subject

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        return families(self._gauges, [(self._subject(), {})])
