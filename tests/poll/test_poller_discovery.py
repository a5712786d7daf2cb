"""A poll that begins with the API's list of batches: what it still asks for, and what it may show."""

import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from sitecore_cdp_exporter.api.batch import BatchPage, BatchStatus
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.model import WatchedBatch
from sitecore_cdp_exporter.metrics.collector import Families
from sitecore_cdp_exporter.metrics.families import batch_families, poll_families
from sitecore_cdp_exporter.watch.watchlist import Source
from tests.api.api_client import API_TOKEN, CLIENT_KEY, PRESIGNED_URL, Client, assert_no_secret
from tests.fake_api import MAX_WAIT, Clock, FakeApi, Lists, ref
from tests.poll.listing import API, by_ref, make_config, make_poller, poll, put, requests_of
from tests.poll.polling import DAY, NOW, new_poller
from tools.raw_server import answering


def test_an_unfinished_batch_needs_no_request_of_its_own(api: FakeApi, clock: Clock) -> None:
    key = put(api, 1, BatchStatus.PROCESSING)
    snapshot = poll(make_poller(api, clock), clock)
    (state,) = snapshot.batches
    assert (state.watched.ref, state.watched.source, state.failure) == (key, Source.DISCOVERY, None)
    assert state.reading is not None
    assert state.reading.batch.status is BatchStatus.PROCESSING
    assert state.reading.batch.total_records is None
    assert state.reading.batch.error_log_available is None
    assert api.take_asked() == []
    assert snapshot.api_up is True


def test_a_batch_that_finishes_is_polled_once_for_its_details(api: FakeApi, clock: Clock) -> None:
    poller = make_poller(api, clock)
    key = put(api, 1, BatchStatus.PROCESSING)
    poll(poller, clock)
    put(api, 1, BatchStatus.ERROR, total=7, failed=3)
    for _ in range(3):
        snapshot = poll(poller, clock)
    assert api.take_asked() == [key]
    (state,) = snapshot.batches
    assert state.reading is not None
    assert (state.reading.batch.failed_records, state.accepted) == (3, False)
    assert snapshot.unread == 0


def test_a_finished_batch_whose_list_entry_changes_is_read_again(api: FakeApi, clock: Clock) -> None:
    poller = make_poller(api, clock)
    key = put(api, 1, BatchStatus.ERROR, age=60)
    poll(poller, clock)
    put(api, 1, BatchStatus.ERROR, age=30)
    poll(poller, clock)
    poll(poller, clock)
    assert api.take_asked() == [key, key]


def test_a_listed_batch_that_is_discovered_too_appears_once_as_it_is_listed(api: FakeApi, clock: Clock) -> None:
    key = put(api, 1)
    file_key = put(api, 2)
    lists = Lists()
    lists.replace([WatchedBatch(ref=file_key, feed="orders"), WatchedBatch(ref=key, feed="of the file")])
    batches = [{"ref": key.upper(), "feed": "guests", "labels": {"team": "crm"}}]
    feeds = [{"name": "guests", "labels": {"team": "core", "tier": "1"}}]
    snapshot = poll(make_poller(api, clock, lists, batches=batches, feeds=feeds), clock)
    states = {state.watched.ref.lower(): state.watched for state in snapshot.batches}
    assert len(snapshot.batches) == 2
    assert (states[key].feed, states[key].labels) == ("guests", {"team": "crm", "tier": "1"})
    assert (states[key].source, states[file_key].source) == (Source.CONFIG, Source.FILE)
    assert states[file_key].feed == "orders"


def test_a_listed_batch_that_the_api_does_not_list_is_polled_itself(api: FakeApi, clock: Clock) -> None:
    poller = make_poller(api, clock, batches=[ref(9)])
    put(api, 1, BatchStatus.PROCESSING)
    api.answer(PollError.of_status(404), 9)
    states = by_ref(poll(poller, clock))
    assert states[ref(9)].failure is Reason.NOT_FOUND
    assert api.take_asked() == [ref(9)]


