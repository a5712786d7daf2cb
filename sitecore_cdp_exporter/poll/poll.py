"""One poll: the requests it still needs, and the answers so far.

Times are of the monotonic clock, in seconds. No I/O. Not thread-safe: the poller calls it under its own lock.
"""

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.model import Config
from sitecore_cdp_exporter.poll.discovery import Discovery
from sitecore_cdp_exporter.poll.memory import Memory, Record
from sitecore_cdp_exporter.poll.plan import plan
from sitecore_cdp_exporter.poll.reading import Outcome, Reading
from sitecore_cdp_exporter.poll.request import AskBatch, AskPage, Request
from sitecore_cdp_exporter.poll.retention import Kept
from sitecore_cdp_exporter.poll.walk import PageRequest
from sitecore_cdp_exporter.watch.watchlist import Watched

# A scrape joins a poll that started at most this many seconds ago, so its values are no older than that.
MAX_AGE_TO_JOIN = 5.0
# The share of a poll's time that the list of batches may take.
SHARE_OF_THE_LIST = 0.5


@dataclass(eq=False, slots=True, weakref_slot=True)
class Poll:
    """A running poll, with the config that it started with.

    Attributes:
        list_deadline: When to give up on the list, so that time is left for the batches themselves.
        discovering: Whether the list is still being read.
        seen_unfinished: The batches that the list of this poll shows as unfinished.
        totals: The number of listed batches per status. None: the list was not read.
        totals_by_feed: The same for each feed; None has the batches without one.
        revision: The revision of the list when `kept` was decided.
        queue: The requests still to be sent.
        pending: The batches without an answer, by ref in lower case.
        outcomes: The answers, by ref in lower case.
        skipped: Whether requests were skipped because the API accepts none.
        logged: The number of changes logged so far.
        first_answers: The errors of the first answers; None for a success.
        answers: The number of answers.
        troubles: The number of answers from a failing API.

    """

    config: Config
    memory: Memory
    started: float
    deadline: float
    is_probe: bool = False
    discovery: Discovery = field(init=False)
    list_deadline: float = field(init=False)
    discovering: bool = False
    seen_unfinished: Mapping[str, Reading] = field(default_factory=dict)
    list_failure: Reason | None = Reason.DEADLINE
    totals: Mapping[BatchStatus, int] | None = None
    totals_by_feed: Mapping[tuple[str | None, BatchStatus], int] | None = None
    revision: int = 0
    kept: Kept = field(default_factory=Kept)
    records: Mapping[str, Record] = field(default_factory=dict)
    queue: deque[Request] = field(default_factory=deque)
    pending: set[str] = field(default_factory=set)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    skipped: bool = False
    logged: int = 0
    first_answers: list[PollError | None] = field(default_factory=list)
    answers: int = 0
    troubles: int = 0
    ended: float | None = None
    finished: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.discovery = self.memory.discovery
        self.list_deadline = self.started + (self.deadline - self.started) * SHARE_OF_THE_LIST

    # Requests.

    def show(self, kept: Kept) -> None:
        """Set the batches to poll and show."""
        self.kept = kept
        self.records = self.memory.records_of(kept)
        self.revision = self.discovery.revision

    def begin_discovery(self) -> None:
        """Request the list of batches first."""
        self.discovering = True
        self.ask_pages(self.discovery.begin(self.started))
        self.seen_unfinished = self.discovery.seen_unfinished

    def ask_pages(self, pages: Iterable[PageRequest]) -> None:
        """Request pages of the list."""
        self.queue.extend(AskPage(self.discovery, page) for page in pages)

    def end_discovery(self, failure: Reason | None) -> None:
        """Stop reading the list, which is complete or has failed."""
        self.discovering = False
        self.list_failure = failure
        self.totals = self.discovery.totals if failure is None else None
        self.queue.clear()

    def begin_probe(self, ref: str) -> None:
        """Show one batch, listed or not, and request it if it is due."""
        key = ref.lower()
        self.is_probe = True
        self.kept = Kept({key: self.memory.watched.get(key) or Watched(ref)})
        self.records = {key: self.memory.probed_record(key)}
        self._ask_due(self.started, last_request=self.started)

    def ask_batches(self, now: float) -> None:
        """Request every batch that is due."""
        self._ask_due(now, last_request=self.memory.last_request)

    def _ask_due(self, now: float, *, last_request: float) -> None:
        due = plan(
            self.records,
            self.discovery.known,
            self.seen_unfinished,
            now=now,
            last_request=last_request,
            longest_ago_first=self.memory.backoff.tries,
        )
        due += [key for key in self.memory.error_logs.wanted(self.records, now) if key not in due]
        for key in due:
            listed = self.listed(key)
            # In the case that the API uses, if known, otherwise as listed here.
            ref = self.kept.watched[key].ref if listed is None else listed.ref
            self.queue.append(AskBatch(key, ref, listed))
            self.pending.add(key)
        self.finish_if_done(now)

    # Answers.

    def wants(self, request: Request) -> bool:
        """Return whether the poll still needs the answer to a request."""
        if isinstance(request, AskBatch):
            return request.key in self.pending
        return self.discovering and request.discovery is self.discovery and self.discovery.wants(request.page)

    def note(self, key: str, outcome: Outcome, now: float) -> None:
        """Record the outcome of a batch."""
        self.outcomes[key] = outcome
        self.pending.discard(key)
        self.finish_if_done(now)

    def leave_out(self, error: PollError, now: float) -> None:
        """Drop all queued requests, recording this error for each."""
        while self.queue:
            self.give_up(self.queue.popleft(), error, now)

    def give_up(self, request: Request, error: PollError, now: float) -> None:
        """Stop waiting for the answer to a request."""
        if isinstance(request, AskBatch):
            self.note(request.key, error, now)
        elif self.discovering:
            self.end_discovery(error.reason)
            self.finish_if_done(now)

    def finish_if_done(self, now: float) -> None:
        """End the poll once no answers are missing."""
        if not self.discovering and not self.pending and self.ended is None:
            self.ended = now
            self.finished.set()

    def over(self, now: float) -> bool:
        """Return whether it has finished, or reached its deadline."""
        return self.finished.is_set() or now >= self.deadline

    def may_be_joined(self, now: float) -> bool:
        """Return whether a scrape may join it. Otherwise overlapping scrapes could extend one poll indefinitely."""
        return not self.over(now) and now < (self.list_deadline if self.discovering else self.started + MAX_AGE_TO_JOIN)

    def is_unread(self, key: str) -> bool:
        """Return whether the list shows a batch as finished while its details are still unread."""
        listed = self.discovery.known.get(key)
        return listed is not None and listed.batch.status.finished and not self.records[key].is_read(listed.batch)

    def listed(self, key: str) -> Batch | None:
        """Return the last entry of a batch in the list."""
        reading = self.discovery.known.get(key)
        return None if reading is None else reading.batch
