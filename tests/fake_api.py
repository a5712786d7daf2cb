"""A stand-in for `api.BatchApi` whose answers a test decides, and a clock that a test moves."""

import threading
from collections import Counter
from collections.abc import Iterable, Mapping

from sitecore_cdp_exporter.api import Credentials, CredentialsError
from sitecore_cdp_exporter.batch import Batch, BatchStatus

LONGEST_WAIT = 30.0


def ref(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


def batch(number: int, status: BatchStatus = BatchStatus.PROCESSING, *, total: int | None = None) -> Batch:
    return Batch(ref=ref(number), status=status, error_log_available=False, total_records=total)


class Clock:
    """A monotonic clock that stands still until it is told the time."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeApi:
    """Answers as told, and remembers what it was asked.

    `answers` maps a ref to a Batch or an exception; what is missing is a batch in processing. While `open` is cleared
    no answer leaves.
    """

    def __init__(self, answers: Mapping[str, Batch | Exception] | None = None) -> None:
        self.answers: dict[str, Batch | Exception] = dict(answers or {})
        self.credentials: Credentials | CredentialsError = Credentials("client", "token")
        self.open = threading.Event()
        self.open.set()
        self.asked: list[str] = []
        self.most_at_once = 0
        self._at_once = 0
        self._changed = threading.Condition()

    def read_credentials(self) -> Credentials:
        if isinstance(self.credentials, CredentialsError):
            raise self.credentials
        return self.credentials

    def read_batch(self, ref: str, credentials: Credentials) -> Batch:
        assert credentials == self.credentials
        with self._changed:
            self.asked.append(ref)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            self._changed.notify_all()
        try:
            assert self.open.wait(LONGEST_WAIT)
        finally:
            with self._changed:
                self._at_once -= 1
        answer = self.answers.get(ref, Batch(ref=ref, status=BatchStatus.PROCESSING, error_log_available=False))
        if isinstance(answer, Exception):
            raise answer
        return answer

    def wait_until_asked(self, refs: Iterable[str]) -> None:
        wanted = Counter(refs)
        with self._changed:
            assert self._changed.wait_for(lambda: Counter(self.asked) >= wanted, LONGEST_WAIT)

    def wait_until_at_once(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._at_once >= count, LONGEST_WAIT)

    def take_asked(self) -> list[str]:
        """Return what was asked since the last call."""
        with self._changed:
            asked, self.asked = self.asked, []
        return asked