class TestABrokenList:
    def test_it_does_not_look_like_an_empty_one(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock)
        unfinished, finished = put(api, 1, BatchStatus.PROCESSING), put(api, 2)
        good = poll(poller, clock)
        assert good.discovery is not None
        assert good.discovery.failure is None
        assert good.discovery.totals == {
            "uploading": 0,
            "file_uploaded": 0,
            "processing": 1,
            "success": 1,
            "corrupted": 0,
            "error": 0,
        }
        api.list_error = PollError.of_status(500)
        api.take_asked()
        broken = poll(poller, clock)
        assert broken.discovery is not None
        assert (broken.discovery.failure, broken.discovery.totals) == (Reason.SERVER_ERROR, None)
        assert set(by_ref(broken)) == {unfinished, finished}
        assert [state.failure for state in broken.batches] == [None, None]
        assert api.take_asked() == [unfinished]
        assert broken.api_up is True

    def test_a_page_that_fails_ends_the_walk_but_not_the_poll(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock, batches=[ref(9)])
        api.list_error = PollError(Reason.TIMEOUT)
        snapshot = poll(poller, clock)
        assert snapshot.discovery is not None
        assert snapshot.discovery.failure is Reason.TIMEOUT
        assert by_ref(snapshot)[ref(9)].failure is None

    def test_a_refused_token_skips_the_rest(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock)
        key = put(api, 1, BatchStatus.PROCESSING)
        poll(poller, clock)
        api.list_error = PollError.of_status(401)
        api.answers[key] = PollError.of_status(401)
        requests_of(api)
        refused = poll(poller, clock)
        assert refused.discovery is not None
        assert refused.discovery.failure is Reason.UNAUTHORIZED
        assert by_ref(refused)[key].failure is Reason.SKIPPED
        assert refused.api_up is False
        skipped = poll(poller, clock)
        assert skipped.discovery is not None
        assert skipped.discovery.failure is Reason.SKIPPED
        assert requests_of(api) == 1

    def test_a_list_that_is_skipped_after_a_refusal_shows_the_api_down_though_nothing_is_watched(
        self, api: FakeApi, clock: Clock
    ) -> None:
        poller = make_poller(api, clock)
        api.answer(PollError.of_status(401), 1)
        poller.probe(ref(1), clock.now + MAX_WAIT)
        snapshot = poll(poller, clock)
        assert snapshot.discovery is not None
        assert snapshot.discovery.failure is Reason.SKIPPED
        assert snapshot.api_up is False

    def test_an_api_that_fails_everything_gets_one_request_and_a_pause(
        self, api: FakeApi, clock: Clock, caplog: pytest.LogCaptureFixture
    ) -> None:
        poller = make_poller(api, clock)
        keys = [put(api, number, BatchStatus.PROCESSING) for number in range(50)]
        poll(poller, clock)
        api.list_error = PollError.of_status(503)
        good = dict(api.answers)
        api.answers |= dict.fromkeys(keys, PollError.of_status(503))
        requests_of(api)
        failing = []
        for _ in range(6):
            poll(poller, clock)
            failing.append(requests_of(api))
        assert failing == [51, 1, 1, 1, 1, 0]
        api.list_error, api.answers = None, good
        clock.now += 60
        assert [state.failure for state in poll(poller, clock).batches] == [None] * 50
        about_the_list = [record.message for record in caplog.records if "the list" in record.message]
        assert about_the_list == ["the list of batches cannot be read"]

    def test_unreadable_credentials_are_reported_for_the_list_too(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock, batches=[ref(9)])
        api.credentials = PollError(Reason.CREDENTIALS, "there is no password")
        snapshot = poll(poller, clock)
        assert snapshot.discovery is not None
        assert snapshot.discovery.failure is Reason.CREDENTIALS
        assert by_ref(snapshot)[ref(9)].failure is Reason.CREDENTIALS

    def test_details_that_cannot_be_read_leave_the_status_of_the_list(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock)
        key = put(api, 1, BatchStatus.ERROR)
        api.answers[key] = PollError.of_status(500)
        snapshot = poll(poller, clock)
        (state,) = snapshot.batches
        assert state.reading is not None
        assert state.reading.batch.status is BatchStatus.ERROR
        assert (state.failure, state.accepted, snapshot.unread) == (Reason.SERVER_ERROR, None, 1)


