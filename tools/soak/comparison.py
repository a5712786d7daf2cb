"""Compare what batches did with what a Prometheus has stored. Pure: no I/O and no clock.

All times are Unix seconds. A life must be stored if a scrape can only have values that were read during it, and the
scrape lies wholly outside the faults of the API. An attempted scrape counts, whether it succeeded or not: a failed
scrape hides nothing. A scrape that reports that it ran out of time does not count, so only a few of them are allowed.
A life without such a scrape is counted by its excuse.
"""

import enum
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile


@dataclass(frozen=True, slots=True)
class Life:
    """A batch was in a status for a time. That of a finished batch ends when the API forgets the batch."""

    ref: str
    status: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Span:
    """A time, for instance one in which the API was made to fail."""

    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Scrape:
    """A scrape that was attempted.

    Overlapping scrapes share a poll, so a scrape may show values read at any time from `oldest` until it `ended`.
    `is_late` if it reported that the list, or a batch, could not be read by its deadline.
    """

    oldest: float
    began: float
    ended: float
    is_late: bool = False


@dataclass(frozen=True)
class Stored:
    """What one Prometheus has stored.

    Attributes:
        statuses: The beginnings of the scrapes that said that a batch has a status, by ref and status.
        counts: The last value of each count, by ref and name of the metric.
        scrapes: Those that it attempted, in ascending order.

    """

    statuses: Mapping[tuple[str, str], Sequence[float]]
    counts: Mapping[tuple[str, str], float]
    scrapes: Sequence[Scrape]


class Verdict(enum.Enum):
    """The outcome of a life."""

    STORED = "stored"
    SHORT = "not longer than the scrape interval"
    BETWEEN_SCRAPES = "between two scrapes"
    LATE = "seen only by scrapes that ran out of time"
    IN_A_FAULT = "seen only by scrapes during a fault"
    MISSING = "missing"


class Comparison:
    """Compares with one Prometheus. `faults` are the times in which the API was made to fail.

    Attributes:
        outside_of_faults: The scrapes that had no part of them.

    """

    def __init__(self, stored: Stored, faults: Sequence[Span], *, interval: float) -> None:
        self._stored = stored
        self._faults = faults
        self._interval = interval
        self._by_beginning = {scrape.began: scrape for scrape in stored.scrapes}
        self.outside_of_faults = [
            scrape for scrape in stored.scrapes if not _overlaps_any(scrape.began, scrape.ended, faults)
        ]
        self._in_time = [scrape for scrape in self.outside_of_faults if not scrape.is_late]

    def judge(self, life: Life) -> Verdict:
        """Return the outcome of a life."""
        if self._is_stored(life):
            return Verdict.STORED
        if life.until - life.since <= self._interval:
            return Verdict.SHORT
        if self.must_be_stored(life):
            return Verdict.MISSING
        if _holds_one(life, self.outside_of_faults):
            return Verdict.LATE
        return Verdict.IN_A_FAULT if _holds_one(life, self._stored.scrapes) else Verdict.BETWEEN_SCRAPES

    def must_be_stored(self, life: Life) -> bool:
        """Return whether a scrape in time lies wholly in a life, and outside of all faults."""
        return _holds_one(life, self._in_time)

    def count(self, lives: Iterable[Life]) -> Counter[Verdict]:
        """Count the outcomes of the lives that lasted longer than the scrape interval."""
        return Counter(self.judge(life) for life in lives if life.until - life.since > self._interval)

    def missing(self, lives: Iterable[Life]) -> list[Life]:
        """Return the lives that should be stored and are not."""
        return [life for life in lives if self.judge(life) is Verdict.MISSING]

    def wrong_counts(
        self, expected: Mapping[tuple[str, str], float | None]
    ) -> list[tuple[str, str, float | None, float | None]]:
        """Return ref, metric, expected and last stored value of each count that is not as expected; None: no sample."""
        stored = self._stored.counts
        return [(*key, value, stored.get(key)) for key, value in expected.items() if stored.get(key) != value]

    def unfounded(self, lives: Iterable[Life], finished: Iterable[str]) -> list[tuple[str, str, float]]:
        """Return the samples, outside of faults, that show a batch in a state it was not in at that time.

        Args:
            lives: All lives of these batches.
            finished: The statuses that the exporter remembers, and so may show after the API has forgotten the batch.

        """
        remembered = set(finished)
        spans: defaultdict[tuple[str, str], list[Span]] = defaultdict(list)
        for life in lives:
            until = float("inf") if life.status in remembered else life.until
            spans[life.ref, life.status].append(Span(life.since, until))
        refs = {ref for ref, _ in spans}
        return [
            (ref, status, moment)
            for (ref, status), moments in self._stored.statuses.items()
            if ref in refs
            for moment in moments
            if not self._may_show(moment, spans.get((ref, status), ()))
            and not _overlaps_any(moment, moment, self._faults)
        ]

    def _is_stored(self, life: Life) -> bool:
        span = Span(life.since, life.until)
        moments = self._stored.statuses.get((life.ref, life.status), ())
        return any(self._may_show(moment, [span]) for moment in moments)

    def _may_show(self, moment: float, spans: Sequence[Span]) -> bool:
        """Return whether the scrape of a sample may have read something in one of these times."""
        scrape = self._by_beginning.get(moment)
        return scrape is not None and _overlaps_any(scrape.oldest, scrape.ended, spans)


def _holds_one(life: Life, scrapes: Sequence[Scrape]) -> bool:
    """Return whether a life holds all that some scrape may have read."""
    first = bisect_left(scrapes, life.since, key=lambda scrape: scrape.began)
    within = takewhile(lambda scrape: scrape.ended <= life.until, scrapes[first:])
    return any(life.since <= scrape.oldest for scrape in within)


def _overlaps_any(began: float, ended: float, spans: Sequence[Span]) -> bool:
    return any(span.began <= ended and began <= span.ended for span in spans)
