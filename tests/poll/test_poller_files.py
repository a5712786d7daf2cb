"""What a scrape does with batch files: both kinds of scrape look at them, and a slow disk costs a part of one."""

import threading
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

from sitecore_cdp_exporter.config.files import MAX_SHARE_OF_A_SCRAPE
from sitecore_cdp_exporter.config.model import ApiConfig, Config
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.snapshot import Snapshot
from sitecore_cdp_exporter.watch.batch_files import BatchFiles
from sitecore_cdp_exporter.watch.watchlist import Source, Watched
from tests.fake_api import MAX_WAIT, Clock, FakeApi, Lists, ref


def make_poller(batch_files: BatchFiles | Lists, clock: Clock) -> Poller:
    config = Config(api=ApiConfig(base_url="https://api.example"))
    return Poller(FakeApi(), config, batch_files, clock=clock, wait=clock.wait)


def watched(snapshot: Snapshot) -> Iterable[Watched]:
    return [state.watched for state in snapshot.batches]


@pytest.mark.parametrize("first", ["poll", "probe"])
def test_probes_look_at_batch_files_as_scrapes_do(tmp_path: Path, clock: Clock, first: str) -> None:
    files = BatchFiles([str(tmp_path / "*.yaml")], tmp_path)
    poller = make_poller(files, clock)
    entry = {"ref": ref(1), "feed": "nightly", "labels": {"team": "crm"}}
    (tmp_path / "today.yaml").write_text(yaml.safe_dump([entry]), encoding="utf-8")
    listed = Watched(ref(1), "nightly", {"team": "crm"}, Source.FILE)
    deadline = clock.now + MAX_WAIT
    if first == "poll":
        assert watched(poller.poll(deadline)) == [listed]
    assert watched(poller.probe(ref(1), deadline)) == [listed]
    entry["labels"] = {"team": "data"}
    (tmp_path / "today.yaml").write_text(yaml.safe_dump([entry]), encoding="utf-8")
    assert watched(poller.probe(ref(1), deadline)) == [Watched(ref(1), "nightly", {"team": "data"}, Source.FILE)]


class SlowLists(Lists):
    """Batch files on a disk that takes as long as it is given, which is noted."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.waited: list[float | None] = []

    def refresh(self, timeout: float | None = None) -> None:
        self.waited.append(timeout)
        self._clock.now += timeout or 0


@pytest.mark.parametrize("kind", ["poll", "probe"])
def test_a_slow_disk_takes_only_a_part_of_the_time(clock: Clock, kind: str) -> None:
    files = SlowLists(clock)
    poller = make_poller(files, clock)
    deadline = clock.now + 8.0
    snapshot = poller.poll(deadline) if kind == "poll" else poller.probe(ref(1), deadline)
    assert files.waited == [8.0 * MAX_SHARE_OF_A_SCRAPE]
    assert all(state.failure is None for state in snapshot.batches)


def test_after_its_deadline_a_scrape_does_not_wait_for_a_disk(clock: Clock) -> None:
    files = SlowLists(clock)
    make_poller(files, clock).poll(clock.now - 1)
    assert files.waited == [0.0]


def test_a_disk_that_hangs_delays_no_scrape_beyond_its_deadline(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = BatchFiles([str(tmp_path / "*.yaml")], tmp_path)
    poller = make_poller(files, clock)
    go_on = threading.Event()
    monkeypatch.setattr(files, "_candidates", lambda _: go_on.wait() and [])
    try:
        assert poller.poll(clock.now + 0.01).batches == ()
        assert watched(poller.probe(ref(1), clock.now + 0.01)) == [Watched(ref(1))]
    finally:
        go_on.set()
