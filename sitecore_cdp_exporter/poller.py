"""One poll of the watch list: what is asked, in which order, by when, and what of it may be told.

A poll asks for every batch that is not finished and for the finished ones that are due for a re-check. Its requests
are sent by up to `concurrency` threads that live as long as they have something to ask. Scrapes that overlap share
one poll. A request is never cut by the end of a poll: a later poll that needs the same batch waits for that request
instead of sending another.
"""

import logging
import threading
import time
import traceback
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from sitecore_cdp_exporter.api import (
    Credentials,
    CredentialsError,
    DeadlineError,
    ForbiddenError,
    InternalError,
    NoAnswerError,
    NotAskedError,
    NotFoundError,
    PollError,
    Reason,
    SkippedError,
    StatusError,
)
from sitecore_cdp_exporter.batch import Batch
from sitecore_cdp_exporter.circuit_breaker import CircuitBreaker, Permission
from sitecore_cdp_exporter.config import WatchedBatch
from sitecore_cdp_exporter.watchlist import Watchlist

PollErrorT = TypeVar("PollErrorT", bound=PollError)

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


@dataclass(frozen=True, slots=True)
class Reading:
    """A batch and when it was read, in seconds since the Unix epoch."""

    batch: Batch
    polled: float


@dataclass(frozen=True, slots=True)
class BatchState:
    """What may be told of a watched batch: its last reading if that still holds, else why there is none."""

    watched: WatchedBatch
    reading: Reading | None
    failure: Reason | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one scrape may tell.

    Attributes:
        batches: One state for each watched batch, in the order of the watch list.
        api_up: None before the first request.
        api_last_success: When a batch was last read, in seconds since the Unix epoch; None: never.
        poll_duration: Seconds.

    """

    batches: tuple[BatchState, ...]
    api_up: bool | None
    api_last_success: float | None
    poll_duration: float


@dataclass(slots=True)
class _Record:
    """What is remembered of a batch from poll to poll. Moments are of the monotonic clock."""

    reading: Reading | None = None
    failure: PollError | None = None
    asked: float = float("-inf")
    recheck: float = float("-inf")

    @property
    def finished(self) -> bool:
        return self.reading is not None and self.reading.batch.status.finished

    def order(self) -> tuple[bool, bool, float]:
        """Sort unfinished batches first, then those never read, then re-checks; the one asked longest ago leads."""
        return self.finished, self.reading is None, self.asked


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Poll:
    """A poll under way. `queue` is still to be asked, `pending` still to be answered."""

    records: Mapping[str, tuple[WatchedBatch, _Record]]
    queue: deque[str]
    started: float
    deadline: float
    pending: set[str] = field(init=False)
    outcomes: dict[str, Reading | PollError] = field(default_factory=dict)
    requests: int = 0
    answers: list[Reading | PollError] = field(default_factory=list)
    ended: float | None = None
    finished: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.pending = set(self.queue)
        self.finish_if_done(self.started)

    def note(self, key: str, outcome: Reading | PollError, now: float) -> None:
        self.outcomes[key] = outcome
        self.pending.discard(key)
        self.finish_if_done(now)

    def skip_the_rest(self, now: float) -> None:
        while self.queue:
            self.note(self.queue.popleft(), SkippedError("the API wants no requests now"), now)

    def finish_if_done(self, now: float) -> None:
        if not self.pending and self.ended is None:
            self.ended = now
            self.finished.set()

    def over(self, now: float) -> bool:
        return self.finished.is_set() or now >= self.deadline


class Poller:
    """Polls the watched batches.

    Args:
        api: The client of the Batch API.
        watchlist: Which batches `poll` asks for.
        concurrency: How many requests may be under way at once.
        recheck_finished: Seconds after which a finished batch is asked again.
        clock: A monotonic clock, in seconds.
        wall_clock: Seconds since the Unix epoch.

    """

    def __init__(
        self,
        api: BatchReader,
        watchlist: Watchlist,
        *,
        concurrency: int,
        recheck_finished: float,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._api = api
        self._watchlist = watchlist
        self._concurrency = concurrency
        self._recheck_finished = recheck_finished
        self._clock = clock
        self._wall_clock = wall_clock
        # Guards everything below; it is notified when a request has ended.
        self._changed = threading.Condition()
        self._breaker = CircuitBreaker()
        self._records: dict[str, _Record] = {}
        self._probed: OrderedDict[str, _Record] = OrderedDict()
        # The polls that wait for the answer to each request under way.
        self._in_flight: dict[str, list[_Poll]] = {}
        self._polls: weakref.WeakSet[_Poll] = weakref.WeakSet()
        self._current: _Poll | None = None
        self._latest: Snapshot | None = None
        self._last_request = clock()
        self._api_up: bool | None = None
        self._api_last_success: float | None = None
        self._stopped = False

    def poll(self, deadline: float) -> Snapshot:
        """Poll the watch list, or join the poll that is under way; return by `deadline` what is there.

        Args:
            deadline: A moment of the monotonic clock.

        """
        with self._changed:
            now = self._clock()
            if self._current is None or self._current.over(now):
                self._current = self._begin(self._remember_watched(), now, deadline)
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
            poll = self._begin({ref.lower(): self._remember_probed(ref)}, now, deadline)
        poll.finished.wait(max(deadline - now, 0))
        with self._changed:
            return self._snapshot(poll, self._clock())

    @property
    def latest(self) -> Snapshot | None:
        """What the last poll that is over has found; None before the first."""
        return self._latest

    def stop(self) -> None:
        """End every poll now: those who wait return with what is there. Requests under way end by themselves."""
        with self._changed:
            self._stopped = True
            for poll in self._polls:
                poll.finished.set()
            self._changed.notify_all()

    def _begin(self, records: Mapping[str, tuple[WatchedBatch, _Record]], now: float, deadline: float) -> _Poll:
        poll = _Poll(records, deque(self._due(records, now)), started=now, deadline=deadline)
        self._polls.add(poll)
        if self._stopped:
            poll.finished.set()
        if not poll.over(now):
            for _ in range(min(self._concurrency, len(poll.queue))):
                threading.Thread(target=self._work, args=(poll,), name="poll", daemon=True).start()
        return poll

    def _remember_watched(self) -> Mapping[str, tuple[WatchedBatch, _Record]]:
        """Return the record of each watched batch; those of batches that are watched no more are forgotten."""
        watched = self._watchlist.batches
        self._records = {key: self._records.get(key) or self._probed.pop(key, None) or _Record() for key in watched}
        return {key: (batch, self._records[key]) for key, batch in watched.items()}

    def _remember_probed(self, ref: str) -> tuple[WatchedBatch, _Record]:
        """Return the record of any batch; of those that are not watched, the ones probed last are remembered."""
        key = ref.lower()
        listed = self._watchlist.batches.get(key)
        if listed is not None:
            return listed, self._records.setdefault(key, _Record())
        record = self._probed.setdefault(key, _Record())
        self._probed.move_to_end(key)
        if len(self._probed) > REMEMBERED_PROBES:
            self._probed.popitem(last=False)
        return WatchedBatch(ref=ref), record

    def _due(self, records: Mapping[str, tuple[WatchedBatch, _Record]], now: float) -> list[str]:
        due = [key for key, (_, record) in records.items() if not record.finished or record.recheck <= now]
        if not due and records and now - self._last_request >= LONGEST_SILENCE:
            due = [min(records, key=lambda key: records[key][1].asked)]
        return sorted(due, key=lambda key: records[key][1].order())

    def _work(self, poll: _Poll) -> None:
        """Send the requests of a poll, one after the other, until there is nothing more to ask."""
        while True:
            credentials = self._read_credentials()
            key = self._take(poll, credentials)
            if key is None:
                return
            if isinstance(credentials, CredentialsError):
                outcome: Reading | PollError = credentials
            else:
                outcome = self._read(poll.records[key][0].ref, credentials)
            self._record(key, outcome, credentials)

    def _take(self, poll: _Poll, credentials: Credentials | CredentialsError) -> str | None:
        """Return the next batch to ask for, waiting for a place if need be; None when the poll needs no more."""
        with self._changed:
            while poll.queue and not poll.over(now := self._clock()):
                if poll.queue[0] in self._in_flight:
                    self._in_flight[poll.queue.popleft()].append(poll)
                    poll.requests += 1
                    continue
                permission = self._permission(credentials, now)
                if permission is Permission.GRANTED:
                    key = poll.queue.popleft()
                    self._in_flight[key] = [poll]
                    poll.requests += 1
                    return key
                if permission is Permission.DENIED:
                    poll.skip_the_rest(now)
                    return None
                self._changed.wait(poll.deadline - now)
            return None

    def _permission(self, credentials: Credentials | CredentialsError, now: float) -> Permission:
        if len(self._in_flight) >= self._concurrency:
            return Permission.WAIT
        if isinstance(credentials, CredentialsError):
            return Permission.GRANTED
        return self._breaker.ask(credentials, now)

    def _read_credentials(self) -> Credentials | CredentialsError:
        try:
            return self._api.read_credentials()
        except CredentialsError as error:
            return _without_traceback(error)

    def _read(self, ref: str, credentials: Credentials) -> Reading | PollError:
        try:
            return Reading(self._api.read_batch(ref, credentials), self._wall_clock())
        except PollError as error:
            return _without_traceback(error)
        except Exception as error:  # noqa: BLE001  One faulty batch must not take the others with it.
            # The message is left out: it may quote what must not be logged.
            logger.error(  # noqa: TRY400  Likewise.
                "a fault of the exporter: please report it",
                extra={
                    "ref": ref,
                    "error": type(error).__name__,
                    "place": "".join(traceback.format_tb(error.__traceback__)),
                },
            )
            return InternalError(type(error).__name__)

    def _record(self, key: str, outcome: Reading | PollError, credentials: Credentials | CredentialsError) -> None:
        """Hand the outcome of a request to all polls that wait for it, and learn from it."""
        with self._changed:
            now = self._clock()
            self._last_request = now
            if isinstance(outcome, Reading):
                self._api_last_success = outcome.polled
            if isinstance(credentials, Credentials):
                self._breaker.record(credentials, outcome.batch if isinstance(outcome, Reading) else outcome, now)
            polls = self._in_flight.pop(key)
            self._consider_refusal(key, polls, outcome, credentials)
            # The polls of one batch share its record, unless it was forgotten and probed again meanwhile.
            for watched, record in {id(poll.records[key][1]): poll.records[key] for poll in polls}.values():
                self._remember(watched, record, outcome, now)
            for poll in polls:
                poll.note(key, outcome, now)
            self._changed.notify_all()

    def _consider_refusal(
        self,
        key: str,
        polls: list[_Poll],
        outcome: Reading | PollError,
        credentials: Credentials | CredentialsError,
    ) -> None:
        """Treat the credentials as refused if the first answers of a poll are all 403.

        A batch that was forbidden before does not count: its 403 is its own, even when nothing else is left to ask.
        """
        if isinstance(credentials, CredentialsError) or not isinstance(outcome, Reading | StatusError):
            return
        if isinstance(polls[0].records[key][1].failure, ForbiddenError):
            return
        for poll in polls:
            poll.answers.append(outcome)
            if len(poll.answers) == ANSWERS_THAT_SHOW_A_REFUSAL and all(
                isinstance(answer, ForbiddenError) for answer in poll.answers
            ):
                self._breaker.refuse(credentials, self._clock())

    def _remember(self, watched: WatchedBatch, record: _Record, outcome: Reading | PollError, now: float) -> None:
        was_finished = record.finished
        _log_change(watched, record, outcome)
        record.asked = now
        if isinstance(outcome, PollError):
            record.failure = outcome
            # Asked again in the next scrape, unless the answer was about the batch: one that has aged out of the API
            # would otherwise be asked for in every scrape from then on.
            if isinstance(outcome, NotFoundError | ForbiddenError):
                record.recheck = now + self._recheck_finished
            return
        record.failure = None
        record.reading = outcome
        # The first re-check comes early by a share that the ref decides, so that batches which finish together, or are
        # read together after a restart, are not asked again together.
        share = 1.0 if was_finished else (1 + int(record.reading.batch.ref[-8:], 16) / 2**32) / 2
        record.recheck = now + self._recheck_finished * share

    def _judge_api(self, poll: _Poll, now: float) -> None:
        """Decide by the outcomes of a poll whether the API is up; one without requests decides nothing."""
        before = self._api_up
        if any(self._api_works(outcome) for outcome in poll.outcomes.values()):
            self._api_up = True
        elif poll.requests and poll.over(now):
            self._api_up = False
        if self._api_up != before:
            reasons = Counter(o.reason for o in poll.outcomes.values() if isinstance(o, PollError))
            logger.log(
                logging.INFO if self._api_up else logging.WARNING,
                "the Batch API is %s",
                "up" if self._api_up else "down",
                extra={f"{reason}": count for reason, count in reasons.items()},
            )

    def _api_works(self, outcome: Reading | PollError) -> bool:
        """Tell a reading, or a failure that is the batch's own, from a failure that any batch would have met."""
        if isinstance(outcome, ForbiddenError):
            return not self._breaker.credentials_refused
        return isinstance(outcome, Reading | NotFoundError)

    def _snapshot(self, poll: _Poll, now: float) -> Snapshot:
        return Snapshot(
            batches=tuple(
                self._state(watched, record, poll.outcomes.get(key)) for key, (watched, record) in poll.records.items()
            ),
            api_up=self._api_up,
            api_last_success=self._api_last_success,
            poll_duration=(now if poll.ended is None else poll.ended) - poll.started,
        )

    @staticmethod
    def _state(watched: WatchedBatch, record: _Record, outcome: Reading | PollError | None) -> BatchState:
        if record.finished:
            return BatchState(watched, record.reading, None)
        if isinstance(outcome, Reading):
            return BatchState(watched, outcome, None)
        return BatchState(watched, None, (outcome or DeadlineError()).reason)


def _without_traceback(error: PollErrorT) -> PollErrorT:
    """Let go of the frames and causes of an error that is kept: they hold sockets, URLs and credentials."""
    error.__context__ = None
    return error.with_traceback(None)


def _log_change(watched: WatchedBatch, record: _Record, outcome: Reading | PollError) -> None:
    """Log what is new about a batch, once, not in every scrape."""
    about = {"ref": watched.ref} | ({"feed": watched.feed} if watched.feed else {})
    if isinstance(outcome, PollError):
        if record.failure is None or record.failure.reason != outcome.reason:
            # What is not the batch's own is told once for the API as a whole.
            level = logging.DEBUG if isinstance(outcome, NoAnswerError | NotAskedError) else logging.WARNING
            logger.log(level, "a batch can not be read: %s", outcome, extra=about | {"reason": f"{outcome.reason}"})
        return
    if record.failure is not None:
        logger.info("a batch can be read again", extra=about)
    if record.reading is not None and record.reading.batch.status is not outcome.batch.status:
        logger.info("a batch has a new status", extra=about | {"status": f"{outcome.batch.status}"})
