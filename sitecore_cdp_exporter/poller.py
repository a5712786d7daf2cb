"""One poll of the watch list: what is asked, in which order, by when, and what of it may be told.

With discovery a poll reads the API's list of batches first. Then it asks for every batch that is not finished and not
in that list, and for the finished ones whose details are to be read. Its requests are sent by up to `api.concurrency`
threads that live as long as they have something to ask. Scrapes that overlap share one poll. A request is never cut by
the end of a poll: a later poll that needs the same batch waits for that request instead of sending another.
"""

import logging
import threading
import time
import traceback
import weakref
from collections import Counter, OrderedDict, deque
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
from sitecore_cdp_exporter.batch import Batch, BatchPage, BatchStatus
from sitecore_cdp_exporter.circuit_breaker import CircuitBreaker, Permission
from sitecore_cdp_exporter.config import Config, FeedConfig
from sitecore_cdp_exporter.discovery import Discovery, EndlessListError, PageRequest
from sitecore_cdp_exporter.feeds import AcceptedBatches, is_accepted
from sitecore_cdp_exporter.records import Record, log_change, log_status
from sitecore_cdp_exporter.retention import Kept, keep
from sitecore_cdp_exporter.snapshot import BatchState, DiscoveryState, Reading, Snapshot
from sitecore_cdp_exporter.watchlist import BatchLists, Watched, watch

Outcome: TypeAlias = Reading | PollError
Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)

