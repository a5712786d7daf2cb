"""Polls the watch list: shares polls between scrapes, and sends their requests by a bounded number of threads.

With discovery a poll reads the API's list of batches first. Then it asks for every batch that is not finished and not
in that list, and for the finished ones whose details are to be read. A list that takes more than half of the poll's
time has failed for this poll, so that there is time to ask for the batches themselves. Up to `api.concurrency` threads
send the requests; each ends when nothing is left to ask. Scrapes that overlap share one poll. The end of a poll cuts no
request: a later poll that needs the same batch waits for it, and sends no other.
"""

import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from functools import partial

from sitecore_cdp_exporter.api.batch import BatchAnswer, BatchPage
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.files import MAX_SHARE_OF_A_SCRAPE
from sitecore_cdp_exporter.config.model import Config
from sitecore_cdp_exporter.poll.answers import end_list, judge_api, learn_batch, learn_of_api, note_complete
from sitecore_cdp_exporter.poll.feed_totals import BatchCounter, Totals
from sitecore_cdp_exporter.poll.log_thread import LogThread
from sitecore_cdp_exporter.poll.memory import Memory
from sitecore_cdp_exporter.poll.organisation import Job, Organisation
from sitecore_cdp_exporter.poll.poll import Poll
from sitecore_cdp_exporter.poll.reading import Reading
from sitecore_cdp_exporter.poll.request import AskBatch, AskPage, BatchReader, Request, answer_of, log_fault
from sitecore_cdp_exporter.poll.retention import Kept
from sitecore_cdp_exporter.poll.snapshot import Snapshot, take_snapshot
from sitecore_cdp_exporter.watch.watchlist import BatchLists, Watched