class LyingApi(FakeApi):
    """An API whose list is changed on its way, by `lie`, while there is one."""

    lie: Callable[[BatchPage], BatchPage] | None = None

    def read_page(
        self, statuses: tuple[BatchStatus, ...], offset: int, limit: int, credentials: Credentials
    ) -> BatchPage:
        page = super().read_page(statuses, offset, limit, credentials)
        return page if self.lie is None else self.lie(page)


class TestAListThatDoesNotAddUp:
    def test_what_can_be_read_stays_watched_and_the_rest_is_counted(self, clock: Clock) -> None:
        api = LyingApi()
        api.lie = lambda page: replace(page, batches=page.batches[1:], unreadable=min(page.length, 1))
        failed = put(api, 1, BatchStatus.ERROR, failed=3)
        put(api, 2)
        snapshot = poll(make_poller(api, clock), clock)
        assert set(by_ref(snapshot)) == {failed}
        assert snapshot.discovery is not None
        assert (snapshot.discovery.failure, snapshot.discovery.unreadable) == (Reason.BAD_RESPONSE, 1)
        assert snapshot.discovery.totals is None
        assert snapshot.api_up is True

    def test_a_batch_without_a_status_in_the_list_is_polled_for_it(self, clock: Clock) -> None:
        api = LyingApi()
        failed = put(api, 1, BatchStatus.ERROR, failed=3)
        api.lie = lambda page: replace(
            page,
            batches=tuple(replace(batch, status=BatchStatus.UNKNOWN) for batch in page.batches),
            unreadable=page.length,
        )
        (state,) = poll(make_poller(api, clock), clock).batches
        assert state.reading is not None
        assert (state.reading.batch.status, state.accepted) == (BatchStatus.ERROR, False)
        assert api.take_asked() == [failed]

    def test_it_is_logged_when_it_begins_and_when_it_ends(self, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
        api = LyingApi()
        poller = make_poller(api, clock)
        put(api, 1)
        caplog.set_level(logging.DEBUG)
        api.lie = lambda page: replace(page, total=(page.total or 0) + 1)
        for _ in range(3):
            poll(poller, clock)
        api.lie = None
        for _ in range(3):
            poll(poller, clock)
        records = [record for record in caplog.records if "the list of batches" in record.getMessage()]
        assert [(record.levelname, getattr(record, "reason", None)) for record in records] == [
            ("WARNING", "bad_response"),
            ("INFO", None),
        ]
        assert getattr(records[0], "problem", "") == "totalCount is 1, but the pages show 0 batches"

    def test_a_count_that_is_far_too_high_costs_few_requests(self, clock: Clock) -> None:
        api = LyingApi()
        api.lie = lambda page: replace(page, total=9000)
        put(api, 1)
        put(api, 2, BatchStatus.PROCESSING)
        config = make_config(api=API | {"concurrency": 1})
        poller = new_poller(api, config, clock)
        snapshot = poll(poller, clock)
        assert snapshot.discovery is not None
        assert snapshot.discovery.failure is Reason.BAD_RESPONSE
        assert len(snapshot.batches) == 2
        assert api.pages == 4


class TestFewRequests:
    def test_a_quiet_poll_of_a_thousand_batches_makes_at_most_three_requests(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock, discovery={"enabled": True, "max_batches": 2000})
        for number in range(1000):
            put(api, number, BatchStatus.PROCESSING if number < 50 else BatchStatus.SUCCESS)
        poll(poller, clock)
        requests_of(api)
        poll(poller, clock)
        assert requests_of(api) <= 3
        put(api, 0, BatchStatus.SUCCESS)
        put(api, 1, BatchStatus.ERROR)
        poll(poller, clock)
        assert requests_of(api) <= 16
        poll(poller, clock)
        assert requests_of(api) <= 3

    def test_what_is_past_its_retention_is_not_asked_for(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock)
        for number in range(300):
            put(api, number, age=2 * DAY)
        snapshot = poll(poller, clock)
        assert (snapshot.batches, snapshot.retired) == ((), 300)
        assert api.take_asked() == []
        assert snapshot.discovery is not None
        assert snapshot.discovery.totals is not None
        assert snapshot.discovery.totals[BatchStatus.SUCCESS] == 300


class TestWhatIsKept:
    def test_beyond_the_limit_old_successes_go_first_then_old_failures_and_never_an_unfinished_one(
        self, api: FakeApi, clock: Clock
    ) -> None:
        poller = make_poller(api, clock, discovery={"enabled": True, "max_batches": 3})
        unfinished = put(api, 1, BatchStatus.UPLOADING, age=9000)
        old_failure = put(api, 2, BatchStatus.ERROR, age=8000)
        old_success = put(api, 3, age=7000)
        new_success = put(api, 4, age=10)
        snapshot = poll(poller, clock)
        assert snapshot.discovery is not None
        assert snapshot.discovery.dropped == 1
        assert set(by_ref(snapshot)) == {unfinished, old_failure, new_success}
        newer = [put(api, number, BatchStatus.PROCESSING) for number in (5, 6, 7)]
        snapshot = poll(poller, clock)
        assert set(by_ref(snapshot)) == {unfinished, *newer}
        assert old_success not in by_ref(snapshot)

    def test_beyond_the_limit_the_oldest_is_dropped_first_for_any_ref(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock, discovery={"enabled": True, "max_batches": 2})
        ages = {put(api, number, age=age): age for number, age in ((1, 20.0), (2, 9000.0), (3, 10.0), (4, 8000.0))}
        assert {ages[key] for key in by_ref(poll(poller, clock))} == {10.0, 20.0}

    def test_a_batch_of_a_file_retires_by_its_own_answer(self, api: FakeApi, clock: Clock) -> None:
        lists = Lists()
        lists.replace(
            [WatchedBatch(ref=put(api, 1, age=2 * DAY)), WatchedBatch(ref=put(api, 2, BatchStatus.ERROR, age=2 * DAY))]
        )
        poller = make_poller(api, clock, lists, discovery={"enabled": False})
        assert len(poll(poller, clock).batches) == 2
        snapshot = poll(poller, clock)
        assert (set(by_ref(snapshot)), snapshot.retired) == ({ref(2)}, 1)
        assert snapshot.discovery is None

    def test_a_batch_of_the_config_never_retires(self, api: FakeApi, clock: Clock) -> None:
        key = put(api, 1, age=20 * DAY)
        poller = make_poller(api, clock, batches=[key])
        poll(poller, clock)
        assert set(by_ref(poll(poller, clock))) == {key}

    def test_the_newest_accepted_batch_of_a_feed_is_kept(self, api: FakeApi, clock: Clock) -> None:
        feeds = [{"name": "weekly", "ref_prefix": "5a0c2f0e"}]
        poller = make_poller(api, clock, feeds=feeds)
        put(api, 1, age=9 * DAY, prefix="5a0c2f0e")
        newest = put(api, 2, age=6 * DAY, prefix="5a0c2f0e")
        snapshot = poll(poller, clock)
        assert set(by_ref(snapshot)) == {newest}
        (feed,) = snapshot.feeds
        assert feed.last_accepted == NOW - 6 * DAY + 0.001


class TestFeeds:
    def test_a_feed_without_an_accepted_batch_shows_zero(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock, feeds=[{"name": "nightly-guests"}])
        assert [state.last_accepted for state in poll(poller, clock).feeds] == [0]

    @pytest.mark.parametrize(
        ("ratio", "failed", "accepted"), [(0, 1, False), (0.02, 2, True), (0.02, 3, False), (1, 100, True)]
    )
    def test_an_error_within_the_ratio_is_accepted(
        self,
        api: FakeApi,
        clock: Clock,
        ratio: float,
        failed: int,
        accepted: bool,  # noqa: FBT001  A column.
    ) -> None:
        feeds = [{"name": "nightly-guests", "ref_prefix": "5a0c2f0e", "max_failed_ratio": ratio}]
        put(api, 1, BatchStatus.ERROR, total=100, failed=failed, prefix="5a0c2f0e")
        snapshot = poll(make_poller(api, clock, feeds=feeds), clock)
        assert [state.accepted for state in snapshot.batches] == [accepted]
        assert [state.last_accepted > 0 for state in snapshot.feeds] == [accepted]

    def test_a_failed_batch_is_superseded_by_one_that_was_created_later(self, api: FakeApi, clock: Clock) -> None:
        feeds = [{"name": "full", "ref_prefix": "5a0c2f0e", "next_success_resolves": True}]
        poller = make_poller(api, clock, feeds=feeds)
        failed = put(api, 1, BatchStatus.ERROR, age=3000, failed=50, prefix="5a0c2f0e")
        put(api, 2, age=4000, prefix="5a0c2f0e")
        assert by_ref(poll(poller, clock))[failed].superseded is False
        later = put(api, 3, age=2000, prefix="5a0c2f0e")
        states = by_ref(poll(poller, clock))
        assert (states[failed].superseded, states[later].superseded) == (True, None)

    def test_the_last_accepted_time_outlives_its_batch(self, api: FakeApi, clock: Clock) -> None:
        lists = Lists()
        lists.replace([WatchedBatch(ref=put(api, 1), feed="orders")])
        poller = make_poller(api, clock, lists, discovery={"enabled": False}, feeds=[{"name": "orders"}])
        before = poll(poller, clock).feeds
        lists.replace([])
        after = poll(poller, clock)
        assert after.batches == ()
        assert after.feeds == before
        assert before[0].last_accepted > 0


class TestReconfigure:
    def test_finished_batches_stay_remembered(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock)
        put(api, 1)
        poll(poller, clock)
        requests_of(api)
        poller.reconfigure(api, make_config(recheck_finished="1h"))
        snapshot = poll(poller, clock)
        assert len(snapshot.batches) == 1
        assert api.take_asked() == []

    def test_switching_discovery_off_removes_its_batches(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock)
        put(api, 1)
        poll(poller, clock)
        poller.reconfigure(api, make_config(discovery={"enabled": False}))
        snapshot = poll(poller, clock)
        assert (snapshot.batches, snapshot.discovery) == ((), None)

    def test_a_list_that_is_still_being_read_changes_nothing(
        self, api: FakeApi, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        put(api, 1)
        poller = make_poller(api, clock)
        api.open.clear()
        polling = background.submit(poller.poll, clock.now + MAX_WAIT)
        api.wait_until_at_once(1)
        poller.reconfigure(api, make_config(discovery={"enabled": False}))
        api.open.set()
        assert polling.result().discovery is not None
        assert poll(poller, clock).batches == ()

    def test_discovery_off_and_on_while_a_page_is_under_way_costs_no_scrape_its_list(
        self, api: FakeApi, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        put(api, 1)
        poller = make_poller(api, clock)
        api.open.clear()
        late = background.submit(poller.poll, clock.now + 10)
        api.wait_until_at_once(1)
        clock.now += 10
        assert late.result(MAX_WAIT).discovery is not None
        for enabled in (False, True):
            poller.reconfigure(api, make_config(discovery={"enabled": enabled}))
        polling = background.submit(poller.poll, clock.now + MAX_WAIT)
        api.wait_until_at_once(2)
        api.open.set()
        snapshot = polling.result(MAX_WAIT)
        assert snapshot.discovery is not None
        assert snapshot.discovery.failure is None
        assert len(snapshot.batches) == 1

    def test_a_probe_requests_from_the_new_organisation_at_once(
        self, api: FakeApi, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        key = put(api, 1)
        poller = make_poller(api, clock, batches=[key, ref(2)])
        poll(poller, clock)
        api.open.clear()
        polling = background.submit(poller.poll, clock.now + MAX_WAIT)
        api.wait_until_at_once(1)
        other = FakeApi({key: PollError.of_status(404)})
        section = {"base_url": "https://other.example", "endpoint": "inspect"}
        poller.reconfigure(other, make_config(api=section, batches=[key]))
        (state,) = poller.probe(key, clock.now + MAX_WAIT).batches
        assert (state.reading, state.failure) == (None, Reason.NOT_FOUND)
        api.open.set()
        snapshot = polling.result()
        assert len(snapshot.batches) == 2
        assert snapshot.discovery is not None
        assert snapshot.discovery.failure is None
        assert poller.latest is None, "what the poll before has found is another organisation's"
        assert poller.watched.keys() == {key}

    @pytest.mark.parametrize(
        "api_section",
        [
            {"base_url": "https://other.example", "endpoint": "inspect"},
            {"base_url": "https://api.example", "endpoint": "inspect", "basic_auth": {"username": "another key"}},
        ],
    )
    def test_what_was_read_of_another_organisation_is_forgotten(
        self, api: FakeApi, clock: Clock, api_section: dict[str, object]
    ) -> None:
        key = put(api, 1)
        poller = make_poller(api, clock, batches=[key])
        poll(poller, clock)
        api.listed.clear()
        api.answers[key] = PollError.of_status(404)
        poller.reconfigure(api, make_config(api=api_section, batches=[key]))
        (state,) = poll(poller, clock).batches
        assert (state.reading, state.failure) == (None, Reason.NOT_FOUND)

    def test_another_base_url_starts_from_scratch(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock)
        api.list_error = PollError.of_status(401)
        poll(poller, clock)
        api.list_error = None
        put(api, 1)
        poller.reconfigure(api, make_config(api={"base_url": "https://other.example", "endpoint": "inspect"}))
        assert poll(poller, clock).api_up is True


def test_a_presigned_url_in_the_list_is_neither_logged_nor_shown(
    clock: Clock, new_client: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    """The documentation of the list's items has one more string than is named: very probably the error log's URL."""
    caplog.set_level(logging.DEBUG)
    fields = ("errorLog", "log", "location", "createdAt", "modifiedAt", "status", "ref")
    items: list[object] = [{"ref": ref(1), "status": "error", "errorLog": PRESIGNED_URL}, PRESIGNED_URL]
    items += [{"ref": ref(2), "status": "success", field: PRESIGNED_URL} for field in fields]
    page = {"totalCount": PRESIGNED_URL, "next": PRESIGNED_URL, "items": items}
    body = json.dumps(page).encode()
    reply = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with answering(*[reply] * 20) as server:
        environ = {"SITECORE_CDP_CLIENT_KEY": CLIENT_KEY, "SITECORE_CDP_API_TOKEN": API_TOKEN}
        api = new_client(server.url, endpoint="inspect", environ=environ).api
        poller = new_poller(api, make_config(), clock)
        snapshot = poll(poller, clock)
    assert set(by_ref(snapshot)) == {ref(1), ref(2)}
    assert snapshot.discovery is not None
    assert snapshot.discovery.failure is Reason.BAD_RESPONSE
    shown = generate_latest(Families(batch_families(snapshot), poll_families(snapshot))).decode()
    logged = "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    for place in (shown, logged, repr(snapshot), repr(poller.watched)):
        assert_no_secret(place)
