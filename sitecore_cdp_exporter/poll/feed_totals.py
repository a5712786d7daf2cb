"""Counters by feed, which outlive the refs of its batches. Pure.

A batch counts once: when it has finished and this process saw it unfinished, or when it was last modified after the
process started, or shortly before. One that is uploaded anew under its ref counts again, if it was seen unfinished in
between. It counts for the feed that it belongs to at that moment, and by the rule of that moment; what has counted
never changes.

The totals are those of the process. What was seen is that of an organisation, which begins anew with another one.
Times are seconds since the Unix epoch.
"""

from collections.abc import Collection, Iterable
from copy import deepcopy
from dataclasses import dataclass, field

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.error_log import ErrorLog, RecordCause
from sitecore_cdp_exporter.config.model import FeedConfig
from sitecore_cdp_exporter.poll.acceptance import foresee_accepted
from sitecore_cdp_exporter.poll.walk import FINISHED, UNFINISHED

# A batch may finish while the exporter restarts, and the API's clock may be another one.
SECONDS_BEFORE_THE_START = 300.0
# The list and the batch's own answer round `modifiedAt` differently, by at most so many seconds.
ROUNDING = 1.0
# A batch that is listed no more may be listed again, and must not count twice. Of more than these, an older one counts
# no more even if it never did.
MAX_REMEMBERED = 10_000


@dataclass(slots=True)
class FeedTotals:
    """What has counted for a feed so far.

    Attributes:
        finished: Batches, for each status that a finished batch can have.
        accepted: How many of them counted as loaded.
        succeeded_records: The records of those whose details were read, as far as they were processed.
        failed_records: Those that were not.
        error_log_records: The rejected records of each cause, by the error logs that were read.

    """

    finished: dict[BatchStatus, int] = field(default_factory=lambda: dict.fromkeys(FINISHED, 0))
    accepted: int = 0
    succeeded_records: int = 0
    failed_records: int = 0
    error_log_records: dict[RecordCause, int] = field(default_factory=lambda: dict.fromkeys(RecordCause, 0))


class Totals:
    """What has counted for each feed since the process started. The feed None has the batches without one."""

    def __init__(self) -> None:
        self._by_feed: dict[str | None, FeedTotals] = {}
        # When the poll began that was the first to show a feed.
        self._first_shown: dict[str | None, float] = {}

    def begin(self, feeds: Iterable[str | None], started: float) -> None:
        """Show these feeds from the poll on that has started then, by the monotonic clock."""
        for feed in feeds:
            self._by_feed.setdefault(feed, FeedTotals())
            self._first_shown.setdefault(feed, started)

    def of(self, feed: str | None) -> FeedTotals:
        """Return the totals of a feed that has begun."""
        return self._by_feed[feed]

    def shown(self, started: float) -> dict[str | None, FeedTotals]:
        """Return what a poll that has started then may show of each feed.

        The first poll to show a feed shows zeros, whatever has counted since: a counter that begins at 1 has not
        increased in the eyes of Prometheus.
        """
        return {
            feed: deepcopy(totals) if self._first_shown[feed] < started else FeedTotals()
            for feed, totals in self._by_feed.items()
        }


@dataclass(slots=True)
class _Counted:
    """A batch that has counted, and what of it.

    Attributes:
        feed: The feed that it has counted for.
        modified: When it was last modified by then.
        accepted: Whether it was accepted; None: only its details can say, and they are still to be read.
        records: Whether its records have counted.
        log: Whether its error log has.

    """

    feed: str | None
    modified: float | None
    accepted: bool | None = None
    records: bool = False
    log: bool = False


class BatchCounter:
    """Counts the batches of one organisation, each once.

    Args:
        totals: Where they count.
        started: When the process started, or else turned to this organisation.

    """

    def __init__(self, totals: Totals, started: float) -> None:
        self.totals = totals
        self._since = started - SECONDS_BEFORE_THE_START
        # By ref in lower case; those that counted first come first.
        self._counted: dict[str, _Counted] = {}
        self._unfinished: set[str] = set()

    def look_at(self, key: str, feed: str | None, batch: Batch, log: ErrorLog | None, rule: FeedConfig | None) -> None:
        """Count what is new of a watched batch.

        Args:
            key: Its ref in lower case.
            feed: The feed that it is watched for, which has begun.
            batch: The batch as it is last known.
            log: Its error log, if that was read.
            rule: The feed in the config, if it is there.

        """
        if batch.status in UNFINISHED:
            self._unfinished.add(key)
        elif batch.status in FINISHED:
            counted = self._counted.get(key)
            if self._is_new(key, batch, counted):
                self._counted.pop(key, None)
                counted = self._counted[key] = _Counted(feed, _modified(batch))
                self.totals.of(feed).finished[batch.status] += 1
            self._unfinished.discard(key)
            if counted is not None:
                _count_details(counted, batch, log, self.totals.of(counted.feed), rule)

    def forget(self, watched: Collection[str]) -> None:
        """Forget batches that are watched no more, once there are too many; what is as old as they counts no more."""
        self._unfinished = {key for key in self._unfinished if key in watched}
        excess = len(self._counted) - len(watched) - MAX_REMEMBERED
        if excess > 0:
            for key in [key for key in self._counted if key not in watched][:excess]:
                self._since = max(self._since, self._counted.pop(key).modified or 0.0)

    def _is_new(self, key: str, batch: Batch, counted: _Counted | None) -> bool:
        """Return whether a finished batch has not counted yet, but is to."""
        modified = _modified(batch)
        if counted is None:
            return key in self._unfinished or (modified is not None and modified > self._since)
        # An answer that is older than the one before makes no new upload.
        is_later = modified is None or counted.modified is None or modified > counted.modified + ROUNDING
        return key in self._unfinished and is_later


def _modified(batch: Batch) -> float | None:
    return batch.created if batch.modified is None else batch.modified


def _count_details(
    counted: _Counted, batch: Batch, log: ErrorLog | None, totals: FeedTotals, rule: FeedConfig | None
) -> None:
    """Count what has become known of a batch that has counted itself."""
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