logger = logging.getLogger(__name__)


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
        # Guards everything below, polls, queues and memories included.
        self._lock = threading.Lock()
        self._config = config
        self._batch_files = batch_files
        self._totals = Totals()
        self._turn_to(api)
        self._current: Poll | None = None
        self._latest: Snapshot | None = None
        # Those that somebody waits for, which `stop` ends.
        self._polls: weakref.WeakSet[Poll] = weakref.WeakSet()
        self._stopped = False
        self._watch(self._organisation.memory)

    def poll(self, deadline: float) -> Snapshot:
        """Poll the watch list, or join the poll that is under way; return by `deadline` what is there.

        Args:
            deadline: A moment of the monotonic clock.

        """
        self._look_at_files(deadline)
        with self._lock:
            now = self._clock()
            if self._current is None or not self._current.may_be_joined(now):
                self._current = self._begin_poll(now, deadline)
            organisation, poll = self._organisation, self._current
            poll.deadline = max(poll.deadline, deadline)
        if poll.discovering and poll.list_deadline < deadline:
            self._wait(poll.finished, poll.list_deadline)
            with self._lock:
                self._end_slow_lists(organisation, self._clock())
                self._start_threads(organisation)
        snapshot = self._wait_for(organisation, poll, deadline)
        with self._lock:
            if organisation is self._organisation and (self._latest is None or poll.over(self._clock())):
                self._latest = snapshot
        return snapshot

    def probe(self, ref: str, deadline: float) -> Snapshot:
        """Poll one batch, listed or not, by `deadline`; a listed one keeps its feed and labels.

        Args:
            ref: The ref of the batch.
            deadline: A moment of the monotonic clock.

        """
        self._look_at_files(deadline)
        with self._lock:
            organisation = self._organisation
            if self._watched_files is not self._batch_files.batches:
                self._watch(organisation.memory)
            poll = Poll(self._config, organisation.memory, self._clock(), deadline)
            poll.begin_probe(ref)
            self._send_for(organisation, poll)
        return self._wait_for(organisation, poll, deadline)

    @property
    def latest(self) -> Snapshot | None:
        """What the last poll that is over has found; None before the first."""
        return self._latest

    @property
    def config(self) -> Config:
        """What counts from the next poll on."""
        return self._config

    @property
    def watched(self) -> Mapping[str, Watched]:
        """What is listed, by ref in lower case, past its retention or not."""
        return self._organisation.memory.watched

    def reconfigure(self, api: BatchReader, config: Config) -> None:
        """Use another config from the next poll on. A poll under way goes on to show what it began with.

        What was read is remembered, unless the config is for another organisation.
        """
        with self._lock:
            self._config = config
            if self._organisation.memory.is_of(config):
                self._organisation.api = api
            else:
                # A poll under way keeps its own. No scrape may join it, and no probe may learn from it.
                self._turn_to(api)
                self._current = self._latest = None
            if self._current is None or self._current.over(self._clock()):
                self._watch(self._organisation.memory)

    def stop(self) -> None:
        """End every poll now: those who wait return with what is there. Requests under way end by themselves."""
        with self._lock:
            self._stopped = True
            for poll in self._polls:
                poll.finished.set()

    def _look_at_files(self, deadline: float) -> None:
        """Look at the batch files; a slow disk may take a part of the time until the deadline."""
        self._batch_files.refresh(max(deadline - self._clock(), 0) * MAX_SHARE_OF_A_SCRAPE)

    # How a poll begins and ends; all under the lock.

    def _turn_to(self, api: BatchReader) -> None:
        """Poll the organisation of the config, and remember nothing of another one but what has counted."""
        counter = BatchCounter(self._totals, self._wall_clock())
        self._organisation = Organisation(api, Memory(self._config, counter, self._clock()))
        self._error_logs = LogThread(self._organisation, self._lock, self._clock)

    def _begin_poll(self, now: float, deadline: float) -> Poll:
        memory = self._organisation.memory
        kept = self._watch(memory)
        poll = Poll(self._config, memory, now, deadline)
        poll.show(kept)
        if poll.config.discovery.enabled:
            poll.begin_discovery()
        else:
            poll.ask_batches(now)
        self._send_for(self._organisation, poll)
        return poll

    def _watch(self, memory: Memory) -> Kept:
        """Bring the watch list up to date."""
        self._watched_files = self._batch_files.batches
        return memory.watch(self._config, self._batch_files, self._wall_clock())

    def _send_for(self, organisation: Organisation, poll: Poll) -> None:
        """Send the requests of a poll, in turn with those of others."""
        self._polls.add(poll)
        if self._stopped:
            poll.finished.set()
        organisation.add(poll)
        self._start_threads(organisation)

    def _wait_for(self, organisation: Organisation, poll: Poll, deadline: float) -> Snapshot:
        """Return by the deadline what a poll has found; takes the lock itself."""
        self._wait(poll.finished, deadline)
        with self._lock:
            now = self._clock()
            organisation.leave(poll)
            if not poll.is_probe:
                judge_api(poll, now, over=poll.over(now) and not self._stopped)
                note_complete(poll, now, self._wall_clock())
                poll.memory.count(poll.config, poll.started)
            return take_snapshot(poll, now)

    def _end_slow_lists(self, organisation: Organisation, now: float) -> None:
        for poll in organisation.polls:
            if poll.discovering and poll.list_deadline <= now < poll.deadline:
                self._end_list(poll, Reason.DEADLINE, now)

    def _end_list(self, poll: Poll, failure: Reason | None, now: float) -> None:
        end_list(poll, failure, now, lambda: poll.memory.watch(poll.config, self._batch_files, self._wall_clock()))

    def _leave_out(self, organisation: Organisation, error: PollError, now: float) -> None:
        """Drop all queued requests because of an error."""
        for poll in [poll for poll in organisation.polls if poll.queue]:
            poll.skipped |= error.reason is Reason.SKIPPED
            if poll.discovering:
                self._end_list(poll, error.reason, now)
            poll.leave_out(error, now)

    # How requests are sent.

    def _start_threads(self, organisation: Organisation) -> None:
        """Let as many threads work as there are requests to send, or as the system grants; under the lock."""
        now = self._clock()
        organisation.drop_those_over(now)
        while organisation.threads < organisation.wanted_threads():
            try:
                threading.Thread(target=self._work, args=(organisation,), name="poll", daemon=True).start()
            except RuntimeError:
                # If there are any, they do it all, later.
                if not organisation.threads:
                    logger.error("nothing can be asked: no thread can be started")  # noqa: TRY400  That says it all.
                    self._leave_out(organisation, PollError(Reason.INTERNAL, "no thread can be started"), now)
                return
            organisation.threads += 1

    def _work(self, organisation: Organisation) -> None:
        """Send requests one after the other until there is nothing more to ask."""
        working = True
        try:
            while working:
                working = self._send_next(organisation)
        except Exception as error:  # noqa: BLE001  Logged without its message.
            log_fault(error)
        finally:
            if working:
                with self._lock:
                    organisation.threads -= 1

    def _send_next(self, organisation: Organisation) -> bool:
        """Send the next request and process its answer. Return False, and count the thread out, if there is none."""
        polls_begun = organisation.polls_begun
        credentials = answer_of(organisation.api.read_credentials)
        with self._lock:
            if organisation.polls_begun != polls_begun:
                # They may have been replaced before that poll began.
                return True
            job = self._take(organisation, credentials)
            if job is None:
                organisation.threads -= 1
                return False
        answer: BatchAnswer | BatchPage | PollError = PollError(Reason.INTERNAL)
        try:
            if organisation.trial is job:
                with self._lock:
                    organisation.memory.backoff.begin_trial(self._clock())
            if isinstance(credentials, PollError):
                answer = credentials
            else:
                answer = answer_of(partial(job.request.send, organisation.api, credentials))
        finally:
            with self._lock:
                self._end(organisation, job, answer, credentials)
        return True

    def _take(self, organisation: Organisation, credentials: Credentials | PollError) -> Job | None:
        """Start the next request that the API accepts now. None if there is none."""
        now = self._clock()
        self._end_slow_lists(organisation, now)
        organisation.drop_those_over(now)
        if isinstance(credentials, PollError):
            return organisation.take()
        if organisation.trial is not None:
            # Its answer decides, and starts threads again.
            return None
        backoff = organisation.memory.backoff
        if not backoff.allows(credentials, now):
            self._leave_out(organisation, PollError(Reason.SKIPPED, "the API wants no requests now"), now)
            return None
        job = organisation.take()
        if backoff.tries:
            organisation.trial = job
        return job

    def _end(
        self,
        organisation: Organisation,
        job: Job,
        answer: BatchAnswer | BatchPage | PollError,
        credentials: Credentials | PollError,
    ) -> None:
        """Free what a request held, and hand its answer to all polls that wait for it; under the lock."""
        polls = organisation.end(job)
        try:
            self._learn(job.request, polls, answer, credentials)
        except Exception as error:  # noqa: BLE001  Logged without its message.
            log_fault(error)
            for poll in polls:
                poll.give_up(job.request, PollError(Reason.INTERNAL), self._clock())
        finally:
            self._start_threads(organisation)
            self._error_logs.wake()

    def _learn(
        self,
        request: Request,
        polls: list[Poll],
        answer: BatchAnswer | BatchPage | PollError,
        credentials: Credentials | PollError,
    ) -> None:
        now, wall_now = self._clock(), self._wall_clock()
        learn_of_api(request, polls, answer, credentials, now, wall_now)
        if isinstance(request, AskBatch) and not isinstance(answer, BatchPage):
            if isinstance(answer, BatchAnswer):
                learn_batch(request, polls, Reading(answer.batch, wall_now), now, answer.log_url)
            else:
                learn_batch(request, polls, answer, now)
        elif isinstance(request, AskPage) and not isinstance(answer, BatchAnswer):
            self._learn_page(request, polls, answer, now, wall_now)

    def _learn_page(
        self, request: AskPage, polls: list[Poll], answer: BatchPage | PollError, now: float, wall_now: float
    ) -> None:
        """Go on with the list, or end it."""
        discovery = request.discovery
        more = [] if isinstance(answer, PollError) else discovery.receive(request.page, answer, now, wall_now)
        for poll in polls:
            if not poll.discovering or poll.over(now):
                continue
            if isinstance(answer, PollError):
                self._end_list(poll, answer.reason, now)
            elif discovery.complete:
                self._end_list(poll, Reason.BAD_RESPONSE if discovery.problem else None, now)
            else:
                poll.ask_pages(more)
