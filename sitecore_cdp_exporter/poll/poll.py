"""One poll: what it asks for and in which order, what was answered, and what may be told of it. No I/O.

It does not lock: the poller calls it under its own lock.
"""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias

from sitecore_cdp_exporter.api.batch import Batch, BatchPage, BatchStatus
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import NOT_ASKED_REASONS, PollError, Reason
from sitecore_cdp_exporter.config.model import Config, FeedConfig
from sitecore_cdp_exporter.poll.acceptance import NewestAccepted, is_accepted
from sitecore_cdp_exporter.poll.discovery import Discovery
from sitecore_cdp_exporter.poll.organisation import Organisation
from sitecore_cdp_exporter.poll.records import Record
from sitecore_cdp_exporter.poll.retention import Kept
from sitecore_cdp_exporter.poll.snapshot import BatchState, DiscoveryState, FeedState, Reading, Snapshot
from sitecore_cdp_exporter.poll.walk import PageRequest
from sitecore_cdp_exporter.watch.watchlist import Watched

Outcome: TypeAlias = Reading | PollError

# A scrape joins a poll that has begun no longer ago, in seconds: what it tells is no older than that.
LONGEST_JOIN = 5.0


class BatchReader(Protocol):
    """What the poller needs of `api.BatchApi`."""

    def read_credentials(self) -> Credentials:
        """Return the credentials or raise PollError."""

    def read_batch(self, ref: str, credentials: Credentials) -> Batch:
        """Return the batch or raise PollError."""

    def read_page(
        self, statuses: tuple[BatchStatus, ...], offset: int, limit: int, credentials: Credentials
    ) -> BatchPage:
        """Return a page of the list of batches or raise PollError."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class Poll:
    """A poll under way, with the config that it began with. Moments are of the monotonic clock, in seconds.

    `queue` is still to be asked: refs in lower case, and pages of the list. `pending` are the refs still to be
    answered; while `discovering`, more may come. `seen_unfinished` is what the list of this very poll has shown.
    """

    api: BatchReader
    config: Config
    organisation: Organisation
    discovery: Discovery
    started: float
    deadline: float
    list_deadline: float
    is_probe: bool = False
    seen_unfinished: Mapping[str, Reading] = field(default_factory=dict)
    list_failure: Reason | None = Reason.DEADLINE
    totals: Mapping[BatchStatus, int] | None = None
    # What was known of the list when `kept` was decided.
    revision: int = 0
    kept: Kept = field(default_factory=Kept)
    records: Mapping[str, Record] = field(default_factory=dict)
    discovering: bool = False
    queue: deque[str | PageRequest] = field(default_factory=deque)
    pending: set[str] = field(default_factory=set)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    # Its threads, and how many of them wait for an answer.
    threads: int = 0
    sending: int = 0
    skipped: bool = False
    # Whether a scrape has ended before the poll that it joined.
    left_early: bool = False
    # How many changes of batches it has logged.
    told: int = 0
    answers: list[PollError | None] = field(default_factory=list)
    ended: float | None = None
    finished: threading.Event = field(default_factory=threading.Event)

    # What it asks for, and by when.

    def show(self, kept: Kept) -> None:
        """Poll and show these batches."""
        self.kept = kept
        self.records = self.organisation.records_of(kept)

    def begin_discovery(self) -> None:
        """Ask for the list of batches first."""
        self.discovering = True
        self.revision = self.discovery.revision
        self.queue.extend(self.discovery.begin(self.started))
        self.seen_unfinished = self.discovery.seen_unfinished

    def end_discovery(self, failure: Reason | None) -> None:
        """Ask for no more of the list, which has been read or has failed."""
        self.discovering = False
        self.list_failure = failure
        self.totals = self.discovery.totals if failure is None else None
        self.queue.clear()

    def begin_probe(self, ref: str) -> None:
        """Show one batch, listed or not, and ask for it if that is due."""
        key = ref.lower()
        self.is_probe = True
        self.kept = Kept({key: self.organisation.watched.get(key) or Watched(ref)})
        self.records = {key: self.organisation.probed_record(key)}
        if self.records[key].is_due(self.listed(key), self.started):
            self.ask(key)
        self.finish_if_done(self.started)

    def plan(self, now: float, *, is_silent: bool) -> None:
        """Decide which batches to ask for: unfinished, then never read, then re-checks, longest ago first.

        Args:
            now: This moment.
            is_silent: Whether the API was not asked for so long that one batch is to be asked in any case.

        """
        due = [key for key, record in self.records.items() if self._is_due(key, record, now)]
        if not due and self.records and is_silent:
            due = [min(self.records, key=lambda key: self.records[key].asked)]
        for key in sorted(due, key=lambda key: _order(self._last_known(key), self.records[key])):
            self.ask(key)
        self.finish_if_done(now)

    def ask(self, key: str) -> None:
        """Ask for a batch after all others."""
        self.queue.append(key)
        self.pending.add(key)

    def note(self, key: str, outcome: Outcome, now: float) -> None:
        """Take the outcome of a batch."""
        self.outcomes[key] = outcome
        self.pending.discard(key)
        self.finish_if_done(now)

    def finish_if_done(self, now: float) -> None:
        """End when nothing is left to be answered."""
        if not self.discovering and not self.pending and self.ended is None:
            self.ended = now
            self.finished.set()

    def over(self, now: float) -> bool:
        """Tell whether it has ended, or its time has."""
        return self.finished.is_set() or now >= self.deadline

    def may_be_joined(self, now: float) -> bool:
        """Whether its answers are new enough for a scrape that begins now. Scrapers could else keep it for ever."""
        return not self.over(now) and now < (self.list_deadline if self.discovering else self.started + LONGEST_JOIN)

    def listed(self, key: str) -> Batch | None:
        """Return what the list last said of a batch."""
        reading = self.discovery.known.get(key)
        return None if reading is None else reading.batch

    def spelling(self, key: str) -> str:
        """Return the ref as the API writes it, or else as it is listed here."""
        listed = self.listed(key)
        return self.kept.watched[key].ref if listed is None else listed.ref

    def _is_due(self, key: str, record: Record, now: float) -> bool:
        if key in self.seen_unfinished:
            # If it said otherwise itself, it has the last word.
            return record.finished
        return record.is_due(self.listed(key), now)

    def _last_known(self, key: str) -> Batch | None:
        return self.records[key].last_known(self.listed(key))

    # What may be told.

    def snapshot(self, now: float) -> Snapshot:
        """Return what may be told now."""
        feeds = self.config.feeds_by_name
        newest = self.organisation.newest_accepted(self.config)
        replaced = self.organisation.replaced(self.config)
        states = [self._state(key, watched, feeds, now) for key, watched in self.kept.watched.items()]
        listed = [self.listed(key) for key in self.kept.watched]
        return Snapshot(
            batches=tuple(_with_superseded(state, feeds, newest, replaced) for state in states),
            api_up=self.organisation.health.up,
            api_last_success=self.organisation.api_last_success,
            poll_duration=(now if self.ended is None else self.ended) - self.started,
            retired=self.kept.retired,
            unread=sum(
                batch is not None and batch.status.finished and not self.records[key].is_read(batch)
                for key, batch in zip(self.kept.watched, listed, strict=True)
            ),
            discovery=DiscoveryState(
                failure=self.list_failure,
                totals=self.totals,
                dropped=self.kept.dropped,
                unreadable=self.discovery.unreadable,
            )
            if self.config.discovery.enabled
            else None,
            feeds=tuple(FeedState(feed=feed, last_accepted=newest[feed.name].modified) for feed in self.config.feeds),
        )

    def _state(self, key: str, watched: Watched, feeds: Mapping[str, FeedConfig], now: float) -> BatchState:
        reading, failure = self._reading(key, now)
        accepted = None if reading is None else is_accepted(reading.batch, feeds.get(watched.feed or ""))
        return BatchState(watched=watched, reading=reading, failure=failure, accepted=accepted)

    def _reading(self, key: str, now: float) -> tuple[Reading | None, Reason | None]:
        """Return what holds of a batch, and why its poll failed."""
        record, listed, outcome = self.records[key], self.discovery.known.get(key), self.outcomes.get(key)
        if listed is not None and listed.batch.status.finished and not record.is_read(listed.batch):
            # The list is newer than what the batch answered itself. That its details were not asked for yet is no
            # failure of its poll.
            failure = record.failure
            return listed, None if failure is None or failure.reason in NOT_ASKED_REASONS else failure.reason
        if record.finished:
            return record.reading, None
        if outcome is None and key not in self.seen_unfinished:
            outcome = record.late_answer(now)
        if isinstance(outcome, Reading):
            return outcome, None
        if key in self.seen_unfinished:
            return self.seen_unfinished[key], None
        return None, Reason.DEADLINE if outcome is None else outcome.reason


def _with_superseded(
    state: BatchState,
    feeds: Mapping[str, FeedConfig],
    newest: Mapping[str, NewestAccepted],
    replaced: Mapping[str, bool],
) -> BatchState:
    if state.reading is None or state.accepted is not False:
        return state
    superseded = replaced.get(state.watched.ref.lower())
    feed = feeds.get(state.watched.feed or "")
    if feed is not None and feed.next_success_resolves:
        superseded = bool(superseded) or newest[feed.name].supersedes(state.reading.batch)
    return replace(state, superseded=superseded)


def _order(batch: Batch | None, record: Record) -> tuple[bool, bool, float, float]:
    """Sort what is due; of the batches that were never asked, the newest leads."""
    unfinished = batch is not None and not batch.status.finished
    newest_first = 0.0 if batch is None or batch.created is None else -batch.created
    return not unfinished, record.finished, record.asked, newest_first