# So much silence is too much: one finished batch is asked again, so that a dead token shows before it matters.
LONGEST_SILENCE = 300
# One 403 is a batch of somebody else's; three in a row before anything else is the API refusing us.
ANSWERS_THAT_SHOW_A_REFUSAL = 3
REMEMBERED_PROBES = 1000


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
    answered; while `discovering`, more may come.
    """

    api: BatchReader
    config: Config
    started: float
    deadline: float
    kept: Kept = field(default_factory=Kept)
    records: Mapping[str, Record] = field(default_factory=dict)
    discovering: bool = False
    queue: deque[str | PageRequest] = field(default_factory=deque)
    pending: set[str] = field(default_factory=set)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    threads: int = 0
    # How many requests were sent, or waited for; and how those ended that have: None is a success.
    requests: int = 0
    skipped: bool = False
    results: Counter[Reason | None] = field(default_factory=Counter)
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
        self._discovered_at = config.api.base_url
        self._accepted = AcceptedBatches()
        self._watched: Mapping[str, Watched] = {}
        self._records: dict[str, Record] = {}
        self._probed: OrderedDict[str, Record] = OrderedDict()
        self._requests_under_way = 0
        # The polls that wait for the answer about each batch that is being asked.
        self._in_flight: dict[str, list[_Poll]] = {}
        self._polls: weakref.WeakSet[_Poll] = weakref.WeakSet()
        self._current: _Poll | None = None
        self._latest: Snapshot | None = None
        self._last_request = clock()
        self._api_up: bool | None = None
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
            if self._current is None or self._current.over(now):
                self._current = self._begin_poll(now, deadline)
            poll = self._current
            poll.deadline = max(poll.deadline, deadline)
        poll.finished.wait(max(deadline - now, 0))
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
            if config.api.base_url != self._config.api.base_url:
                self._breaker = CircuitBreaker()
            self._api, self._config = api, config
            self._watch(config)

    def stop(self) -> None:
        """End every poll now: those who wait return with what is there. Requests under way end by themselves."""
        with self._changed:
            self._stopped = True
            for poll in self._polls:
                poll.finished.set()
            self._changed.notify_all()

    # How a poll begins.

    def _begin_poll(self, now: float, deadline: float) -> _Poll:
        poll = _Poll(self._api, self._config, now, deadline)
        if not poll.config.discovery.enabled or poll.config.api.base_url != self._discovered_at:
            self._discovery = Discovery()
            self._discovered_at = poll.config.api.base_url
        self._show(poll, self._watch(poll.config))
        if poll.config.discovery.enabled:
            poll.discovering = True
            poll.queue.append(self._discovery.begin())
        else:
            self._plan(poll, now)
        self._polls.add(poll)
        self._start_threads(poll, now)
        return poll

    def _begin_probe(self, ref: str, now: float, deadline: float) -> _Poll:
        key = ref.lower()
        poll = _Poll(self._api, self._config, now, deadline)
        poll.kept = Kept({key: self._watched.get(key) or Watched(ref)})
        poll.records = {key: self._records.get(key) or self._probed_record(key)}
        if poll.records[key].is_due(self._listed(key), now):
            poll.ask(key)
        poll.finish_if_done(now)
        self._polls.add(poll)
        self._start_threads(poll, now)
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
        refs = [reading.batch.ref for reading in self._discovery.known.values()] if config.discovery.enabled else []
        self._watched = watch(config, self._batch_files.batches.values(), refs)
        self._records = {
            key: self._records.get(key) or self._probed.pop(key, None) or Record() for key in self._watched
        }
        feeds = config.feeds_by_name

        def accepted(key: str) -> bool:
            batch = self._last_known(key)
            feed = feeds.get(self._watched[key].feed or "")
            # A success is accepted, whether its details are read or not.
            return batch is not None and (batch.status is BatchStatus.SUCCESS or bool(is_accepted(batch, feed)))

        return keep(self._watched, config, self._last_known, accepted, self._wall_clock())

    def _listed(self, key: str) -> Batch | None:
        reading = self._discovery.known.get(key)
        return None if reading is None else reading.batch

    def _last_known(self, key: str) -> Batch | None:
        """Return the batch as its own answer tells it, or as the list does where that is newer."""
        listed, record = self._listed(key), self._records[key]
        if record.reading is None or (listed is not None and not record.is_read(listed)):
            return listed
        return record.reading.batch

    def _show(self, poll: _Poll, kept: Kept) -> None:
        poll.kept = kept
        poll.records = {key: self._records[key] for key in kept.watched}

    def _plan(self, poll: _Poll, now: float) -> None:
        """Decide which batches the poll asks for: unfinished, then never read, then re-checks, longest ago first."""
        seen = self._discovery.seen_unfinished
        due = [key for key, each in poll.records.items() if key not in seen and each.is_due(self._listed(key), now)]
        if not due and poll.records and now - self._last_request >= LONGEST_SILENCE:
            due = [min(poll.records, key=lambda key: poll.records[key].asked)]
        for key in sorted(due, key=self._order):
            poll.ask(key)
        poll.finish_if_done(now)

    def _order(self, key: str) -> tuple[bool, bool, float, float]:
        """Sort what is due; of the batches that were never asked, the newest leads."""
        batch, record = self._last_known(key), self._records[key]
        unfinished = batch is not None and not batch.status.finished
        newest_first = 0.0 if batch is None or batch.created is None else -batch.created
        return not unfinished, record.reading is not None, record.asked, newest_first

    # How its requests are sent.

    def _start_threads(self, poll: _Poll, now: float) -> None:
        """Let as many threads work for the poll as it has requests to send."""
        if self._stopped:
            poll.finished.set()
        while not poll.over(now) and poll.threads < min(poll.config.api.concurrency, len(poll.queue)):
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
                ref = poll.kept.watched[job].ref
                self._record(job, self._read_batch(poll.api, ref, credentials), credentials)

    def _take(self, poll: _Poll, credentials: Credentials | PollError) -> str | PageRequest | None:
        """Return the next thing to ask for, waiting for a place if need be; None when the thread has no more to do."""
        with self._changed:
            while poll.queue and not poll.over(now := self._clock()):
                job = poll.queue[0]
                if isinstance(job, str) and job in self._in_flight:
                    self._in_flight[job].append(poll)
                    poll.queue.popleft()
                    poll.requests += 1
                    continue
                permission = self._permission(poll, credentials, now)
                if permission is Permission.GRANTED:
                    poll.queue.popleft()
                    poll.requests += 1
                    self._requests_under_way += 1
                    if isinstance(job, str):
                        self._in_flight[job] = [poll]
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
        return self._breaker.ask(credentials, now)

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

    def _record(self, key: str, outcome: Outcome, credentials: Credentials | PollError) -> None:
        """Hand the outcome of a request to all polls that wait for it, and learn from it."""
        with self._changed:
            now = self._clock()
            polls = self._in_flight.pop(key)
            was_forbidden = isinstance(polls[0].records[key].failure, ForbiddenError)
            error = outcome if isinstance(outcome, PollError) else None
            self._note_answer(polls, error, credentials, counts=not was_forbidden)
            # The polls of one batch share its record, unless it was forgotten and probed again meanwhile.
            for poll in {id(poll.records[key]): poll for poll in polls}.values():
                log_change(poll.kept.watched[key], poll.records[key], outcome)
                poll.records[key].learn(outcome, self._listed(key), now, poll.config.recheck_finished)
            for poll in polls:
                poll.note(key, outcome, now)

    def _record_page(
        self, poll: _Poll, request: PageRequest, outcome: BatchPage | PollError, credentials: Credentials | PollError
    ) -> None:
        """Go on with the list, or end it; what comes too late for its poll is of no use."""
        with self._changed:
            now = self._clock()
            self._note_answer([poll], outcome if isinstance(outcome, PollError) else None, credentials, counts=True)
            if not poll.discovering or poll.over(now):
                return
            if isinstance(outcome, PollError):
                logger.debug("the list of batches can not be read: %s", outcome, extra={"reason": f"{outcome.reason}"})
                self._end_discovery(poll, outcome.reason, now)
                return
            try:
                poll.queue.extend(self._discovery.receive(request, outcome, now, self._wall_clock()))
            except EndlessListError:
                self._end_discovery(poll, Reason.BAD_RESPONSE, now)
                return
            if self._discovery.complete:
                self._end_discovery(poll, None, now)
            else:
                self._start_threads(poll, now)

    def _end_discovery(self, poll: _Poll, failure: Reason | None, now: float) -> None:
        """Plan the rest of the poll by what the list has shown, or by what is known without it."""
        if failure is not None:
            self._discovery.fail(failure)
        poll.discovering = False
        poll.queue.clear()
        self._show(poll, self._watch(poll.config))
        for batch in self._discovery.changed:
            log_status(self._watched[batch.ref.lower()], batch.status)
        self._plan(poll, now)
        self._start_threads(poll, now)

    def _note_answer(
        self, polls: list[_Poll], error: PollError | None, credentials: Credentials | PollError, *, counts: bool
    ) -> None:
        """Learn from the outcome of a request what it says of the API. `counts`: a 403 may be a refusal of us."""
        now = self._clock()
        self._requests_under_way -= 1
        self._last_request = now
        self._changed.notify_all()
        if error is None:
            self._api_last_success = self._wall_clock()
        if not isinstance(credentials, PollError):
            self._breaker.record(credentials, error, now)
        for poll in polls:
            poll.results[None if error is None else error.reason] += 1
            if counts and (error is None or isinstance(error, StatusError)):
                poll.answers.append(error)
                if len(poll.answers) == ANSWERS_THAT_SHOW_A_REFUSAL and not isinstance(credentials, PollError):
                    self._consider_refusal(poll, credentials, now)

    def _consider_refusal(self, poll: _Poll, credentials: Credentials, now: float) -> None:
        """Treat the credentials as refused if the first answers of a poll are all 403.

        A batch that was forbidden before does not count: its 403 is its own, even when nothing else is left to ask.
        """
        if all(isinstance(answer, ForbiddenError) for answer in poll.answers):
            self._breaker.refuse(credentials, now)

    def _judge_api(self, poll: _Poll, now: float) -> None:
        """Decide by the results of a poll whether the API is up; one without requests decides nothing."""
        before = self._api_up
        # A batch that is not there, or is somebody else's, is a failure of its own; any other would have met any batch.
        own = poll.results[Reason.NOT_FOUND] + (
            0 if self._breaker.credentials_refused else poll.results[Reason.FORBIDDEN]
        )
        if poll.results[None] or own:
            self._api_up = True
        # A probe may have met the refusal that keeps this poll from asking.
        elif poll.over(now) and (poll.requests or (poll.skipped and self._breaker.credentials_refused)):
            self._api_up = False
        if self._api_up != before:
            logger.log(
                logging.INFO if self._api_up else logging.WARNING,
                "the Batch API is %s",
                "up" if self._api_up else "down",
                extra={f"{reason}": count for reason, count in poll.results.items() if reason is not None},
            )

    # What may be told.

    def _snapshot(self, poll: _Poll, now: float) -> Snapshot:
        feeds = poll.config.feeds_by_name
        states = [self._state(poll, key, watched, feeds) for key, watched in poll.kept.watched.items()]
        for state in states:
            if state.accepted and state.reading is not None and state.watched.feed is not None:
                self._accepted.remember(state.watched.feed, state.reading.batch)
        listed = [self._listed(key) for key in poll.kept.watched]
        return Snapshot(
            batches=tuple(self._with_superseded(state, feeds) for state in states),
            api_up=self._api_up,
            api_last_success=self._api_last_success,
            poll_duration=(now if poll.ended is None else poll.ended) - poll.started,
            retired=poll.kept.retired,
            unread=sum(
                batch is not None and batch.status.finished and not poll.records[key].is_read(batch)
                for key, batch in zip(poll.kept.watched, listed, strict=True)
            ),
            discovery=DiscoveryState(
                failure=self._discovery.failure, totals=self._discovery.totals, dropped=poll.kept.dropped
            )
            if poll.config.discovery.enabled
            else None,
            feeds=self._accepted.states(poll.config.feeds),
        )

    def _state(self, poll: _Poll, key: str, watched: Watched, feeds: Mapping[str, FeedConfig]) -> BatchState:
        reading, failure = self._reading(key, poll.records[key], poll.outcomes.get(key))
        accepted = None if reading is None else is_accepted(reading.batch, feeds.get(watched.feed or ""))
        return BatchState(watched=watched, reading=reading, failure=failure, accepted=accepted)

    def _reading(self, key: str, record: Record, outcome: Outcome | None) -> tuple[Reading | None, Reason | None]:
        """Return what holds of a batch, and why its poll failed."""
        listed = self._discovery.known.get(key)
        if listed is not None and listed.batch.status.finished and not record.is_read(listed.batch):
            # The list is newer than what the batch answered itself. That its details were not asked for yet is no
            # failure of its poll.
            if isinstance(outcome, PollError) and not isinstance(outcome, NotAskedError):
                return listed, outcome.reason
            return listed, None
        if record.finished:
            return record.reading, None
        if key in self._discovery.seen_unfinished:
            return self._discovery.seen_unfinished[key], None
        if isinstance(outcome, Reading):
            return outcome, None
        return None, DeadlineError.reason if outcome is None else outcome.reason

    def _with_superseded(self, state: BatchState, feeds: Mapping[str, FeedConfig]) -> BatchState:
        feed = feeds.get(state.watched.feed or "")
        if feed is None or not feed.next_success_resolves or state.reading is None or state.accepted is not False:
            return state
        return replace(state, superseded=self._accepted.supersede(feed.name, state.reading.batch))


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
