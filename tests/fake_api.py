"""A stand-in for `api.BatchApi` whose answers a test decides, and a clock that a test moves."""

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from sitecore_cdp_exporter.api.batch import Batch, BatchAnswer, BatchPage, BatchStatus
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.error_log import ErrorLog, LogReading
from sitecore_cdp_exporter.api.error_log_url import LogUrl
from sitecore_cdp_exporter.api.errors import PollError
from sitecore_cdp_exporter.config.model import WatchedBatch
from tests.conditions import wait_until

MAX_WAIT = 30.0


def ref(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def batch(number: int, status: BatchStatus = BatchStatus.PROCESSING, *, total: int | None = None) -> Batch:
    return Batch(ref=ref(number), status=status, error_log_available=False, total_records=total)


class Lists:
    """Batch files whose content a test decides."""

    def __init__(self) -> None:
        self.batches: Mapping[str, WatchedBatch] = {}

    def replace(self, batches: Iterable[WatchedBatch]) -> None:
        self.batches = {batch.ref.lower(): batch for batch in batches}

    def refresh(self, timeout: float | None = None) -> None:
        """There is nothing to look at."""


class Clock:
    """A monotonic clock that stands still until a test moves it. It never meets the clock of the machine."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, event: threading.Event, moment: float) -> None:
        """Wait for an event, or until a test has moved the clock to this moment. A time limit ends a hopeless wait."""
        give_up = time.monotonic() + 2 * MAX_WAIT
        while not event.wait(0.002) and self.now < moment:
            assert time.monotonic() < give_up, "nothing happens, and nobody moves the clock"


class FakeApi:
    """Returns the configured answers, and records the requests.

    `answers` maps a ref to a Batch or an exception; what is missing is a batch in processing. `listed` is what the list
    of batches shows, in pages of at most `largest_page`. While `open` is cleared no answer leaves, and while a ref is
    in `shut`, not its.
    """

    def __init__(self, answers: Mapping[str, Batch | Exception] | None = None) -> None:
        self.answers: dict[str, Batch | Exception] = dict(answers or {})
        self.credentials: Credentials | PollError = Credentials("client", "token")
        self.listed: list[Batch] = []
        self.list_error: PollError | None = None
        self.largest_page = 100
        self.pages = 0
        self.shut: set[str] = set()
        self.open = threading.Event()
        self.open.set()
        self.asked: list[str] = []
        # What is read of the error log of a batch, by its ref; what is missing is a log without records.
        self.logs: dict[str, LogReading | None] = {}
        self.logs_asked: list[str] = []
        self.logs_open = threading.Event()
        self.logs_open.set()
        self.max_at_once = 0
        self._at_once = 0
        self._changed = threading.Condition()

    def answer(self, outcome: BatchStatus | Exception, *numbers: int) -> None:
        """Set the outcome of requests for these batches."""
        for number in numbers:
            self.answers[ref(number)] = batch(number, outcome) if isinstance(outcome, BatchStatus) else outcome

    def read_credentials(self) -> Credentials:
        if isinstance(self.credentials, PollError):
            raise self.credentials
        return self.credentials

    def read_batch(self, ref: str, credentials: Credentials) -> BatchAnswer:
        assert credentials == self.credentials
        with self._under_way(ref):
            wait_until(lambda: ref not in self.shut)
        answer = self.answers.get(ref, Batch(ref=ref, status=BatchStatus.PROCESSING, error_log_available=False))
        if isinstance(answer, Exception):
            raise answer
        return BatchAnswer(answer, LogUrl(f"https://{ref}.example/") if answer.error_log_available else None)

    def read_page(
        self, statuses: tuple[BatchStatus, ...], offset: int, limit: int, credentials: Credentials
    ) -> BatchPage:
        assert credentials == self.credentials
        with self._under_way(None):
            self.pages += 1
        if self.list_error is not None:
            raise self.list_error
        matching = [batch for batch in self.listed if batch.status in statuses]
        page = matching[offset : offset + min(limit, self.largest_page)]
        return BatchPage(len(matching), len(page), tuple(page))

    def read_error_log(self, url: LogUrl, seconds: float) -> LogReading | None:
        assert seconds > 0
        assert self.logs_open.wait(MAX_WAIT)
        self.logs_asked.append(url.host.removesuffix(".example"))
        return self.logs.get(self.logs_asked[-1], LogReading(ErrorLog({})))

    @contextmanager
    def _under_way(self, ref: str | None) -> Iterator[None]:
        """Be a request that lasts until answers may leave."""
        with self._changed:
            if ref is not None:
                self.asked.append(ref)
            self._at_once += 1
            self.max_at_once = max(self.max_at_once, self._at_once)
            self._changed.notify_all()
        try:
            assert self.open.wait(MAX_WAIT)
            yield
        finally:
            with self._changed:
                self._at_once -= 1

    def wait_until_asked(self, refs: Iterable[str]) -> None:
        wanted = Counter(refs)
        with self._changed:
            assert self._changed.wait_for(lambda: Counter(self.asked) >= wanted, MAX_WAIT)

    def wait_until_at_once(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._at_once >= count, MAX_WAIT)

    def take_asked(self) -> list[str]:
        """Return what was asked since the last call."""
        with self._changed:
            asked, self.asked = self.asked, []
        return asked
