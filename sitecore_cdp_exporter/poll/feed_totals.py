"""Counters by feed, which outlive the refs of its batches. Pure.

A finished batch counts once, if this process saw it unfinished, or if it was last modified after the process started or
shortly before. If it is uploaded again under the same ref, it counts again if it was seen unfinished in between. It
counts for its feed at that time, by the rule at that time; counts never change afterwards.

What has counted outlives its organisation: the config may come back to it. With another one, the batches count as if
the process had just started. Times are seconds since the Unix epoch.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.error_log import ErrorLog, RecordCause
from sitecore_cdp_exporter.config.model import FeedConfig
from sitecore_cdp_exporter.poll.acceptance import foresee_accepted
from sitecore_cdp_exporter.poll.walk import FINISHED, UNFINISHED

# A batch may finish while the exporter restarts, and the clocks may differ.
SECONDS_BEFORE_THE_START = 300.0
# The list and the batch's own answer round `modifiedAt` differently, by at most this many seconds.
ROUNDING = 1.0
# A batch that has left the list may be listed again, and must not count twice. Beyond this many, older batches no
# longer count, even if they never did.
MAX_REMEMBERED = 10_000


@dataclass(slots=True)
class FeedTotals:
    """The counts of a feed so far.

    Attributes:
        finished: Batches per final status.
        accepted: The number of batches that counted as loaded.
        succeeded_records: Processed records, of batches whose details were read.
        failed_records: Failed records of these batches.
        error_log_records: Rejected records per cause, by the error logs that were read.

    """

    finished: dict[BatchStatus, int] = field(default_factory=lambda: dict.fromkeys(FINISHED, 0))
    accepted: int = 0
    succeeded_records: int = 0
    failed_records: int = 0
    error_log_records: dict[RecordCause, int] = field(default_factory=lambda: dict.fromkeys(RecordCause, 0))

    def copy(self) -> "FeedTotals":
        """Return what it counts now."""
        return replace(self, finished={**self.finished}, error_log_records={**self.error_log_records})


class Totals:
    """The counts of each feed since it was first named. The feed None has the batches without one."""

    def __init__(self) -> None:
        self._by_feed: dict[str | None, FeedTotals] = {}
        # When the first poll that shows a feed started, and the last one that found it named. By the monotonic clock.
        self._first_shown: dict[str | None, float] = {}
        self._last_named: dict[str | None, float] = {}

    def begin(self, feeds: Iterable[str | None], started: float) -> None:
        """Show these feeds, starting with the poll that started at this time of the monotonic clock."""
        for feed in feeds:
            self._by_feed.setdefault(feed, FeedTotals())
            self._first_shown.setdefault(feed, started)
            self._last_named[feed] = started

    def forget_unnamed(self, since: float) -> None:
        """Forget the feeds that nothing has named since this time. Some name their feeds by date."""
        for feed in [feed for feed, named in self._last_named.items() if named < since]:
            del self._by_feed[feed], self._first_shown[feed], self._last_named[feed]

    def of(self, feed: str | None) -> FeedTotals:
        """Return the totals of a feed. What is added to those of a forgotten feed is lost."""
        return self._by_feed.get(feed) or FeedTotals()

    def shown(self, started: float) -> dict[str | None, FeedTotals]:
        """Return the counts of each feed to show for a poll that started at this time.

        The first poll of a feed shows zeros, even if batches have counted already: to Prometheus, a counter that starts
        at 1 has not increased.
        """
        return {
            feed: totals.copy() if self._first_shown[feed] < started else FeedTotals()
            for feed, totals in self._by_feed.items()
        }


@dataclass(slots=True)
class _Counted:
    """A batch that has been counted, and which parts of it.

    Attributes:
        feed: The feed that it counted for.
        modified: Its last modification at that time.
        accepted: Whether it was accepted. None: that depends on its details, which are still unread.
        records: Whether its records have been counted.
        log: Whether its error log has been counted.

    """

    feed: str | None
    modified: float | None
    accepted: bool | None = None
    records: bool = False
    log: bool = False


class BatchCounter:
    """Counts batches, each once.

    Args:
        totals: The totals to add to.
        started: When the process started.

    """

    def __init__(self, totals: Totals, started: float) -> None:
        self.totals = totals
        self._since = started - SECONDS_BEFORE_THE_START
        # By ref in lower case, in the order in which they were counted.
        self._counted: dict[str, _Counted] = {}
        self._unfinished: set[str] = set()

    def begin_another_organisation(self, now: float) -> None:
        """Count what finishes from now on, or has finished shortly before."""
        self._since = max(self._since, now - SECONDS_BEFORE_THE_START)
        self._unfinished.clear()

    def look_at(self, key: str, feed: str | None, batch: Batch, log: ErrorLog | None, rule: FeedConfig | None) -> None:
        """Count what is new about a watched batch.

        Args:
            key: Its ref in lower case.
            feed: Its feed, which has begun.
            batch: The batch as last known.
            log: Its error log, if that was read.
            rule: The feed's config, if there is one.

        """
        if batch.status.finished:
            counted = self._counted.get(key)
            if self._is_new(key, batch, counted):
                self._counted.pop(key, None)
                counted = self._counted[key] = _Counted(feed, _modified(batch))
                self.totals.of(feed).finished[batch.status] += 1
            self._unfinished.discard(key)
            if counted is not None:
                _count_details(counted, batch, log, self.totals.of(counted.feed), rule)
        elif batch.status in UNFINISHED:
            self._unfinished.add(key)

    def awaits_records(self, key: str, batch: Batch) -> bool:
        """Return whether a finished batch counts, but its records do not yet, because its details are unread."""
        if batch.details_read or batch.status not in FINISHED:
            return False
        counted = self._counted.get(key)
        return self._is_new(key, batch, counted) or (counted is not None and not counted.records)

    def forget(self, watched: Collection[str]) -> None:
        """Forget unwatched batches once there are too many. Batches as old as these no longer count."""
        self._unfinished = {key for key in self._unfinished if key in watched}
        excess = len(self._counted) - len(watched) - MAX_REMEMBERED
        if excess > 0:
            for key in [key for key in self._counted if key not in watched][:excess]:
                self._since = max(self._since, self._counted.pop(key).modified or 0.0)

    def _is_new(self, key: str, batch: Batch, counted: _Counted | None) -> bool:
        """Return whether a finished batch must still be counted."""
        modified = _modified(batch)
        if counted is None:
            return key in self._unfinished or (modified is not None and modified > self._since)
        # An answer older than the previous one does not indicate a new upload.
        is_later = modified is None or counted.modified is None or modified > counted.modified + ROUNDING
        return key in self._unfinished and is_later


def _modified(batch: Batch) -> float | None:
    return batch.created if batch.modified is None else batch.modified


def _count_details(
    counted: _Counted, batch: Batch, log: ErrorLog | None, totals: FeedTotals, rule: FeedConfig | None
) -> None:
    """Count what has become known about a counted batch."""
    if counted.accepted is None:
        counted.accepted = foresee_accepted(batch, rule)
        totals.accepted += bool(counted.accepted)
    if not batch.details_read:
        return
    if not counted.records:
        counted.records = True
        totals.succeeded_records += batch.succeeded_records or 0
        totals.failed_records += batch.failed_records or 0
    if log is not None and not counted.log:
        counted.log = True
        for cause, count in log.records.items():
            totals.error_log_records[cause] += count
