"""A probe polls one batch, listed or not."""

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.model import WatchedBatch
from sitecore_cdp_exporter.poll.memory import MAX_REMEMBERED_PROBES
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.watch.watchlist import Source, Watched
from tests.conditions import wait_until
from tests.fake_api import MAX_WAIT, Clock, FakeApi, Lists, ref
from tests.poll.polling import (
    Hold,
    Scrape,
    failures,
    make_poller,
    poll,
    statuses,
    watch,
)


class TestProbes:
    def test_a_probe_requests_one_batch(self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock) -> None:
        watch(watchlist, 1, 2)
        snapshot = poller.probe(ref(7), clock.now + MAX_WAIT)
        assert [state.watched for state in snapshot.batches] == [Watched(ref(7))]
        assert statuses(snapshot) == [BatchStatus.PROCESSING]
        assert api.take_asked() == [ref(7)]

    def test_a_probe_of_a_listed_batch_has_its_labels_and_its_memory(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        listed = WatchedBatch(ref=ref(10), feed="nightly-guests", labels={"team": "crm"})
        watchlist.replace([listed])
        api.answer(BatchStatus.SUCCESS, 10)
        poll(poller, clock)
        snapshot = poller.probe(ref(10).upper(), clock.now + MAX_WAIT)
        assert snapshot.batches[0].watched == Watched(ref(10), "nightly-guests", {"team": "crm"}, Source.FILE)
        assert statuses(snapshot) == [BatchStatus.SUCCESS]
        assert api.take_asked() == [ref(10)]

    def test_a_finished_batch_is_remembered_from_probe_to_probe(
        self, poller: Poller, api: FakeApi, clock: Clock
    ) -> None:
        api.answer(BatchStatus.SUCCESS, 1)
        for _ in range(3):
            assert statuses(poller.probe(ref(1), clock.now + MAX_WAIT)) == [BatchStatus.SUCCESS]
        assert api.take_asked() == [ref(1)]

    def test_failures_of_unlisted_batches_are_not_logged(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        watch(watchlist, 1)
        poll(poller, clock)
        caplog.set_level(logging.INFO)
        for number in (1, 2):
            api.answer(PollError.of_status(404), number)
            poller.probe(ref(number), clock.now + MAX_WAIT)
        api.answers.clear()
        for number in (1, 2):
            poller.probe(ref(number), clock.now + MAX_WAIT)
        logged = [(record.getMessage(), vars(record)["ref"]) for record in caplog.records]
        assert logged == [("a batch cannot be read: HTTP status 404", ref(1)), ("a batch can be read again", ref(1))]

    def test_a_failure_seen_by_a_probe_is_logged_once_the_batch_is_listed(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        poll(poller, clock)
        caplog.set_level(logging.WARNING)
        api.answer(PollError.of_status(404), 1)
        poller.probe(ref(1), clock.now + MAX_WAIT)
        watch(watchlist, 1)
        for _ in range(3):
            poll(poller, clock)
        assert [record.getMessage() for record in caplog.records] == ["a batch cannot be read: HTTP status 404"]

    def test_the_ref_probed_longest_ago_is_forgotten_beyond_a_thousand(
        self, poller: Poller, api: FakeApi, clock: Clock
    ) -> None:
        api.answer(BatchStatus.SUCCESS, *range(MAX_REMEMBERED_PROBES + 1))
        for number in range(MAX_REMEMBERED_PROBES + 1):
            poller.probe(ref(number), clock.now + MAX_WAIT)
        api.take_asked()
        poller.probe(ref(1), clock.now + MAX_WAIT)
        poller.probe(ref(0), clock.now + MAX_WAIT)
        assert api.take_asked() == [ref(0)]

    def test_a_probe_never_changes_whether_the_api_is_up(
        self, poller: Poller, api: FakeApi, watchlist: Lists, clock: Clock
    ) -> None:
        api.answer(PollError(Reason.CONNECTION), 1)
        assert poller.probe(ref(1), clock.now + MAX_WAIT).api_up is None
        watch(watchlist, 2)
        assert poll(poller, clock).api_up is True
        assert poller.probe(ref(1), clock.now + MAX_WAIT).api_up is True

    def test_a_probe_waits_for_the_request_of_the_same_batch(
        self, api: FakeApi, watchlist: Lists, clock: Clock, background: ThreadPoolExecutor, hold: Hold
    ) -> None:
        poller = make_poller(api, watchlist, clock, concurrency=4)
        watch(watchlist, 1)
        scrape = hold(poller.poll, 1)
        assert failures(poller.probe(ref(1), clock.now)) == [Reason.DEADLINE]
        probe = Scrape(background, clock, partial(poller.probe, ref(1)))
        wait_until(lambda: len(poller._polls) == 2)
        api.open.set()
        assert failures(scrape.result()) == failures(probe.result()) == [None]
        assert api.take_asked() == [ref(1)]
