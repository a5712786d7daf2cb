"""The data of one scrape, and how it is derived from a poll and the memory. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.error_log import ErrorLog, LogFailure
from sitecore_cdp_exporter.api.errors import NOT_ASKED_REASONS, Reason
from sitecore_cdp_exporter.config.model import FeedConfig
from sitecore_cdp_exporter.poll.acceptance import NewestAccepted, foresee_accepted, is_accepted
from sitecore_cdp_exporter.poll.cause import FailureCause, failure_cause
from sitecore_cdp_exporter.poll.due import Due, expectation, next_due
from sitecore_cdp_exporter.poll.error_logs import MAX_SECONDS_AWAITED, LogState
from sitecore_cdp_exporter.poll.feed_totals import FeedTotals
from sitecore_cdp_exporter.poll.open_failure import OpenFailure, open_failure, tolerated_ratio
from sitecore_cdp_exporter.poll.poll import Poll
from sitecore_cdp_exporter.poll.reading import Reading
from sitecore_cdp_exporter.poll.superseding import is_superseded
from sitecore_cdp_exporter.poll.walk import FINISHED, UNFINISHED
from sitecore_cdp_exporter.watch.watchlist import Watched


# Frozen, it would take 2.5 times as long to create, which each scrape does for each batch.
@dataclass(slots=True, kw_only=True)
class BatchState:
    """The state of a watched batch. It does not change.

    Attributes:
        watched: The batch as it is watched.
        reading: Its last reading, if that still holds.
        failure: Why the last poll failed; None: it did not.
        accepted: Whether the finished batch counts as loaded; None: not known yet.
        superseded: Whether an accepted batch supersedes it: one that replaces it, or a later one of its feed; None: it
            has not failed, or nothing can supersede it.
        open_failure: How it failed; None: it has not, that is not known, or it is resolved or old.
        tolerated_ratio: The share of its records that failed although it counts as loaded; None: none did, or long ago.
        cause: Why it failed, or its upload did; None: it has not, or that is not known.
        error_log: What its error log says; None: it was not read.
        error_log_failure: Why its error log could not be read; None: it could, or is to be read soon.
        error_log_awaited: Whether it has just failed, and its error log is to be read soon.

    """

    watched: Watched
    reading: Reading | None = None
    failure: Reason | None = None
    accepted: bool | None = None
    superseded: bool | None = None
    open_failure: OpenFailure | None = None
    tolerated_ratio: float | None = None
    cause: FailureCause | None = None
    error_log: ErrorLog | None = None
    error_log_failure: LogFailure | None = None
    error_log_awaited: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryState:
    """The result of reading the API's list of batches.

    Attributes:
        failure: Why the list could not be read in this poll; None: it was.
        totals: How many batches of the past 30 days have each status; None: not known.
        dropped: How many batches are not watched because of `discovery.max_batches`.
        unreadable: How many items of the list were not readable, wholly or in part.

    """

    failure: Reason | None
    totals: Mapping[BatchStatus, int] | None
    dropped: int
    unreadable: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedState:
    """A feed of the config.

    Attributes:
        feed: Its config.
        last_accepted: When its newest accepted batch was modified, in seconds since the Unix epoch; 0: none was seen.
        due: When its next batch is due; None: nothing is expected, or not everything watched was answered for yet.

    """

    feed: FeedConfig
    last_accepted: float
    due: Due | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedHistory:
    """What has become of the batches of a feed, which is in the config or only named by batches.

    Attributes:
        name: None: these are the batches without a feed.
        labels: Those that the config sets for the feed.
        totals: What has counted since the process started, or since the feed was forgotten.
        last_finished: The finished batch that was allocated last; None: none is known.
        last_accepted: Whether that counts as loaded; None: that is not known yet, or there is none.
        listed: How many batches of the past 30 days have each status; None: not known.

    """

    name: str | None
    labels: Mapping[str, str] = field(default_factory=dict)
    totals: FeedTotals = field(default_factory=FeedTotals)
    last_finished: Batch | None = None
    last_accepted: bool | None = None
    listed: Mapping[BatchStatus, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The data of one scrape.

    Attributes:
        batches: One state for each watched batch, in the order of the watch list.
        api_up: None before the first request.
        api_failure: Why the API is down; None: it is not, or that is not known.
        api_last_success: When the API last answered successfully, in seconds since the Unix epoch; None: never.
        poll_duration: Seconds.
        retired: How many batches are known, but past their retention.
        unread: How many finished batches are watched whose details are still to be read.
        discovery: None while discovery is off.
        feeds: One state for each feed of the config.
        complete_poll: When everything watched had last been answered for, in seconds since the Unix epoch; None: that
            was never so.
        histories: One for each feed of the config, and for each other that a batch names, or named not long ago.

    """

    batches: tuple[BatchState, ...]
    api_up: bool | None
    api_last_success: float | None
    poll_duration: float
    api_failure: Reason | None = None
    retired: int = 0
    unread: int = 0
    discovery: DiscoveryState | None = None
    feeds: tuple[FeedState, ...] = field(default=())
    complete_poll: float | None = None
    histories: tuple[FeedHistory, ...] = field(default=())


