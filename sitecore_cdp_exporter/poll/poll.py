"""One poll: what it still asks for, and what was answered.

Moments are of the monotonic clock, in seconds. No I/O and no lock: the poller calls it under its own lock.
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

# A scrape joins a poll that began at most this many seconds ago, so what it shows is no older than that.
MAX_AGE_TO_JOIN = 5.0
# The share of a poll's time that the list of batches may take.
SHARE_OF_THE_LIST = 0.5


@dataclass(eq=False, slots=True, weakref_slot=True)
class Poll:
    """A poll under way, with the config that it began with.

    Attributes:
        list_deadline: When the list has failed for this poll, so that time is left for the batches themselves.
        discovering: Whether the list is still being read.
        seen_unfinished: What the list of this very poll showed to be unfinished.
        totals: How many batches of the list have each status; None: it was not read.
        totals_by_feed: Likewise of each feed; None has those without one.
        revision: What was known of the list when `kept` was decided.
        queue: What is still to be asked.
        pending: The batches still to be answered, by ref in lower case.
        outcomes: What was answered, by ref in lower case.
        skipped: Whether something was not asked because the API wants no requests.
        logged: How many changes of batches it has logged.
        first_answers: The first answers, as their errors; None is a success.
        answers: How many there were.
        troubles: How many of them were those of an API in trouble.

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

    # What it asks for.

    def show(self, kept: Kept) -> None:
        """Poll and show these batches."""
        self.kept = kept
        self.records = self.memory.records_of(kept)
        self.revision = self.discovery.revision

    def begin_discovery(self) -> None:
        """Ask for the list of batches first."""
        self.discovering = True
        self.ask_pages(self.discovery.begin(self.started))
        self.seen_unfinished = self.discovery.seen_unfinished

    def ask_pages(self, pages: Iterable[PageRequest]) -> None:
        """Ask for pages of the list."""
        self.queue.extend(AskPage(self.discovery, page) for page in pages)

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
        self.kept = Kept({key: self.memory.watched.get(key) or Watched(ref)})
        self.records = {key: self.memory.probed_record(key)}
        self._ask_due(self.started, last_request=self.started)

    def ask_batches(self, now: float) -> None:
        """Ask for every batch that is due."""
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
            # As the API writes it, or else as it is listed here.
            ref = self.kept.watched[key].ref if listed is None else listed.ref
            self.queue.append(AskBatch(key, ref, listed))
            self.pending.add(key)
        self.finish_if_done(now)

    # What was answered.

    def wants(self, request: Request) -> bool:
        """Return whether a request still has to be answered."""
        if isinstance(request, AskBatch):
            return request.key in self.pending
        return self.discovering and request.discovery is self.discovery and self.discovery.wants(request.page)

    def note(self, key: str, outcome: Outcome, now: float) -> None:
        """Take the outcome of a batch."""
        self.outcomes[key] = outcome
        self.pending.discard(key)
        self.finish_if_done(now)

    def leave_out(self, error: PollError, now: float) -> None:
        """Drop the requests for all batches that are still missing."""
        while self.queue:
            self.give_up(self.queue.popleft(), error, now)

    def give_up(self, request: Request, error: PollError, now: float) -> None:
        """Wait for an answer no more."""
        if isinstance(request, AskBatch):
            self.note(request.key, error, now)
        elif self.discovering:
            self.end_discovery(error.reason)
            self.finish_if_done(now)

    def finish_if_done(self, now: float) -> None:
        """End when nothing is left to be answered."""
        if not self.discovering and not self.pending and self.ended is None:
            self.ended = now
            self.finished.set()

    def over(self, now: float) -> bool:
        """Return whether it has ended, or its time has."""
        return self.finished.is_set() or now >= self.deadline

    def may_be_joined(self, now: float) -> bool:
        """Return whether a scrape may join it. Otherwise overlapping scrapes could extend one poll indefinitely."""
        return not self.over(now) and now < (self.list_deadline if self.discovering else self.started + MAX_AGE_TO_JOIN)

    def is_unread(self, key: str) -> bool:
        """Return whether the list shows a batch to be finished whose details are still to be read."""
        listed = self.listed(key)
        return listed is not None and listed.status.finished and not self.records[key].is_read(listed)

    def listed(self, key: str) -> Batch | None:
        """Return what the list last said of a batch."""
        reading = self.discovery.known.get(key)
        return None if reading is None else reading.batch
