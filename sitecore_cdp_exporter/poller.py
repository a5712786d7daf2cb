"""One poll of the watch list: what is asked, in which order, by when, and what of it may be told.

With discovery a poll reads the API's list of batches first. Then it asks for every batch that is not finished and not
in that list, and for the finished ones whose details are to be read. A list that takes more than half of the poll's
time has failed for this poll, so that there is time to ask for the batches themselves. The requests are sent by up to
`api.concurrency` threads that live as long as they have something to ask. Scrapes that overlap share one poll. A
request is never cut by the end of a poll: a later poll that needs the same batch waits for it, and sends no other.
"""

import logging
import threading
import time
import traceback
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, TypeVar

from sitecore_cdp_exporter.api import (
    Credentials,
    DeadlineError,
    ForbiddenError,
    InternalError,
    NotAskedError,
    PollError,
    Reason,
    SkippedError,
    StatusError,
)
from sitecore_cdp_exporter.api_health import ApiHealth
from sitecore_cdp_exporter.batch import Batch, BatchPage, BatchStatus
from sitecore_cdp_exporter.circuit_breaker import CircuitBreaker, Permission
from sitecore_cdp_exporter.config import Config, FeedConfig
from sitecore_cdp_exporter.discovery import BrokenListError, Discovery, PageRequest
from sitecore_cdp_exporter.feeds import AcceptedBatches, foresee_accepted, is_accepted
from sitecore_cdp_exporter.records import Record, log_change, log_status
from sitecore_cdp_exporter.retention import Kept, keep
from sitecore_cdp_exporter.snapshot import BatchState, DiscoveryState, Reading, Snapshot
from sitecore_cdp_exporter.watchlist import BatchLists, Watched, overruled, watch

Outcome: TypeAlias = Reading | PollError
Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)

# So much silence is too much: one finished batch is asked again, so that a dead token shows before it matters.
LONGEST_SILENCE = 300
# One 403 is a batch of somebody else's; three in a row before anything else is the API refusing us.
ANSWERS_THAT_SHOW_A_REFUSAL = 3
REMEMBERED_PROBES = 1000
# A scrape joins a poll that has begun no longer ago, in seconds: what it tells is no older than that.
LONGEST_JOIN = 5.0
# A poll of an API that fails logs so many batches; the metrics name them all.
MOST_TOLD = 10
# How much of a poll's time the list of batches may take.
SHARE_OF_THE_LIST = 0.5


class BatchReader(Protocol):
    """What the poller needs of `api.BatchApi`."""

    def read_credentials(self) -> Credentials:
        """Return the credentials or raise CredentialsError."""

    def read_batch(self, ref: str, credentials: Credentials) -> Batch:
        """Return the batch or raise PollError."""

    def read_page(
        self, statuses: tuple[BatchStatus, ...], offset: int, limit: int, credentials: Credentials
    ) -> BatchPage:
        """Return a page of the list of batches or raise PollError."""


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Poll:
    """A poll under way, with the config that it began with.

    `queue` is still to be asked: refs in lower case, and pages of the list. `pending` are the refs still to be
    answered; while `discovering`, more may come. `seen_unfinished` is what the list of this very poll has shown.
    """

    api: BatchReader
    config: Config
    breaker: CircuitBreaker
    discovery: Discovery
    started: float
    deadline: float
    list_deadline: float
    is_probe: bool = False
    seen_unfinished: Mapping[str, Reading] = field(default_factory=dict)
    list_failure: Reason | None = DeadlineError.reason
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
    # How many changes of batches it has logged.
    told: int = 0
    answers: list[StatusError | None] = field(default_factory=list)
    ended: float | None = None
    finished: threading.Event = field(default_factory=threading.Event)

    def ask(self, key: str) -> None:
        self.queue.append(key)
        self.pending.add(key)

    def note(self, key: str, outcome: Outcome, now: float) -> None:
        self.outcomes[key] = outcome
        self.pending.discard(key)
        self.finish_if_done(now)

    def finish_if_done(self, now: float) -> None:
        if not self.discovering and not self.pending and self.ended is None:
            self.ended = now
            self.finished.set()

    def over(self, now: float) -> bool:
        return self.finished.is_set() or now >= self.deadline

    def may_be_joined(self, now: float) -> bool:
        """Whether its answers are new enough for a scrape that begins now. Scrapers could else keep it for ever."""
        return not self.over(now) and now < (self.list_deadline if self.discovering else self.started + LONGEST_JOIN)

    def listed(self, key: str) -> Batch | None:
        """Return what the list last said of a batch."""
        reading = self.discovery.known.get(key)
        return None if reading is None else reading.batch

    def last_known(self, key: str) -> Batch | None:
        """Return the batch as its own answer tells it, or as the list does where that is newer."""
        return _last_known(self.listed(key), self.records[key])

    def spelling(self, key: str) -> str:
        """Return the ref as the API writes it, or else as it is listed here."""
        listed = self.listed(key)
        return self.kept.watched[key].ref if listed is None else listed.ref


