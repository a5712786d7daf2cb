"""Poll the watch list: share polls between scrapes, and send their requests from a bounded number of threads.

With discovery, a poll first reads the API's list of batches. Then it requests every unfinished batch that is not in the
list, and finished ones whose details are unread. If the list takes more than half of the poll's time, it counts as
failed for this poll, so that there is time to request the batches themselves. Up to `api.concurrency` threads send the
requests, and exit when there are none left. Overlapping scrapes share one poll. Requests outlive their poll: a later
poll that needs the same batch waits for the one in flight instead of sending another.
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
        config: The config.
        batch_files: The batches listed in files.
        clock: A monotonic clock, in seconds.
        wall_clock: Seconds since the Unix epoch.
        wait: Waits for an event, until a time of the clock at the latest. None: `clock` is the machine's.

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
        # Guards everything below, including polls, queues and memories.
        self._lock = threading.Lock()
        self._config = config
        self._batch_files = batch_files
        self._counter = BatchCounter(Totals(), wall_clock())
        self._turn_to(api)
        self._current: Poll | None = None
        self._latest: Snapshot | None = None
        # Polls with waiting scrapes, which `stop` ends.
        self._polls: weakref.WeakSet[Poll] = weakref.WeakSet()
        self._stopped = False
        self._watch(self._organisation.memory)

    def poll(self, deadline: float) -> Snapshot:
        """Poll the watch list, or join the running poll. Return by `deadline` with what is known by then.

        Args:
            deadline: A time of the monotonic clock.

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
        """Poll one batch, listed or not, by `deadline`. A listed batch keeps its feed and labels.

        Args:
            ref: The ref of the batch.
            deadline: A time of the monotonic clock.

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
        """The snapshot of the last finished poll, or None before the first."""
        return self._latest

    @property
    def config(self) -> Config:
        """The config that applies from the next poll on."""
        return self._config

    @property
    def watched(self) -> Mapping[str, Watched]:
        """All listed batches, by ref in lower case, including those past their retention."""
        return self._organisation.memory.watched

    def reconfigure(self, api: BatchReader, config: Config) -> None:
        """Use another config from the next poll on. A running poll keeps the one it started with.

        What has been read is remembered, unless the config is for another organisation.
        """
        with self._lock:
            self._config = config
            if self._organisation.memory.is_of(config):
                self._organisation.api = api
            else:
                # A running poll keeps the old organisation. No scrape may join it, and no probe may use its results.
                self._counter.begin_another_organisation(self._wall_clock())
                self._turn_to(api)
                self._current = self._latest = None
            if self._current is None or self._current.over(self._clock()):
                self._watch(self._organisation.memory)

    def stop(self) -> None:
        """End every poll now. Waiting scrapes return with what is known; requests in flight end by themselves."""
        with self._lock:
            self._stopped = True
            for poll in self._polls:
                poll.finished.set()

    def _look_at_files(self, deadline: float) -> None:
        """Read the batch files. A slow disk may take a share of the time until the deadline."""
        self._batch_files.refresh(max(deadline - self._clock(), 0) * MAX_SHARE_OF_A_SCRAPE)

    # Start and end of polls. Called under the lock, unless noted.

    def _turn_to(self, api: BatchReader) -> None:
        """Poll the organisation of the config, and remember nothing of another one but what has counted."""
        self._organisation = Organisation(api, Memory(self._config, self._counter, self._clock()))
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
        """Update the watch list."""
        self._watched_files = self._batch_files.batches
        return memory.watch(self._config, self._batch_files, self._wall_clock())

    def _send_for(self, organisation: Organisation, poll: Poll) -> None:
        """Send the requests of a poll, taking turns with other polls."""
        self._polls.add(poll)
        if self._stopped:
            poll.finished.set()
        organisation.add(poll)
        self._start_threads(organisation)

    def _wait_for(self, organisation: Organisation, poll: Poll, deadline: float) -> Snapshot:
        """Return the results of a poll by the deadline. Takes the lock itself."""
        self._wait(poll.finished, deadline)
        with self._lock:
            now = self._clock()
            organisation.leave(poll)
            if not poll.is_probe:
                judge_api(poll, now, over=poll.over(now) and not self._stopped)
                note_complete(poll, now, self._wall_clock())
                poll.memory.count(poll.config, poll.started)
            return take_snapshot(poll, now, self._wall_clock())

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

    # Requests.

    def _start_threads(self, organisation: Organisation) -> None:
        """Start as many threads as there is work for and the system allows. Called under the lock."""
        now = self._clock()
        organisation.drop_those_over(now)
        while organisation.threads < organisation.wanted_threads():
            try:
                threading.Thread(target=self._work, args=(organisation,), name="poll", daemon=True).start()
            except RuntimeError:
                # If any are running, they will send everything, later.
                if not organisation.threads:
                    logger.error("cannot send requests: no thread can be started")  # noqa: TRY400  A traceback would add nothing.
                    self._leave_out(organisation, PollError(Reason.INTERNAL, "no thread can be started"), now)
                return
            organisation.threads += 1

    def _work(self, organisation: Organisation) -> None:
        """Send requests, one after the other, until there are none left."""
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
                # Another poll has started since, so read the credentials again: they may have been replaced.
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
            # Wait for its answer, which starts threads again.
            return None
        backoff = organisation.memory.backoff
        if not backoff.allows(credentials, now):
            self._leave_out(organisation, PollError(Reason.SKIPPED, "the API accepts no requests now"), now)
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
        """Free what a request held, and pass its answer to all polls that need it. Called under the lock."""
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
        """Continue with the list, or end it."""
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