def take_snapshot(poll: Poll, now: float, wall_now: float) -> Snapshot:
    """Return the data of a poll as of now, by the monotonic clock and in seconds since the Unix epoch."""
    memory = poll.memory
    feeds = poll.config.feeds_by_name
    last_known = memory.last_known()
    newest = memory.newest_accepted(poll.config, last_known)
    replaced = memory.replaced(poll.config)
    skipped = memory.error_logs.skipped(now)
    tells_uploaded = poll.config.api.endpoint == "inspect"
    states = []
    unread = 0
    for key, watched in poll.kept.watched.items():
        is_unread = poll.is_unread(key)
        unread += is_unread
        reading, failure = _reading(poll, key, now, is_unread=is_unread)
        feed = feeds.get(watched.feed or "")
        record = poll.records[key]
        log = record.log
        accepted = superseded = still_open = tolerated = cause = finished = None
        if reading is not None:
            accepted = is_accepted(reading.batch, feed)
            if not accepted and (accepted is False or reading.batch.status is BatchStatus.CORRUPTED):
                superseded = is_superseded(
                    reading.batch, feed, newest.get(watched.feed or ""), replaced=replaced.get(key)
                )
            # A probe may be of a batch that is not watched.
            dated = last_known[key] if key in last_known else record.dated(None)
            finished = None if dated is None else dated.modified
            still_open = open_failure(
                reading.batch, feed, accepted=accepted, superseded=superseded, finished=finished, now=wall_now
            )
            tolerated = tolerated_ratio(reading.batch, accepted=accepted, finished=finished, now=wall_now)
            cause = failure_cause(reading, tells_uploaded=tells_uploaded)
        state = BatchState(
            watched=watched,
            reading=reading,
            failure=failure,
            accepted=accepted,
            superseded=superseded,
            open_failure=still_open,
            tolerated_ratio=tolerated,
            cause=cause,
            error_log=None if log is None else log.log,
            error_log_failure=Reason.SKIPPED if key in skipped else None if log is None else log.failure,
            error_log_awaited=poll.config.error_logs.enabled
            and key not in skipped
            and _is_awaited(log, finished, wall_now),
        )
        states.append(state)
    return Snapshot(
        batches=tuple(states),
        api_up=memory.health.up,
        api_failure=memory.health.failure,
        api_last_success=memory.api_last_success,
        poll_duration=(now if poll.ended is None else poll.ended) - poll.started,
        retired=poll.kept.retired,
        unread=unread,
        discovery=DiscoveryState(
            failure=poll.list_failure,
            totals=poll.totals,
            dropped=poll.kept.dropped,
            unreadable=poll.discovery.unreadable,
        )
        if poll.config.discovery.enabled
        else None,
        feeds=tuple(_feed_state(poll, feed, newest[feed.name]) for feed in poll.config.feeds),
        complete_poll=memory.complete_poll,
        histories=_histories(poll, last_known),
    )


def _is_awaited(log: LogState | None, finished: float | None, now: float) -> bool:
    """Return whether an error log is worth waiting for. That of a success is read last, and explains no failure."""
    is_of_a_failure = log is not None and log.rank[0] and log.untried
    return is_of_a_failure and finished is not None and now - finished < MAX_SECONDS_AWAITED


def _feed_state(poll: Poll, feed: FeedConfig, newest: NewestAccepted) -> FeedState:
    """Return what may be said of a feed. What is not known to be missing is not due."""
    since = poll.memory.expected_since.get(expectation(feed))
    if since is None or poll.memory.complete_poll is None:
        return FeedState(feed=feed, last_accepted=newest.modified)
    return FeedState(feed=feed, last_accepted=newest.modified, due=next_due(feed, newest, since))


def _histories(poll: Poll, last_known: Mapping[str, Batch | None]) -> tuple[FeedHistory, ...]:
    """Return the history of each feed; a probe shows none."""
    if poll.is_probe:
        return ()
    feeds, last_finished = poll.config.feeds_by_name, poll.memory.last_finished(last_known)
    histories = []
    for name, totals in poll.memory.counter.totals.shown(poll.started).items():
        feed, last = feeds.get(name or ""), last_finished.get(name or "")
        listed = poll.totals_by_feed
        history = FeedHistory(
            name=name,
            labels={} if feed is None else feed.labels,
            totals=totals,
            last_finished=last,
            last_accepted=None if last is None else foresee_accepted(last, feed),
            listed=None
            if listed is None
            else {status: listed.get((name, status), 0) for status in UNFINISHED + FINISHED},
        )
        histories.append(history)
    return tuple(histories)


def _reading(poll: Poll, key: str, now: float, *, is_unread: bool) -> tuple[Reading | None, Reason | None]:
    """Return what holds of a batch, and why its poll failed."""
    record = poll.records[key]
    if is_unread:
        # The list is newer than what the batch answered itself. That its details were not asked for yet is no failure
        # of its poll.
        listed, failure = poll.discovery.known[key], record.failure
        return listed, None if failure is None or failure.reason in NOT_ASKED_REASONS else failure.reason
    if record.finished:
        return record.reading, None
    outcome = poll.outcomes.get(key)
    if outcome is None and key not in poll.seen_unfinished:
        outcome = record.late_answer(now)
    if isinstance(outcome, Reading):
        return outcome, None
    if key in poll.seen_unfinished:
        return poll.seen_unfinished[key], None
    return None, Reason.DEADLINE if outcome is None else outcome.reason
