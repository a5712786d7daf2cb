"""Shared by the tests of the poller: pollers on a clock that the tests move."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.api.errors import Reason
from sitecore_cdp_exporter.config.model import ApiConfig, Config, WatchedBatch
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.request import BatchReader
from sitecore_cdp_exporter.poll.snapshot import Snapshot
from tests.fake_api import MAX_WAIT, Clock, FakeApi, Lists, ref

DAY = 86400.0
NOW = 1.75e9


def new_poller(
    api: BatchReader,
    config: Config,
    clock: Clock,
    lists: Lists | None = None,
    *,
    wall_clock: Callable[[], float] = lambda: NOW,
) -> Poller:
    return Poller(api, config, lists or Lists(), clock=clock, wall_clock=wall_clock, wait=clock.wait)


def make_poller(
    api: FakeApi,
    watchlist: Lists,
    clock: Clock,
    *,
    concurrency: int = 1,
    recheck_finished: float = DAY,
) -> Poller:
    config = Config(
        api=ApiConfig(base_url="https://api.example", concurrency=concurrency), recheck_finished=recheck_finished
    )
    return new_poller(api, config, clock, watchlist)


def watch(watchlist: Lists, *numbers: int) -> None:
    watchlist.replace(WatchedBatch(ref=ref(number)) for number in numbers)


def poll(poller: Poller, clock: Clock, seconds: float = MAX_WAIT) -> Snapshot:
    return poller.poll(clock.now + seconds)


class Scrape:
    """A poll or probe in the background. It ends when everything is answered, or the clock reaches its deadline."""

    def __init__(self, background: ThreadPoolExecutor, clock: Clock, scrape: Callable[[float], Snapshot]) -> None:
        self._clock = clock
        self._deadline = clock.now + MAX_WAIT
        self._result = background.submit(scrape, self._deadline)

    def result(self) -> Snapshot:
        return self._result.result(MAX_WAIT)

    def out_of_time(self) -> Snapshot:
        """Move the clock to the deadline, and return the snapshot."""
        self._clock.now = self._deadline
        return self.result()


class Hold(Protocol):
    """Starts a scrape that waits for the answers of these batches."""

    def __call__(self, scrape: Callable[[float], Snapshot], *numbers: int) -> Scrape: ...


def failures(snapshot: Snapshot) -> list[Reason | None]:
    return [state.failure for state in snapshot.batches]


def statuses(snapshot: Snapshot) -> list[BatchStatus | None]:
    return [state.reading.batch.status if state.reading else None for state in snapshot.batches]


def poll_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "poll"]


def wait_for_poll_threads_to_end() -> None:
    for thread in poll_threads():
        thread.join(MAX_WAIT)
    assert not poll_threads()
