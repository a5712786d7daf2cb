from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.snapshot import Snapshot
from tests.fake_api import Clock, FakeApi, Lists, ref
from tests.poll.polling import Hold, Scrape, make_poller


@pytest.fixture
def api() -> Iterator[FakeApi]:
    api = FakeApi()
    yield api
    api.open.set()


@pytest.fixture
def watchlist() -> Lists:
    return Lists()


@pytest.fixture
def poller(api: FakeApi, watchlist: Lists, clock: Clock) -> Poller:
    return make_poller(api, watchlist, clock)


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(32) as executor:
        yield executor


@pytest.fixture
def hold(api: FakeApi, clock: Clock, background: ThreadPoolExecutor) -> Hold:
    """Start a scrape, and return once these batches are requested. Answers wait until `api.open` is set."""

    def hold(scrape: Callable[[float], Snapshot], *numbers: int) -> Scrape:
        api.open.clear()
        begun = Scrape(background, clock, scrape)
        api.wait_until_asked(map(ref, numbers))
        return begun

    return hold
