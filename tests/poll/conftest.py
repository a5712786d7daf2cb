from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from sitecore_cdp_exporter.poll.poller import Poller
from tests.fake_api import Clock, FakeApi, Lists
from tests.poll.polling import make_poller


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