class Poller:
    """Polls the watched batches.

    Args:
        api: The client of the Batch API.
        config: What is watched, and how.
        batch_files: The batches that files list.
        clock: A monotonic clock, in seconds.
        wall_clock: Seconds since the Unix epoch.

    """

    def __init__(
        self,
        api: BatchReader,
        config: Config,
        batch_files: BatchLists,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        # Guards everything below; it is notified when a request has ended.
        self._changed = threading.Condition()
        self._api = api
        self._config = config
        self._batch_files = batch_files
        self._breaker = CircuitBreaker()
        self._discovery = Discovery()
        self._organisation = _organisation(config)
        self._list_failure: Reason | None = None
        self._overruled: set[str] = set()
        self._accepted = AcceptedBatches()
        self._watched: Mapping[str, Watched] = {}
        self._records: dict[str, Record] = {}
        self._probed: OrderedDict[str, Record] = OrderedDict()
        self._requests_under_way = 0
        # Which batches and pages are being asked for, by base URL.
        self._in_flight: set[tuple[str, str | PageRequest]] = set()
        self._polls: weakref.WeakSet[_Poll] = weakref.WeakSet()
        self._current: _Poll | None = None
        self._latest: Snapshot | None = None
        self._last_request = clock()
        self._health = ApiHealth()
        self._api_last_success: float | None = None
        self._stopped = False
        self._watch(config)

    def poll(self, deadline: float) -> Snapshot:
        """Poll the watch list, or join the poll that is under way; return by `deadline` what is there.

        Args:
            deadline: A moment of the monotonic clock.

        """
        self._batch_files.refresh()
        with self._changed:
            now = self._clock()
            if self._current is None or not self._current.may_be_joined(now):
                self._current = self._begin_poll(now, deadline)
            poll = self._current
            poll.deadline = max(poll.deadline, deadline)
        if poll.discovering and poll.list_deadline < deadline:
            poll.finished.wait(max(poll.list_deadline - now, 0))
            self._end_slow_discovery(poll)
        poll.finished.wait(max(deadline - self._clock(), 0))
        with self._changed:
            now = self._clock()
            self._judge_api(poll, now)
            snapshot = self._snapshot(poll, now)
            if self._latest is None or poll.over(now):
                self._latest = snapshot
            return snapshot

    def probe(self, ref: str, deadline: float) -> Snapshot:
        """Poll one batch, listed or not, by `deadline`; a listed one keeps its feed and labels.

        Args:
            ref: The ref of the batch.
            deadline: A moment of the monotonic clock.

        """
        with self._changed:
            now = self._clock()
            poll = self._begin_probe(ref, now, deadline)
        poll.finished.wait(max(deadline - now, 0))
        with self._changed:
            return self._snapshot(poll, self._clock())

    @property
    def latest(self) -> Snapshot | None:
        """What the last poll that is over has found; None before the first."""
        return self._latest

    @property
    def watched(self) -> Mapping[str, Watched]:
        """What is listed, by ref in lower case, past its retention or not."""
        return self._watched

    def reconfigure(self, api: BatchReader, config: Config) -> None:
        """Use another config from the next poll on. What was read is remembered; a poll under way ends as it began."""
        with self._changed:
            self._api, self._config = api, config
            if self._current is None or self._current.over(self._clock()):
                self._watch(config)

    def _forget(self) -> None:
        """Begin with a clean sheet: what was read is of another organisation."""
        self._breaker = CircuitBreaker()
        self._discovery = Discovery()
        self._accepted = AcceptedBatches()
        self._health = ApiHealth()
        self._records = {}
        self._probed.clear()
        self._latest = None
        self._api_last_success = None

    def stop(self) -> None:
        """End every poll now: those who wait return with what is there. Requests under way end by themselves."""
        with self._changed:
            self._stopped = True
            for poll in self._polls:
                poll.finished.set()
            self._changed.notify_all()

    # How a poll begins.

    def _begin_poll(self, now: float, deadline: float) -> _Poll:
        kept = self._watch(self._config)
        poll = self._new_poll(now, deadline)
        self._show(poll, kept)
        if poll.config.discovery.enabled:
            poll.discovering = True
            poll.revision = self._discovery.revision
            poll.queue.extend(self._discovery.begin(now))
            poll.seen_unfinished = self._discovery.seen_unfinished
        else:
            self._plan(poll, now)
        self._start_threads(poll, now)
        return poll

    def _begin_probe(self, ref: str, now: float, deadline: float) -> _Poll:
        key = ref.lower()
        poll = self._new_poll(now, deadline)
        poll.is_probe = True
        poll.kept = Kept({key: self._watched.get(key) or Watched(ref)})
        poll.records = {key: self._records.get(key) or self._probed_record(key)}
        if poll.records[key].is_due(poll.listed(key), now):
            poll.ask(key)
        poll.finish_if_done(now)
        self._start_threads(poll, now)
        return poll

    def _new_poll(self, now: float, deadline: float) -> _Poll:
        list_deadline = now + (deadline - now) * SHARE_OF_THE_LIST
        poll = _Poll(self._api, self._config, self._breaker, self._discovery, now, deadline, list_deadline)
        self._polls.add(poll)
        return poll

    def _probed_record(self, key: str) -> Record:
        """Return the record of a batch that is not watched; the ones probed last are remembered."""
        record = self._probed.setdefault(key, Record())
        self._probed.move_to_end(key)
        if len(self._probed) > REMEMBERED_PROBES:
            self._probed.popitem(last=False)
        return record

    def _watch(self, config: Config) -> Kept:
        """Bring the watch list up to date; what is watched no more is forgotten, save what is over but still listed."""
        if _organisation(config) != self._organisation:
            self._organisation = _organisation(config)
            self._forget()
        if not config.discovery.enabled:
            self._discovery = Discovery()
        listed = self._discovery.known
        self._warn_of_overruled(config)
        self._watched = watch(
            config, self._batch_files.batches.values(), [reading.batch.ref for reading in listed.values()]
        )
        self._records = {
            key: self._records.get(key) or self._probed.pop(key, None) or Record() for key in self._watched
        }
        last_known = {
            key: _last_known(listed[key].batch if key in listed else None, record)
            for key, record in self._records.items()
        }
        feeds = config.feeds_by_name

        def accepted(key: str) -> bool | None:
            batch = last_known[key]
            return False if batch is None else foresee_accepted(batch, feeds.get(self._watched[key].feed or ""))

        return keep(self._watched, config, last_known.get, accepted, self._wall_clock())

    def _warn_of_overruled(self, config: Config) -> None:
        before, self._overruled = self._overruled, overruled(config, self._batch_files.batches)
        if new := sorted(self._overruled - before):
            logger.warning(
                "a batch file lists batches with another feed or other labels than the config, which counts",
                extra={"batches": len(new), "first_ref": new[0]},
            )

    def _show(self, poll: _Poll, kept: Kept) -> None:
        poll.kept = kept
        poll.records = {key: self._records[key] for key in kept.watched}

    def _plan(self, poll: _Poll, now: float) -> None:
        """Decide which batches the poll asks for: unfinished, then never read, then re-checks, longest ago first."""
        due = [key for key, record in poll.records.items() if self._is_due(poll, key, record, now)]
        if not due and poll.records and now - self._last_request >= LONGEST_SILENCE:
            due = [min(poll.records, key=lambda key: poll.records[key].asked)]
        for key in sorted(due, key=lambda key: _order(poll.last_known(key), poll.records[key])):
            poll.ask(key)
        poll.finish_if_done(now)

    def _is_due(self, poll: _Poll, key: str, record: Record, now: float) -> bool:
        if key in poll.seen_unfinished:
            # If it said otherwise itself, it has the last word.
            return record.finished
        return record.is_due(poll.listed(key), now)

    # How its requests are sent.

    def _start_threads(self, poll: _Poll, now: float) -> None:
        """Let as many threads work for the poll as it has requests to send."""
        if self._stopped:
            poll.finished.set()
        while not poll.over(now) and poll.threads < min(poll.config.api.concurrency, len(poll.queue) + poll.sending):
            poll.threads += 1
            threading.Thread(target=self._work, args=(poll,), name="poll", daemon=True).start()

    def _work(self, poll: _Poll) -> None:
        """Send the requests of a poll, one after the other, until there is nothing more to ask."""
        while True:
            credentials = _outcome_of(poll.api.read_credentials)
            job = self._take(poll, credentials)
            if job is None:
                return
            if isinstance(job, PageRequest):
                self._record_page(poll, job, self._read_page(poll.api, job, credentials), credentials)
            else:
                listed = poll.listed(job)
                outcome = self._read_batch(poll.api, poll.spelling(job), credentials)
                self._record(poll, job, listed, outcome, credentials)

    def _take(self, poll: _Poll, credentials: Credentials | PollError) -> str | PageRequest | None:
        """Return the next thing to ask for, waiting for a place if need be; None when the thread has no more to do."""
        with self._changed:
            while poll.queue and not poll.over(now := self._clock()):
                job = poll.queue[0]
                was_answered = isinstance(job, str) and job not in poll.pending
                if was_answered or (poll.config.api.base_url, job) in self._in_flight:
                    # For another poll, or it will be.
                    poll.queue.popleft()
                    continue
                permission = self._permission(poll, credentials, now)
                if permission is Permission.GRANTED:
                    poll.queue.popleft()
                    poll.sending += 1
                    self._requests_under_way += 1
                    self._in_flight.add((poll.config.api.base_url, job))
                    return job
                if permission is Permission.DENIED:
                    self._skip_the_rest(poll, now)
                    continue
                self._changed.wait(poll.deadline - now)
            poll.threads -= 1
            return None

    def _permission(self, poll: _Poll, credentials: Credentials | PollError, now: float) -> Permission:
        if self._requests_under_way >= poll.config.api.concurrency:
            return Permission.WAIT
        if isinstance(credentials, PollError):
            return Permission.GRANTED
        return poll.breaker.ask(credentials, now)

    def _skip_the_rest(self, poll: _Poll, now: float) -> None:
        skipped = SkippedError("the API wants no requests now")
        poll.skipped = True
        if poll.discovering:
            self._end_discovery(poll, skipped.reason, now)
        while poll.queue:
            job = poll.queue.popleft()
            if isinstance(job, str):
                poll.note(job, skipped, now)

    def _read_batch(self, api: BatchReader, ref: str, credentials: Credentials | PollError) -> Outcome:
        if isinstance(credentials, PollError):
            return credentials
        batch = _outcome_of(lambda: api.read_batch(ref, credentials))
        return batch if isinstance(batch, PollError) else Reading(batch, self._wall_clock())

    def _read_page(
        self, api: BatchReader, request: PageRequest, credentials: Credentials | PollError
    ) -> BatchPage | PollError:
        if isinstance(credentials, PollError):
            return credentials
        return _outcome_of(lambda: api.read_page(request.statuses, request.offset, request.limit, credentials))

    # What is learned from the answers.

    def _record(
        self, sender: _Poll, key: str, listed: Batch | None, outcome: Outcome, credentials: Credentials | PollError
    ) -> None:
        """Hand the outcome of a request to all polls that wait for it, and learn from it."""
        with self._changed:
            now = self._clock()
            base_url = sender.config.api.base_url
            self._in_flight.discard((base_url, key))
            # The sender leads. Whoever else waits for this batch need not ask for it.
            others = (poll for poll in self._polls if key in poll.pending and poll.config.api.base_url == base_url)
            polls = [sender, *(poll for poll in others if poll is not sender)]
            was_forbidden = isinstance(sender.records[key].failure, ForbiddenError)
            error = outcome if isinstance(outcome, PollError) else None
            self._note_answer(polls, error, credentials, counts=not was_forbidden)
            # The polls of one batch share its record, unless it was forgotten and probed again meanwhile.
            for poll in {id(poll.records[key]): poll for poll in polls}.values():
                self._log_change(poll, key, outcome)
                poll.records[key].learn(outcome, listed, now, poll.config.recheck_finished)
            for poll in polls:
                poll.note(key, outcome, now)

    def _log_change(self, poll: _Poll, key: str, outcome: Outcome) -> None:
        if poll.told < MOST_TOLD:
            poll.told += log_change(poll.kept.watched[key], poll.records[key], outcome)
            if poll.told == MOST_TOLD:
                logger.warning("this poll logs no more batches; the metrics name them all")

    def _record_page(
        self, sender: _Poll, request: PageRequest, outcome: BatchPage | PollError, credentials: Credentials | PollError
    ) -> None:
        """Go on with the list, or end it. A page that comes too late for its poll serves the one that is under way."""
        with self._changed:
            now = self._clock()
            self._in_flight.discard((sender.config.api.base_url, request))
            failure = outcome.reason if isinstance(outcome, PollError) else None
            self._note_answer(
                [sender], outcome if isinstance(outcome, PollError) else None, credentials, of_batch=False
            )
            more: list[PageRequest] = []
            if isinstance(outcome, BatchPage):
                try:
                    more = sender.discovery.receive(request, outcome, now, self._wall_clock())
                except BrokenListError:
                    failure = Reason.BAD_RESPONSE
            poll = self._current
            if poll is None or not poll.discovering or poll.over(now) or poll.discovery is not sender.discovery:
                return
            if failure is None and poll.discovery.complete:
                self._end_discovery(poll, None, now)
            elif failure is None:
                poll.queue.extend(more)
                self._start_threads(poll, now)
            else:
                self._end_discovery(poll, failure, now)

    def _end_slow_discovery(self, poll: _Poll) -> None:
        with self._changed:
            now = self._clock()
            if poll.discovering and not poll.over(now):
                self._end_discovery(poll, DeadlineError.reason, now)

    def _end_discovery(self, poll: _Poll, failure: Reason | None, now: float) -> None:
        """Plan the rest of the poll by what the list has shown, or by what is known without it."""
        poll.discovering = False
        poll.list_failure = failure
        poll.totals = poll.discovery.totals if failure is None else None
        poll.queue.clear()
        if poll.discovery.revision != poll.revision:
            self._show(poll, self._watch(poll.config))
        for batch in poll.discovery.take_changed():
            log_status(self._watched[batch.ref.lower()], batch.status)
        if failure is not self._list_failure:
            self._list_failure = failure
            if failure is None:
                logger.info("the list of batches can be read again")
            else:
                logger.warning("the list of batches can not be read", extra={"reason": f"{failure}"})
        self._plan(poll, now)
        self._start_threads(poll, now)
        self._changed.notify_all()

    def _note_answer(
        self,
        polls: list[_Poll],
        error: PollError | None,
        credentials: Credentials | PollError,
        *,
        counts: bool = True,
        of_batch: bool = True,
    ) -> None:
        """Learn from the outcome of a request what it says of the API.

        Args:
            polls: Those that wait for it; the sender leads.
            error: None is a success.
            credentials: What it was sent with.
            counts: Whether a 403 may be a refusal of us.
            of_batch: Whether it was for a batch, which may be missing or somebody else's; else it was for the list.

        """
        now = self._clock()
        polls[0].sending -= 1
        self._requests_under_way -= 1
        self._last_request = now
        self._changed.notify_all()
        if error is None:
            self._api_last_success = self._wall_clock()
        if not isinstance(credentials, PollError):
            polls[0].breaker.record(credentials, error, now)
        if not polls[0].is_probe:
            self._health.note(error, of_batch=of_batch)
        for poll in polls:
            if counts and (error is None or isinstance(error, StatusError)):
                poll.answers.append(error)
                if len(poll.answers) == ANSWERS_THAT_SHOW_A_REFUSAL and not isinstance(credentials, PollError):
                    self._consider_refusal(poll, credentials, now)

    def _consider_refusal(self, poll: _Poll, credentials: Credentials, now: float) -> None:
        """Treat the credentials as refused if the first answers of a poll are all 403.

        A batch that was forbidden before does not count: its 403 is its own, even when nothing else is left to ask.
        """
        if all(isinstance(answer, ForbiddenError) for answer in poll.answers):
            poll.breaker.refuse(credentials, now)

    def _judge_api(self, poll: _Poll, now: float) -> None:
        self._health.judge(
            over=poll.over(now) and not self._stopped,
            credentials_refused=poll.breaker.credentials_refused,
            skipped=poll.skipped,
        )

    # What may be told.

    def _snapshot(self, poll: _Poll, now: float) -> Snapshot:
        feeds = poll.config.feeds_by_name
        states = [self._state(poll, key, watched, feeds) for key, watched in poll.kept.watched.items()]
        for state in states:
            feed = feeds.get(state.watched.feed or "")
            if state.accepted and state.reading is not None and feed is not None:
                self._accepted.remember(feed.name, state.reading.batch)
        listed = [poll.listed(key) for key in poll.kept.watched]
        return Snapshot(
            batches=tuple(self._with_superseded(state, feeds) for state in states),
            api_up=self._health.up,
            api_last_success=self._api_last_success,
            poll_duration=(now if poll.ended is None else poll.ended) - poll.started,
            retired=poll.kept.retired,
            unread=sum(
                batch is not None and batch.status.finished and not poll.records[key].is_read(batch)
                for key, batch in zip(poll.kept.watched, listed, strict=True)
            ),
            discovery=DiscoveryState(failure=poll.list_failure, totals=poll.totals, dropped=poll.kept.dropped)
            if poll.config.discovery.enabled
            else None,
            feeds=self._accepted.states(poll.config.feeds),
        )

    def _state(self, poll: _Poll, key: str, watched: Watched, feeds: Mapping[str, FeedConfig]) -> BatchState:
        reading, failure = _reading(poll, key)
        accepted = None if reading is None else is_accepted(reading.batch, feeds.get(watched.feed or ""))
        return BatchState(watched=watched, reading=reading, failure=failure, accepted=accepted)

    def _with_superseded(self, state: BatchState, feeds: Mapping[str, FeedConfig]) -> BatchState:
        feed = feeds.get(state.watched.feed or "")
        if feed is None or not feed.next_success_resolves or state.reading is None or state.accepted is not False:
            return state
        return replace(state, superseded=self._accepted.supersede(feed.name, state.reading.batch))


def _organisation(config: Config) -> tuple[object, ...]:
    """Return what tells one organisation of Sitecore CDP from another: the region and the client key."""
    return config.api.base_url, config.api.basic_auth.username, config.api.basic_auth.username_file


def _last_known(listed: Batch | None, record: Record) -> Batch | None:
    """Return a batch as its own answer tells it, or as the list does where that is newer."""
    if record.reading is None or (listed is not None and listed.status.finished and not record.is_read(listed)):
        return listed
    return record.reading.batch


def _order(batch: Batch | None, record: Record) -> tuple[bool, bool, float, float]:
    """Sort what is due; of the batches that were never asked, the newest leads."""
    unfinished = batch is not None and not batch.status.finished
    newest_first = 0.0 if batch is None or batch.created is None else -batch.created
    return not unfinished, record.finished, record.asked, newest_first


def _reading(poll: _Poll, key: str) -> tuple[Reading | None, Reason | None]:
    """Return what holds of a batch, and why its poll failed."""
    record, listed, outcome = poll.records[key], poll.discovery.known.get(key), poll.outcomes.get(key)
    if listed is not None and listed.batch.status.finished and not record.is_read(listed.batch):
        # The list is newer than what the batch answered itself. That its details were not asked for yet is no failure
        # of its poll.
        failure = record.failure
        return listed, None if failure is None or isinstance(failure, NotAskedError) else failure.reason
    if record.finished:
        return record.reading, None
    if isinstance(outcome, Reading):
        return outcome, None
    if key in poll.seen_unfinished:
        return poll.seen_unfinished[key], None
    return None, DeadlineError.reason if outcome is None else outcome.reason


def _outcome_of(ask: Callable[[], Answer]) -> Answer | PollError:
    """Return an answer, or what kept it from coming."""
    try:
        return ask()
    except PollError as error:
        # Let go of the frames and causes of an error that is kept: they hold sockets, URLs and credentials.
        error.__context__ = None
        return error.with_traceback(None)
    except Exception as error:  # noqa: BLE001  One faulty batch must not take the others with it.
        # The message is left out: it may quote what must not be logged.
        logger.error(  # noqa: TRY400  Likewise.
            "a fault of the exporter: please report it",
            extra={"error": type(error).__name__, "place": "".join(traceback.format_tb(error.__traceback__))},
        )
        return InternalError(type(error).__name__)
