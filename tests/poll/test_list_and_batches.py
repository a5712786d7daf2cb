"""What a poll makes of a list that is slow, of lists and batches that disagree, and of batches at the edges."""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchAnswer, BatchPage, BatchStatus
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.model import WatchedBatch
from sitecore_cdp_exporter.poll.feed_totals import SECONDS_BEFORE_THE_START
from sitecore_cdp_exporter.poll.plan import SECONDS_BETWEEN_REFUSED_DETAILS
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.snapshot import Snapshot
from tests.conditions import wait_until
from tests.fake_api import MAX_WAIT, Clock, FakeApi, Lists, ref
from tests.poll.listing import by_ref, make_config, make_poller, poll, put, requests_of
from tests.poll.polling import DAY, NOW, new_poller

RATIO_FEED = [{"name": "guests", "ref_prefix": "5a0c2f0e", "max_failed_ratio": 0.1}]


class SlowApi(FakeApi):
    """Moves the clock with each answer, by so many seconds.

    While `list_open` is cleared it answers no request for the list, and while `rest_open` is, none for its later pages.
    """

    def __init__(self, clock: Clock, *, page_pause: float = 0.0, batch_pause: float = 0.0) -> None:
        super().__init__()
        self.clock = clock
        self.page_pause = page_pause
        self.batch_pause = batch_pause
        self.list_open = threading.Event()
        self.list_open.set()
        self.rest_open = threading.Event()
        self.rest_open.set()

    def read_batch(self, ref: str, credentials: Credentials) -> BatchAnswer:
        batch = super().read_batch(ref, credentials)
        self.clock.now += self.batch_pause
        return batch

    def read_page(
        self, statuses: tuple[BatchStatus, ...], offset: int, limit: int, credentials: Credentials
    ) -> BatchPage:
        page = super().read_page(statuses, offset, limit, credentials)
        assert self.list_open.wait(MAX_WAIT)
        assert not offset or self.rest_open.wait(MAX_WAIT)
        self.clock.now += self.page_pause
        return page


def has_poll_begun_at(poller: Poller, moment: float) -> bool:
    return any(poll.started == moment for poll in poller._polls)


def failure_of_list(snapshot: Snapshot) -> Reason | None:
    assert snapshot.discovery is not None
    return snapshot.discovery.failure


