"""Polls the watch list: shares polls between scrapes, sends their requests, and learns from the answers.

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
from collections.abc import Callable, Mapping
from typing import TypeVar

from sitecore_cdp_exporter.api.batch import Batch, BatchPage
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.model import Config
from sitecore_cdp_exporter.poll.backoff import Permission
from sitecore_cdp_exporter.poll.organisation import Organisation
from sitecore_cdp_exporter.poll.poll import BatchReader, Outcome, Poll
from sitecore_cdp_exporter.poll.records import log_change, log_status
from sitecore_cdp_exporter.poll.retention import Kept
from sitecore_cdp_exporter.poll.snapshot import Reading, Snapshot
from sitecore_cdp_exporter.poll.walk import PageRequest
from sitecore_cdp_exporter.watch.watchlist import BatchLists, Watched

Answer = TypeVar("Answer")

logger = logging.getLogger(__name__)

# So much silence is too much: one finished batch is asked again, so that a dead token shows before it matters.
LONGEST_SILENCE = 300
# One 403 is a batch of somebody else's; three in a row before anything else is the API refusing us.
ANSWERS_THAT_SHOW_A_REFUSAL = 3
# A poll of an API that fails logs so many batches; the metrics name them all.
MOST_TOLD = 10
# How much of a poll's time the list of batches may take.
SHARE_OF_THE_LIST = 0.5


class Poller:
    """Polls the watched batches.

    Args:
        api: The client of the Batch API.
        config: What is watched, and how.
        batch_files: The batches that files list.
        clock: A monotonic clock, in seconds.
        wall_clock: Seconds since the Unix epoch.
        wait: Waits for an event until a moment of the clock at the latest; None: the clock is the machine's.

    """

    def __init__(
        self,
        api: BatchReader,
        config: Config,
        batch_files: BatchLists,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        wait: Callable[[threading.Event, float], object] | None = None,
    ) -> None:
        self._clock = clock
        self._wall_clock = wall_clock
        self._wait = wait or (lambda event, moment: event.wait(max(moment - clock(), 0)))
        # Guards everything below; it is notified when a request has ended.
        self._changed = threading.Condition()
        self._api = api
        self._config = config
        self._batch_files = batch_files
        self._organisation = Organisation(config)
        self._requests_under_way = 0
        # Which batches and pages are being asked for, of which organisation.
        self._in_flight: set[tuple[Organisation, str | PageRequest]] = set()
        self._polls: weakref.WeakSet[Poll] = weakref.WeakSet()
        self._current: Poll | None = None
        self._latest: Snapshot | None = None
        self._last_request = clock()
        self._stopped = False
        self._watch()

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
            self._wait(poll.finished, poll.list_deadline)
            self._end_slow_discovery(poll)
        self._wait(poll.finished, deadline)
        with self._changed:
            now = self._clock()
            self._judge_api(poll, now)
            poll.left_early |= not poll.over(now)
            snapshot = poll.snapshot(now)
            if poll.organisation is self._organisation and (self._latest is None or poll.over(now)):
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
        self._wait(poll.finished, deadline)
        with self._changed:
            return poll.snapshot(self._clock())

    @property
    def latest(self) -> Snapshot | None:
        """What the last poll that is over has found; None before the first."""
        return self._latest

    @property
    def watched(self) -> Mapping[str, Watched]:
        """What is listed, by ref in lower case, past its retention or not."""
        return self._organisation.watched

    def reconfigure(self, api: BatchReader, config: Config) -> None:
        """Use another config from the next poll on. A poll under way ends as it began.

        What was read is remembered, save when the config is for another organisation.
        """
        with self._changed:
            self._api, self._config = api, config
            if not self._organisation.is_of(config):
                # A poll under way keeps its own. No scrape may join it, and no probe may learn from it.
                self._organisation = Organisation(config)
                self._current = self._latest = None
            if self._current is None or self._current.over(self._clock()):
                self._watch()

    def stop(self) -> None:
        """End every poll now: those who wait return with what is there. Requests under way end by themselves."""
        with self._changed:
            self._stopped = True
            for poll in self._polls:
                poll.finished.set()
            self._changed.notify_all()

    # How a poll begins.

    def _watch(self) -> Kept:
        """Bring the watch list up to date."""
        return self._organisation.watch(self._config, self._batch_files, self._wall_clock())

    def _begin_poll(self, now: float, deadline: float) -> Poll:
        kept = self._watch()
        poll = self._new_poll(now, deadline)
        poll.show(kept)
        if poll.config.discovery.enabled:
            poll.begin_discovery()
        else:
            self._plan(poll, now)
        self._start_threads(poll, now)
        return poll

    def _begin_probe(self, ref: str, now: float, deadline: float) -> Poll:
        poll = self._new_poll(now, deadline)
        poll.begin_probe(ref)
        self._start_threads(poll, now)
        return poll

    def _new_poll(self, now: float, deadline: float) -> Poll:
        list_deadline = now + (deadline - now) * SHARE_OF_THE_LIST
        organisation = self._organisation
        poll = Poll(self._api, self._config, organisation, organisation.discovery, now, deadline, list_deadline)
        self._polls.add(poll)
        return poll

    def _plan(self, poll: Poll, now: float) -> None:
        poll.plan(now, is_silent=now - self._last_request >= LONGEST_SILENCE)

    # How its requests are sent.

    def _start_threads(self, poll: Poll, now: float) -> None:
        """Let as many threads work for the poll as it has requests to send, or as the system grants."""
        if self._stopped:
            poll.finished.set()
        while not poll.over(now) and poll.threads < min(poll.config.api.concurrency, len(poll.queue) + poll.sending):
            try:
                threading.Thread(target=self._work, args=(poll,), name="poll", daemon=True).start()
            except RuntimeError:
                # Those that there are do it all, later.
                if not poll.threads:
                    logger.error("nothing can be asked: no thread can be started")  # noqa: TRY400  That says it all.
                    self._leave_out_the_rest(poll, PollError(Reason.INTERNAL, "no thread can be started"), now)
                return
            poll.threads += 1

    def _work(self, poll: Poll) -> None:
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

    def _take(self, poll: Poll, credentials: Credentials | PollError) -> str | PageRequest | None:
        """Return the next thing to ask for, waiting for a place if need be; None when the thread has no more to do."""
        with self._changed:
            while poll.queue and not poll.over(now := self._clock()):
                job = poll.queue[0]
                wanted = job in poll.pending if isinstance(job, str) else poll.discovery.wants(job)
                if not wanted or (poll.organisation, job) in self._in_flight:
                    # For another poll, or it will be.
                    poll.queue.popleft()
                    continue
                permission = self._permission(poll, credentials, now)
                if permission is Permission.GRANTED:
                    poll.queue.popleft()
                    poll.sending += 1
                    self._requests_under_way += 1
                    self._in_flight.add((poll.organisation, job))
                    return job
                if permission is Permission.DENIED:
                    self._skip_the_rest(poll, now)
                    continue
                self._changed.wait(poll.deadline - now)
            poll.threads -= 1
            return None

    def _permission(self, poll: Poll, credentials: Credentials | PollError, now: float) -> Permission:
        if self._requests_under_way >= poll.config.api.concurrency:
            return Permission.WAIT
        if isinstance(credentials, PollError):
            return Permission.GRANTED
        return poll.organisation.breaker.ask(credentials, now)

    def _skip_the_rest(self, poll: Poll, now: float) -> None:
        poll.skipped = True
        self._leave_out_the_rest(poll, PollError(Reason.SKIPPED, "the API wants no requests now"), now)

    def _leave_out_the_rest(self, poll: Poll, error: PollError, now: float) -> None:
        """Ask for nothing more in this poll, because of the error."""
        if poll.discovering:
            self._end_discovery(poll, error.reason, now)
        while poll.queue:
            job = poll.queue.popleft()
            if isinstance(job, str):
                poll.note(job, error, now)

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
        self, sender: Poll, key: str, listed: Batch | None, outcome: Outcome, credentials: Credentials | PollError
    ) -> None:
        """Hand the outcome of a request to all polls that wait for it, and learn from it."""
        with self._changed:
            now = self._clock()
            self._in_flight.discard((sender.organisation, key))
            # The sender leads. Whoever else waits for this batch need not ask for it.
            others = (poll for poll in self._polls if key in poll.pending and poll.organisation is sender.organisation)
            polls = [sender, *(poll for poll in others if poll is not sender)]
            was_forbidden = _is_forbidden(sender.records[key].failure)
            error = outcome if isinstance(outcome, PollError) else None
            self._note_answer(polls, error, credentials, counts=not was_forbidden)
            is_late = any(poll.left_early or poll.over(now) for poll in polls)
            # The polls of one batch share its record, unless it was forgotten and probed again meanwhile.
            for poll in {id(poll.records[key]): poll for poll in polls}.values():
                self._log_change(poll, key, outcome)
                poll.records[key].learn(outcome, listed, now, poll.config.recheck_finished, is_late=is_late)
            for poll in polls:
                poll.note(key, outcome, now)

    def _log_change(self, poll: Poll, key: str, outcome: Outcome) -> None:
        if poll.told < MOST_TOLD:
            listed = key in poll.organisation.watched
            poll.told += log_change(poll.kept.watched[key], poll.records[key], outcome, listed=listed)
            if poll.told == MOST_TOLD:
                logger.warning("this poll logs no more batches; the metrics name them all")

    def _record_page(
        self, sender: Poll, request: PageRequest, outcome: BatchPage | PollError, credentials: Credentials | PollError
    ) -> None:
        """Go on with the list, or end it. A page that comes too late for its poll serves the one that is under way."""
        with self._changed:
            now = self._clock()
            self._in_flight.discard((sender.organisation, request))
            failure = outcome.reason if isinstance(outcome, PollError) else None
            self._note_answer(
                [sender], outcome if isinstance(outcome, PollError) else None, credentials, of_batch=False
            )
            more: list[PageRequest] = []
            if isinstance(outcome, BatchPage):
                more = sender.discovery.receive(request, outcome, now, self._wall_clock())
            poll = self._current
            if poll is None or poll.discovery is not sender.discovery:
                # A reload has begun another discovery. The poll under way ends as it began.
                poll = sender
            if not poll.discovering or poll.over(now):
                return
            if failure is None and poll.discovery.complete:
                self._end_discovery(poll, Reason.BAD_RESPONSE if poll.discovery.problem else None, now)
            elif failure is None:
                poll.queue.extend(more)
                self._start_threads(poll, now)
            else:
                self._end_discovery(poll, failure, now)

    def _end_slow_discovery(self, poll: Poll) -> None:
        with self._changed:
            now = self._clock()
            if poll.discovering and not poll.over(now):
                self._end_discovery(poll, Reason.DEADLINE, now)

    def _end_discovery(self, poll: Poll, failure: Reason | None, now: float) -> None:
        """Plan the rest of the poll by what the list has shown, or by what is known without it."""
        poll.end_discovery(failure)
        # Otherwise a reload has ended discovery meanwhile, and a later poll has begun without it.
        if poll.discovery is poll.organisation.discovery:
            if poll.discovery.revision != poll.revision:
                poll.show(poll.organisation.watch(poll.config, self._batch_files, self._wall_clock()))
            for batch in poll.discovery.take_changed():
                log_status(poll.organisation.watched[batch.ref.lower()], batch.status)
        if failure is not poll.organisation.list_failure:
            poll.organisation.list_failure = failure
            if failure is None:
                logger.info("the list of batches can be read again")
                # What refused the list may have refused details, too; that was not their batch's own.
                poll.organisation.forget_refusals()
            else:
                problem = poll.discovery.problem if failure is Reason.BAD_RESPONSE and poll.discovery.complete else None
                logger.warning(
                    "the list of batches cannot be read",
                    extra={"reason": f"{failure}"} | ({"problem": problem} if problem else {}),
                )
        self._plan(poll, now)
        self._start_threads(poll, now)
        self._changed.notify_all()

    def _note_answer(
        self,
        polls: list[Poll],
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
            polls[0].organisation.api_last_success = self._wall_clock()
        if not isinstance(credentials, PollError):
            polls[0].organisation.breaker.record(credentials, error, now)
        if not polls[0].is_probe:
            polls[0].organisation.health.note(error, of_batch=of_batch)
        for poll in polls:
            if counts and (error is None or error.status is not None):
                poll.answers.append(error)
                if len(poll.answers) == ANSWERS_THAT_SHOW_A_REFUSAL and not isinstance(credentials, PollError):
                    self._consider_refusal(poll, credentials, now)

    def _consider_refusal(self, poll: Poll, credentials: Credentials, now: float) -> None:
        """Treat the credentials as refused if the first answers of a poll are all 403.

        A batch that was forbidden before does not count: its 403 is its own, even when nothing else is left to ask.
        """
        if all(_is_forbidden(answer) for answer in poll.answers):
            poll.organisation.breaker.refuse(credentials, now)

    def _judge_api(self, poll: Poll, now: float) -> None:
        poll.organisation.health.judge(
            over=poll.over(now) and not self._stopped,
            credentials_refused=poll.organisation.breaker.credentials_refused,
            skipped=poll.skipped,
        )


def _is_forbidden(error: PollError | None) -> bool:
    return error is not None and error.reason is Reason.FORBIDDEN


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
        return PollError(Reason.INTERNAL, type(error).__name__)
