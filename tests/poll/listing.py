"""Shared by the tests of the API's list: an API that lists batches, and a poller that reads the list."""

from typing import Any

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.config.model import Config
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.snapshot import BatchState, Snapshot
from tests.fake_api import MAX_WAIT, Clock, FakeApi, Lists, ref
from tests.poll.polling import NOW, new_poller

API = {"base_url": "https://api.example", "endpoint": "inspect"}


def make_config(**changes: Any) -> Config:  # noqa: ANN401  Sections of the config file.
    return Config.model_validate({"api": API, "discovery": {"enabled": True}, **changes})


def make_poller(api: FakeApi, clock: Clock, lists: Lists | None = None, **changes: Any) -> Poller:  # noqa: ANN401  Likewise.
    return new_poller(api, make_config(**changes), clock, lists)


def put(
    api: FakeApi,
    number: int,
    status: BatchStatus = BatchStatus.SUCCESS,
    *,
    age: float = 60.0,
    total: int = 100,
    failed: int = 0,
    prefix: str = "",
) -> str:
    """Put a batch into the API, in its list and by itself, replacing any with this number."""
    key = prefix + ref(number)[len(prefix) :]
    moment = NOW - age
    listed = Batch(ref=key, status=status, created=moment, modified=moment)
    api.listed = [listed] + [batch for batch in api.listed if batch.ref != key]
    api.answers[key] = Batch(
        ref=key,
        status=status,
        error_log_available=False,
        total_records=total,
        failed_records=failed,
        created=moment,
        # The batch's own answer is rounded differently from the list.
        modified=moment + 0.001,
    )
    return key


def poll(poller: Poller, clock: Clock) -> Snapshot:
    clock.now += 15
    return poller.poll(clock.now + MAX_WAIT)


def by_ref(snapshot: Snapshot) -> dict[str, BatchState]:
    states = {state.watched.ref: state for state in snapshot.batches}
    assert len(states) == len(snapshot.batches), "a batch appears once"
    return states


def requests_of(api: FakeApi) -> int:
    requests = api.pages + len(api.take_asked())
    api.pages = 0
    return requests