class TestASlowList:
    @pytest.mark.parametrize("concurrency", [2, 16])
    def test_it_leaves_time_to_ask_for_the_batches_themselves(
        self, clock: Clock, background: ThreadPoolExecutor, concurrency: int
    ) -> None:
        api = SlowApi(clock)
        section = {"base_url": "https://api.example", "endpoint": "inspect", "concurrency": concurrency}
        config = make_config(api=section, batches=[ref(9)])
        poller = new_poller(api, config, clock)
        key = put(api, 1, BatchStatus.PROCESSING)
        poll(poller, clock)
        api.list_open.clear()
        try:
            for _ in range(2):
                begun = clock.now
                polling = background.submit(poller.poll, begun + 10)
                wait_until(partial(has_poll_begun_at, poller, begun))
                clock.now += 5
                snapshot = polling.result(MAX_WAIT)
                assert failure_of_list(snapshot) is Reason.DEADLINE
                assert {state.watched.ref: state.failure for state in snapshot.batches} == {key: None, ref(9): None}
        finally:
            api.list_open.set()

    def test_it_is_read_over_several_polls(self, clock: Clock) -> None:
        api = SlowApi(clock, page_pause=1)
        api.largest_page = 2
        section = {"base_url": "https://api.example", "endpoint": "inspect", "concurrency": 1}
        poller = new_poller(api, make_config(api=section), clock)
        for number in range(60):
            put(api, number, age=2 * DAY)
        progress: list[int] = []
        while True:
            snapshot = poller.poll(clock.now + 20)
            progress.append(snapshot.retired)
            if failure_of_list(snapshot) is None:
                break
            assert failure_of_list(snapshot) is Reason.DEADLINE
            assert len(progress) < 60
        assert len(progress) > 1, "one poll had no time for all pages"
        assert progress == sorted(set(progress)), "each poll has found more"
        assert snapshot.discovery is not None
        assert snapshot.discovery.totals is not None
        assert snapshot.discovery.totals[BatchStatus.SUCCESS] == 60

    def test_a_scrape_that_leaves_early_shows_what_the_list_has_shown(
        self, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        api = SlowApi(clock)
        poller = make_poller(api, clock)
        put(api, 1, BatchStatus.PROCESSING)
        put(api, 2, BatchStatus.PROCESSING)
        poll(poller, clock)
        api.largest_page = 1
        api.rest_open.clear()
        pages = api.pages
        patient = background.submit(poller.poll, clock.now + MAX_WAIT)
        wait_until(lambda: api.pages == pages + 2)
        early = poller.poll(clock.now)
        assert failure_of_list(early) is Reason.DEADLINE
        assert sorted(state.failure is None for state in early.batches) == [False, True]
        api.rest_open.set()
        assert failure_of_list(patient.result(MAX_WAIT)) is None
        assert poller.latest == patient.result()

    def test_a_restart_reads_details_over_several_polls_newest_first_and_asks_nothing_twice(self, clock: Clock) -> None:
        api = SlowApi(clock, batch_pause=1)
        poller = make_poller(api, clock, discovery={"enabled": True, "max_batches": 10000})
        keys = [put(api, number, age=DAY / 2 - number) for number in range(300)]
        unread: list[int] = []
        asked: list[str] = []
        while not unread or unread[-1]:
            snapshot = poller.poll(clock.now + 50)
            assert failure_of_list(snapshot) is None
            assert all(state.reading is not None for state in snapshot.batches)
            unread.append(snapshot.unread)
            asked += api.take_asked()
            assert len(unread) < 300
        assert len(unread) > 1, "one poll had no time for all details"
        assert unread == sorted(unread, reverse=True)
        assert len(asked) == len(set(asked)) == 300
        places = [list(reversed(keys)).index(each) for each in asked]
        # The threads overtake each other by a few places.
        assert max(abs(place - number) for number, place in enumerate(places)) < 3 * 16


class TestListAndBatchDisagree:
    def test_a_probe_shows_the_answer_of_the_batch_and_not_the_list_of_an_older_poll(
        self, api: FakeApi, clock: Clock
    ) -> None:
        poller = make_poller(api, clock)
        key = put(api, 1, BatchStatus.UPLOADING)
        poll(poller, clock)
        put(api, 1, BatchStatus.PROCESSING)
        (state,) = poller.probe(key, clock.now + MAX_WAIT).batches
        assert state.reading is not None
        assert state.reading.batch.status is BatchStatus.PROCESSING
        assert state.reading.batch.details_read
        api.answers[key] = PollError.of_status(500)
        (state,) = poller.probe(key, clock.now + MAX_WAIT).batches
        assert (state.reading, state.failure) == (None, Reason.SERVER_ERROR)

    def test_a_batch_that_is_finished_only_in_the_list_is_polled_until_both_agree(
        self, api: FakeApi, clock: Clock
    ) -> None:
        poller = make_poller(api, clock)
        key = put(api, 1, BatchStatus.SUCCESS)
        late = api.answers[key]
        assert isinstance(late, Batch)
        api.answers[key] = replace(late, status=BatchStatus.PROCESSING)
        for _ in range(2):
            snapshot = poll(poller, clock)
            (state,) = snapshot.batches
            assert state.reading is not None
            assert (state.reading.batch.status, state.accepted) == (BatchStatus.SUCCESS, None)
            assert (state.failure, snapshot.unread) == (None, 1)
        api.answers[key] = late
        assert poll(poller, clock).unread == 0
        assert len(api.take_asked()) == 3

    def test_a_batch_that_is_unfinished_again_in_the_list_is_polled_to_decide(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock)
        key = put(api, 1, BatchStatus.ERROR)
        poll(poller, clock)
        put(api, 1, BatchStatus.PROCESSING)
        api.take_asked()
        (state,) = poll(poller, clock).batches
        assert state.reading is not None
        assert state.reading.batch.status is BatchStatus.PROCESSING
        assert api.take_asked() == [key]
        poll(poller, clock)
        assert api.take_asked() == [], "the two agree"

    def test_a_batch_that_finishes_while_the_list_is_broken_is_polled_once(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock)
        key = put(api, 1, BatchStatus.PROCESSING)
        poll(poller, clock)
        put(api, 1, BatchStatus.SUCCESS)
        api.list_error = PollError.of_status(500)
        for _ in range(3):
            (state,) = poll(poller, clock).batches
            assert state.accepted is True
        assert api.take_asked() == [key]

    def test_an_answer_from_while_the_list_was_broken_still_counts_once_it_is_back(
        self, api: FakeApi, clock: Clock
    ) -> None:
        key = put(api, 1, BatchStatus.ERROR, failed=10)
        poller = make_poller(api, clock, feeds=RATIO_FEED, batches=[{"ref": key, "feed": "guests"}])
        api.list_error = PollError.of_status(500)
        broken = poll(poller, clock)
        assert [state.accepted for state in broken.batches] == [True]
        # From here on, only the list answers.
        api.list_error, api.answers[key] = None, PollError.of_status(500)
        mended = poll(poller, clock)
        assert [(state.accepted, state.failure) for state in mended.batches] == [(True, None)]
        assert (mended.unread, mended.feeds) == (0, broken.feeds)
        assert api.take_asked() == [key]

    def test_what_a_probe_has_read_counts_for_its_feed_when_the_list_shows_the_batch(
        self, api: FakeApi, clock: Clock
    ) -> None:
        poller = make_poller(api, clock, feeds=RATIO_FEED)
        key = put(api, 1, BatchStatus.ERROR, age=10 * DAY, failed=10, prefix="5a0c2f0e")
        poller.probe(key, clock.now + MAX_WAIT)
        # It is not read again: its retention is over, and it is not the newest of its feed.
        put(api, 2, BatchStatus.ERROR, failed=11, prefix="5a0c2f0e")
        (feed,) = poll(poller, clock).feeds
        assert feed.last_accepted == pytest.approx(NOW - 10 * DAY, abs=1)

    @pytest.mark.parametrize("error", [PollError.of_status(404), PollError.of_status(403)])
    def test_refused_details_are_asked_for_every_ten_minutes(
        self, api: FakeApi, clock: Clock, error: Exception
    ) -> None:
        poller = make_poller(api, clock)
        key = put(api, 1)
        api.answers[key] = error
        for _ in range(3):
            snapshot = poll(poller, clock)
            (state,) = snapshot.batches
            assert state.reading is not None
            assert state.failure is getattr(error, "reason", None)
            assert snapshot.unread == 1
        assert api.take_asked() == [key]
        clock.now += SECONDS_BETWEEN_REFUSED_DETAILS
        put(api, 1)
        assert poll(poller, clock).unread == 0

    @pytest.mark.parametrize("unfinished", [0, 1, 5])
    def test_a_403_for_everything_does_not_delay_the_details_once_it_is_over(
        self, api: FakeApi, clock: Clock, unfinished: int
    ) -> None:
        poller = make_poller(api, clock)
        others = [put(api, number, BatchStatus.PROCESSING) for number in range(10, 10 + unfinished)]
        # Everything is refused from the moment in which the list was read.
        key = put(api, 1)
        good = dict(api.answers)
        api.answers |= dict.fromkeys([key, *others], PollError.of_status(403))
        assert poll(poller, clock).unread == 1
        api.list_error = PollError.of_status(403)
        for _ in range(3):
            poll(poller, clock)
        api.list_error, api.answers, api.credentials = None, good, Credentials("client", "rotated")
        assert poll(poller, clock).unread == 0

    def test_a_404_from_before_the_list_had_the_batch_does_not_delay_its_details(
        self, api: FakeApi, clock: Clock
    ) -> None:
        poller = make_poller(api, clock, batches=[ref(1)])
        api.answer(PollError.of_status(404), 1)
        poll(poller, clock)
        put(api, 1)
        (state,) = poll(poller, clock).batches
        assert state.accepted is True

    @pytest.mark.parametrize("error", [PollError.of_status(404), PollError.of_status(403)])
    def test_a_refused_list_does_not_fail_a_batch(self, api: FakeApi, clock: Clock, error: Any) -> None:  # noqa: ANN401  A PollError.
        api.list_error = error
        snapshot = poll(make_poller(api, clock), clock)
        assert snapshot.api_up is False
        assert failure_of_list(snapshot) is error.reason


class TestFeedsAfterARestart:
    def test_the_newest_accepted_error_is_found_though_its_retention_is_over(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock, feeds=RATIO_FEED)
        put(api, 1, age=20 * DAY, prefix="5a0c2f0e")
        newest = put(api, 2, BatchStatus.ERROR, age=10 * DAY, failed=10, prefix="5a0c2f0e")
        put(api, 3, BatchStatus.ERROR, age=9 * DAY, failed=11, prefix="5a0c2f0e")
        put(api, 4, BatchStatus.CORRUPTED, age=8 * DAY, prefix="5a0c2f0e")
        for _ in range(4):
            snapshot = poll(poller, clock)
        assert set(by_ref(snapshot)) == {newest}
        assert [feed.last_accepted for feed in snapshot.feeds] == [pytest.approx(NOW - 10 * DAY, abs=1)]
        assert len(api.take_asked()) == 3, "the older success, and the newer errors until one is accepted"

    def test_the_newest_accepted_batch_stays_while_a_newer_one_is_unread(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock, feeds=RATIO_FEED)
        accepted = put(api, 1, age=20 * DAY, prefix="5a0c2f0e")
        newer = put(api, 2, BatchStatus.ERROR, age=10 * DAY, prefix="5a0c2f0e")
        api.answers[newer] = PollError.of_status(500)
        assert set(by_ref(poll(poller, clock))) == {accepted, newer}

    def test_the_limit_does_not_drop_the_newest_accepted_batch_of_a_feed(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock, discovery={"enabled": True, "max_batches": 1}, feeds=RATIO_FEED)
        accepted = put(api, 1, age=3000, prefix="5a0c2f0e")
        put(api, 2, age=4000, prefix="5a0c2f0e")
        unfinished = [put(api, number, BatchStatus.PROCESSING) for number in (3, 4)]
        snapshot = poll(poller, clock)
        assert set(by_ref(snapshot)) == {accepted, *unfinished}
        assert snapshot.feeds[0].last_accepted > 0


class TestEdges:
    def test_a_ref_is_requested_in_the_case_that_the_api_uses(self, api: FakeApi, clock: Clock) -> None:
        key = put(api, 0xABC)
        lists = Lists()
        lists.replace([WatchedBatch(ref=key.title())])
        poller = make_poller(api, clock, lists, batches=[key.upper()])
        (state,) = poll(poller, clock).batches
        assert (state.watched.ref, state.accepted) == (key.upper(), True)
        assert api.take_asked() == [key]

    def test_batches_without_times_are_shown(self, api: FakeApi, clock: Clock) -> None:
        keys = {put(api, 1, BatchStatus.PROCESSING), put(api, 2), put(api, 3, BatchStatus.ERROR)}
        api.listed = [replace(batch, created=None, modified=None) for batch in api.listed]
        poller = make_poller(api, clock)
        assert set(by_ref(poll(poller, clock))) == keys
        requests_of(api)
        assert poll(poller, clock).unread == 0
        assert requests_of(api) == 2

    def test_without_retention_a_finished_batch_of_no_feed_is_gone_at_once(self, api: FakeApi, clock: Clock) -> None:
        put(api, 1, age=SECONDS_BEFORE_THE_START)
        put(api, 2, BatchStatus.ERROR, age=SECONDS_BEFORE_THE_START)
        unfinished = put(api, 3, BatchStatus.PROCESSING, age=9 * DAY)
        snapshot = poll(make_poller(api, clock, retention={"succeeded": "0s", "failed": "0s"}), clock)
        assert set(by_ref(snapshot)) == {unfinished}
        assert snapshot.retired == 2
        assert api.take_asked() == []

    def test_a_clock_that_jumps_shows_and_retires_without_a_request(self, api: FakeApi, clock: Clock) -> None:
        key = put(api, 1)
        wall = [NOW]
        poller = new_poller(api, make_config(), clock, wall_clock=lambda: wall[0])
        poll(poller, clock)
        requests_of(api)
        for jump, shown in ((2 * DAY, set()), (-5 * DAY, {key}), (0.0, {key})):
            wall[0] = NOW + jump
            assert set(by_ref(poll(poller, clock))) == shown
        assert requests_of(api) == 2 * 3

    def test_a_retired_batch_can_be_probed(self, api: FakeApi, clock: Clock) -> None:
        key = put(api, 1, age=2 * DAY)
        poller = make_poller(api, clock)
        assert poll(poller, clock).batches == ()
        for _ in range(2):
            (state,) = poller.probe(key, clock.now + MAX_WAIT).batches
            assert state.accepted is True
        assert poll(poller, clock).batches == ()
        assert api.take_asked() == [key]

    def test_discovery_that_is_switched_off_and_on_finds_all_again(self, api: FakeApi, clock: Clock) -> None:
        keys = {put(api, 1, BatchStatus.PROCESSING), put(api, 2)}
        poller = make_poller(api, clock)
        for enabled in (True, False, True):
            poller.reconfigure(api, make_config(discovery={"enabled": enabled}))
            assert set(by_ref(poll(poller, clock))) == (keys if enabled else set())

    def test_a_late_list_is_ignored_once_discovery_is_off(self, clock: Clock) -> None:
        api = SlowApi(clock)
        for number in (1, 2):
            put(api, number, BatchStatus.UPLOADING)
        poller = make_poller(api, clock)
        poll(poller, clock)
        # The first page shows a change, and the next one does not come.
        api.listed = [replace(batch, status=BatchStatus.PROCESSING) for batch in api.listed]
        api.largest_page = 1
        api.rest_open.clear()
        pages = api.pages
        with ThreadPoolExecutor() as background:
            polling = background.submit(poller.poll, clock.now + 1)
            wait_until(lambda: api.pages == pages + 2)
            poller.reconfigure(api, make_config(discovery={"enabled": False}))
            # Too late for the list, and before anybody has noticed.
            clock.now += 0.6
            assert poller.poll(clock.now + MAX_WAIT).discovery is None
            assert failure_of_list(polling.result()) is Reason.DEADLINE
            api.rest_open.set()

    def test_a_file_that_contradicts_the_config_is_logged_once(
        self, api: FakeApi, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.WARNING)
        lists = Lists()
        poller = make_poller(api, clock, lists, batches=[{"ref": ref(1), "feed": "guests"}, ref(2)])
        lists.replace([WatchedBatch(ref=ref(1), feed="guests"), WatchedBatch(ref=ref(2))])
        poll(poller, clock)
        assert not caplog.records
        lists.replace([WatchedBatch(ref=ref(1).upper(), feed="orders"), WatchedBatch(ref=ref(2))])
        for _ in range(3):
            snapshot = poll(poller, clock)
        assert by_ref(snapshot)[ref(1)].watched.feed == "guests"
        (record,) = caplog.records
        assert "from the config, which takes precedence" in record.message

    def test_a_broken_list_is_logged_once_and_its_recovery_too(
        self, api: FakeApi, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        poller = make_poller(api, clock, batches=[ref(9)])
        for error in (PollError.of_status(500), PollError.of_status(500), None, None):
            api.list_error = error
            poll(poller, clock)
        about_the_list = [record.message for record in caplog.records if "list" in record.message]
        assert len(about_the_list) == 2
