"""The batches of the sandbox, and the states they go through. Pure: no I/O, and the clock is injected."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from threading import Lock

from sitecore_cdp_exporter.sandbox.records import ImportResult

# How long an upload URL stays valid, as documented.
UPLOAD_URL_LIFETIME = timedelta(hours=1)
# The list contains the batches of the past 30 days, as documented.
LISTED_FOR = timedelta(days=30)
# How long a file waits in the queue, and how long it is processed, at speed 1. Long enough that a scrape every
# 15 seconds sees each state.
QUEUE_TIME = timedelta(seconds=15)
PROCESSING_TIME = timedelta(seconds=25)
# Beyond this many, allocating a batch forgets the oldest, to bound the memory of a long demo.
MAX_BATCHES = 10_000


@dataclass(frozen=True, kw_only=True)
class State:
    """The state of a batch from `since` on. `stats` is `summaryStats`; `error_log` is the gzipped log."""

    status: str
    since: datetime
    stats: Mapping[str, int] = field(default_factory=dict)
    error_log: bytes | None = None


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch. `states` are ordered by time, and include future ones."""

    ref: str
    checksum: str
    size: int | None
    created_at: datetime
    states: tuple[State, ...]

    @property
    def upload_expiry(self) -> datetime:
        """When the upload URL expires."""
        return self.created_at + UPLOAD_URL_LIFETIME

    def state_at(self, now: datetime) -> State:
        """Return the latest state that has started."""
        begun = [state for state in self.states if state.since <= now]
        return begun[-1] if begun else self.states[0]


class Batches:
    """All batches by ref. Thread-safe.

    `clock` returns the time with its zone. `speed` divides how long a file is queued and processed.
    """

    def __init__(self, *, clock: Callable[[], datetime], speed: float) -> None:
        self.now = clock
        self._queue_time = QUEUE_TIME / speed
        self._processing_time = PROCESSING_TIME / speed
        self._batches: dict[str, Batch] = {}
        self._lock = Lock()

    def allocate(self, *, ref: str, checksum: str, size: int) -> Batch | None:
        """Add a batch that waits for its file. Return None if the ref is taken: refs cannot be reused."""
        now = self.now()
        uploading = State(status="uploading", since=now)
        batch = Batch(ref=ref, checksum=checksum, size=size, created_at=now, states=(uploading,))
        with self._lock:
            if ref in self._batches:
                return None
            if len(self._batches) >= MAX_BATCHES:
                del self._batches[next(iter(self._batches))]
            self._batches[ref] = batch
        return batch

    def receive_file(self, ref: str) -> Batch | None:
        """Queue a batch whose file has arrived. Return None if it is not waiting for one."""
        now = self.now()
        queued = State(status="file_uploaded", since=now)
        processing = State(status="processing", since=now + self._queue_time)
        with self._lock:
            batch = self._batches.get(ref)
            if batch is None or [state.status for state in batch.states] != ["uploading"]:
                return None
            received = replace(batch, states=(*batch.states, queued, processing))
            self._batches[ref] = received
        return received

    def finish(self, batch: Batch, result: ImportResult) -> None:
        """Add the final state of a batch from `receive_file`, unless it has been removed or replaced."""
        started = batch.states[-1].since
        ended = max(started + self._processing_time, self.now())
        stats = {}
        if result.total is not None and result.failed is not None:
            stats = {
                "timeToProcessMillis": round((ended - started) / timedelta(milliseconds=1)),
                "totalCount": result.total,
                "succeededCount": result.total - result.failed,
                "failedCount": result.failed,
            }
        final = State(status=result.status, since=ended, stats=stats, error_log=result.error_log)
        with self._lock:
            if self._batches.get(batch.ref) is batch:
                self._batches[batch.ref] = replace(batch, states=(*batch.states, final))

    def place(self, batch: Batch) -> None:
        """Add a batch, replacing any with the same ref."""
        with self._lock:
            self._batches[batch.ref] = batch

    def remove(self, ref: str) -> None:
        """Remove a batch, if it exists."""
        with self._lock:
            self._batches.pop(ref, None)

    def get(self, ref: str) -> Batch | None:
        """Return the batch with this ref, or None."""
        return self._batches.get(ref)

    def page(
        self, *, statuses: Collection[str], created_before: datetime | None, offset: int, limit: int
    ) -> tuple[int, list[tuple[Batch, State]]]:
        """Count the matching batches of the past 30 days, and return one page of them, newest first.

        No `statuses` means any. Of batches created at the same time, the one added last comes first.
        """
        now = self.now()
        with self._lock:
            batches = list(self._batches.values())
        matching = [
            (batch, state)
            for batch, state in ((batch, batch.state_at(now)) for batch in reversed(batches))
            if batch.created_at > now - LISTED_FOR
            and (created_before is None or batch.created_at < created_before)
            and (not statuses or state.status in statuses)
        ]
        matching.sort(key=lambda item: item[0].created_at, reverse=True)
        return len(matching), matching[offset : offset + limit]
