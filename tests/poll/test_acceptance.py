"""Which batches count as loaded, and which of them is the newest of its feed."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.errors import PollError
from sitecore_cdp_exporter.config.model import FeedConfig, WatchedBatch
from sitecore_cdp_exporter.poll.acceptance import (
    NewestAccepted,
    PastBatches,
    newest_accepted,
)
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.reading import MAX_UPLOAD_SECONDS, Reading
from tests.fake_api import MAX_WAIT, Clock, FakeApi, Lists, ref
from tests.poll.listing import by_ref, make_config, make_poller, poll, put
from tests.poll.polling import DAY, NOW, new_poller

PREFIX = "5a0c2f0e"


def feed(**rule: Any) -> list[dict[str, Any]]:  # noqa: ANN401  Keys of the config file.
    return [{"name": "guests", "ref_prefix": PREFIX, **rule}]


def last_accepted(poller: Poller, clock: Clock) -> float:
    (state,) = poll(poller, clock).feeds
    return state.last_accepted


class TestAReloadAppliesNewRules:
    @pytest.mark.parametrize("discovery", [True, False])
    def test_what_a_stricter_rule_does_not_accept_counts_no_more(
        self,
        api: FakeApi,
        clock: Clock,
        discovery: bool,  # noqa: FBT001  A column.
    ) -> None:
        failed = put(api, 1, BatchStatus.ERROR, age=900, failed=50, prefix=PREFIX)
        later = put(api, 2, BatchStatus.ERROR, age=300, failed=5, prefix=PREFIX)
        sections: dict[str, Any] = {"discovery": {"enabled": discovery}}
        if not discovery:
            sections["batches"] = [{"ref": key, "feed": "guests"} for key in (failed, later)]
        loose = feed(max_failed_ratio=0.1, next_success_resolves=True)
        strict = feed(max_failed_ratio=0.01, next_success_resolves=True)
        poller = make_poller(api, clock, feeds=loose, **sections)
        snapshot = poll(poller, clock)
        assert by_ref(snapshot)[failed].superseded is True
        assert snapshot.feeds[0].last_accepted == pytest.approx(NOW - 300, abs=1)
        poller.reconfigure(api, make_config(feeds=strict, **sections))
        snapshot = poll(poller, clock)
        assert [state.accepted for state in snapshot.batches] == [False, False]
        assert by_ref(snapshot)[failed].superseded is False
        assert snapshot.feeds[0].last_accepted == 0
        poller.reconfigure(api, make_config(feeds=loose, **sections))
        assert last_accepted(poller, clock) == pytest.approx(NOW - 300, abs=1)

    def test_batches_no_longer_watched_are_judged_again_too(self, api: FakeApi, clock: Clock) -> None:
        lists = Lists()
        sections: dict[str, Any] = {"discovery": {"enabled": False}}
        keys = [put(api, 1, age=900), put(api, 2, BatchStatus.ERROR, age=300, failed=5)]
        lists.replace(WatchedBatch(ref=key, feed="guests") for key in keys)
        poller = make_poller(api, clock, lists, feeds=feed(max_failed_ratio=0.1), **sections)
        poll(poller, clock)
        lists.replace([])
        for ratio, age in ((0.1, 300), (0.01, 900), (0.1, 300)):
            poller.reconfigure(api, make_config(feeds=feed(max_failed_ratio=ratio), **sections))
            assert last_accepted(poller, clock) == pytest.approx(NOW - age, abs=1)

    def test_a_batch_that_is_moved_to_another_feed_leaves_the_one_it_was_of(self, api: FakeApi, clock: Clock) -> None:
        key = put(api, 1)
        sections: dict[str, Any] = {"discovery": {"enabled": False}, "feeds": [{"name": "guests"}, {"name": "orders"}]}
        poller = make_poller(api, clock, batches=[{"ref": key, "feed": "guests"}], **sections)
        assert [state.last_accepted > 0 for state in poll(poller, clock).feeds] == [True, False]
        poller.reconfigure(api, make_config(batches=[{"ref": key, "feed": "orders"}], **sections))
        assert [state.last_accepted > 0 for state in poll(poller, clock).feeds] == [False, True]

    @pytest.mark.parametrize("discovery", [True, False])
    def test_a_batch_that_leaves_its_file_still_counts_for_its_feed_even_if_the_list_shows_it(
        self,
        api: FakeApi,
        clock: Clock,
        discovery: bool,  # noqa: FBT001  A column.
    ) -> None:
        """As where each night's upload replaces the file."""
        lists = Lists()
        poller = make_poller(api, clock, lists, discovery={"enabled": discovery}, feeds=[{"name": "orders"}])
        lists.replace([WatchedBatch(ref=put(api, 1, age=300), feed="orders")])
        assert last_accepted(poller, clock) == pytest.approx(NOW - 300, abs=1)
        lists.replace([WatchedBatch(ref=put(api, 2, BatchStatus.PROCESSING), feed="orders")])
        for _ in range(3):
            assert last_accepted(poller, clock) == pytest.approx(NOW - 300, abs=1)

    def test_a_batch_that_leaves_its_file_for_the_config_is_of_the_feed_that_the_config_says(
        self, api: FakeApi, clock: Clock
    ) -> None:
        lists = Lists()
        key = put(api, 1)
        lists.replace([WatchedBatch(ref=key, feed="orders")])
        poller = make_poller(api, clock, lists, feeds=[{"name": "orders"}])
        assert last_accepted(poller, clock) > 0
        lists.replace([])
        poller.reconfigure(api, make_config(batches=[key], feeds=[{"name": "orders"}]))
        assert last_accepted(poller, clock) == 0

    def test_a_snapshot_changes_nothing(self, api: FakeApi, clock: Clock) -> None:
        put(api, 1, prefix=PREFIX)
        poller = make_poller(api, clock, feeds=feed())
        poll(poller, clock)
        assert [poller.poll(clock.now - 1).batches for _ in range(2)] == [poller.poll(clock.now - 1).batches] * 2


class TestABatchThatReplacesOthers:
    @pytest.fixture
    def lists(self, api: FakeApi) -> Lists:
        keys = [put(api, number, BatchStatus.ERROR, age=900, failed=5) for number in (1, 2)]
        lists = Lists()
        new = WatchedBatch(ref=put(api, 3, BatchStatus.PROCESSING), feed="orders", replaces=(keys[0].upper(),))
        lists.replace([*(WatchedBatch(ref=key, feed="orders") for key in keys), new])
        return lists

    @staticmethod
    def superseded(poller: Poller, clock: Clock) -> list[bool | None]:
        return [state.superseded for state in poll(poller, clock).batches]

    def test_those_that_it_names_are_superseded_once_it_is_accepted(
        self, api: FakeApi, clock: Clock, lists: Lists
    ) -> None:
        poller = make_poller(api, clock, lists, discovery={"enabled": False})
        assert self.superseded(poller, clock) == [False, None, None]
        put(api, 3, BatchStatus.SUCCESS)
        assert self.superseded(poller, clock) == [True, None, None]

    def test_one_that_fails_itself_replaces_nothing_unless_its_feed_accepts_it(
        self, api: FakeApi, clock: Clock, lists: Lists
    ) -> None:
        put(api, 1, BatchStatus.ERROR, age=900, failed=50)
        put(api, 3, BatchStatus.ERROR, failed=5)
        poller = make_poller(api, clock, lists, discovery={"enabled": False})
        assert self.superseded(poller, clock) == [False, None, None]
        tolerant = [{"name": "orders", "max_failed_ratio": 0.05}]
        poller.reconfigure(api, make_config(discovery={"enabled": False}, feeds=tolerant))
        assert self.superseded(poller, clock) == [True, None, None]

    def test_one_that_is_past_its_retention_still_counts(self, api: FakeApi, clock: Clock, lists: Lists) -> None:
        put(api, 3, BatchStatus.SUCCESS, age=600)
        newest = WatchedBatch(ref=put(api, 4), feed="orders")
        lists.replace([*lists.batches.values(), newest])
        retention = {"succeeded": "5m", "failed": "7d"}
        poller = make_poller(api, clock, lists, discovery={"enabled": False}, retention=retention)
        poll(poller, clock)
        snapshot = poll(poller, clock)
        assert [state.superseded for state in snapshot.batches] == [True, None, None]
        assert snapshot.retired == 1

    def test_it_supersedes_although_the_next_success_of_the_feed_would_and_has_not_come(
        self, api: FakeApi, clock: Clock, lists: Lists
    ) -> None:
        put(api, 3, BatchStatus.SUCCESS, age=901)
        section = [{"name": "orders", "next_success_resolves": True}]
        poller = make_poller(api, clock, lists, discovery={"enabled": False}, feeds=section)
        assert self.superseded(poller, clock) == [True, False, None]

    def test_one_of_the_config_may_replace_one_that_discovery_found(self, api: FakeApi, clock: Clock) -> None:
        failed, new = put(api, 1, BatchStatus.ERROR, age=900, failed=5), put(api, 2)
        poller = make_poller(api, clock, batches=[{"ref": new, "replaces": [failed]}])
        assert by_ref(poll(poller, clock))[failed].superseded is True


def test_an_error_within_the_ratio_of_its_feed_is_not_logged_as_failed(
    api: FakeApi, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    accepted, failed = (put(api, number, BatchStatus.ERROR, failed=9 + number, prefix=PREFIX) for number in (1, 2))
    poll(make_poller(api, clock, feeds=feed(max_failed_ratio=0.1)), clock)
    assert [vars(record).get("ref") for record in caplog.records] == [failed]
    assert accepted != failed


class TestASuccessNeedsNoDetails:
    @pytest.mark.parametrize("status", [404, 403, 500])
    def test_a_feed_has_its_accepted_time_although_the_details_are_refused(
        self, api: FakeApi, clock: Clock, status: int
    ) -> None:
        poller = make_poller(api, clock, feeds=feed(next_success_resolves=True))
        failed = put(api, 1, BatchStatus.ERROR, age=900, failed=5, prefix=PREFIX)
        key = put(api, 2, age=300, prefix=PREFIX)
        api.answers[key] = PollError.of_status(status)
        snapshot = poll(poller, clock)
        assert snapshot.feeds[0].last_accepted == NOW - 300
        assert by_ref(snapshot)[failed].superseded is True
        assert by_ref(snapshot)[key].accepted is None, "that is of the details"

    def test_a_feed_has_its_accepted_time_while_the_details_are_unread(
        self, api: FakeApi, clock: Clock, background: ThreadPoolExecutor
    ) -> None:
        poller = make_poller(api, clock, feeds=feed())
        key = put(api, 1, age=300, prefix=PREFIX)
        api.shut.add(key)
        polling = background.submit(poller.poll, clock.now + 10)
        api.wait_until_asked([key])
        clock.now += 10
        (state,) = polling.result(MAX_WAIT).feeds
        assert state.last_accepted == NOW - 300
        api.shut.clear()

    def test_an_error_without_details_is_not_accepted(self, api: FakeApi, clock: Clock) -> None:
        poller = make_poller(api, clock, feeds=feed(max_failed_ratio=0.5))
        api.answers[put(api, 1, BatchStatus.ERROR, prefix=PREFIX)] = PollError.of_status(404)
        assert last_accepted(poller, clock) == 0


class TestABatchWithoutModified:
    """`createdAt` stands in, or else the time at which it was first seen finished."""

    @pytest.fixture
    def wall(self) -> list[float]:
        return [NOW]

    def make_poller(self, api: FakeApi, clock: Clock, wall: list[float], lists: Lists) -> Poller:
        config = make_config(discovery={"enabled": False}, feeds=[{"name": "guests"}], recheck_finished="1h")
        return new_poller(api, config, clock, lists, wall_clock=lambda: wall[0])

    @staticmethod
    def put(api: FakeApi, number: int, created: float | None) -> WatchedBatch:
        answer = Batch(ref=ref(number), status=BatchStatus.SUCCESS, error_log_available=False, created=created)
        api.answers[ref(number)] = answer
        return WatchedBatch(ref=ref(number), feed="guests")

    @pytest.mark.parametrize(("created", "accepted"), [(NOW - 500, NOW - 500), (None, NOW)])
    def test_its_feed_has_an_accepted_time_that_a_re_check_does_not_move(
        self, api: FakeApi, clock: Clock, wall: list[float], created: float | None, accepted: float
    ) -> None:
        lists = Lists()
        lists.replace([self.put(api, 1, created)])
        poller = self.make_poller(api, clock, wall, lists)
        for _ in range(3):
            assert last_accepted(poller, clock) == accepted
            wall[0] += 7200
            clock.now += 7200
        assert len(api.take_asked()) == 3
        lists.replace([])
        assert last_accepted(poller, clock) == accepted, "it is watched no more"

    @pytest.mark.parametrize("created", [NOW - 500, None])
    def test_it_retires_unless_it_is_the_newest_of_its_feed(
        self, api: FakeApi, clock: Clock, wall: list[float], created: float | None
    ) -> None:
        lists = Lists()
        lists.replace([self.put(api, 1, created)])
        poller = self.make_poller(api, clock, wall, lists)
        poll(poller, clock)
        wall[0] += 2 * DAY
        snapshot = poll(poller, clock)
        assert (len(snapshot.batches), snapshot.retired) == (1, 0)
        lists.replace([self.put(api, 1, created), self.put(api, 2, NOW + 900)])
        poll(poller, clock)
        snapshot = poll(poller, clock)
        assert (set(by_ref(snapshot)), snapshot.retired) == ({ref(2)}, 1)

    def test_the_list_alone_is_enough(self, api: FakeApi, clock: Clock) -> None:
        wall = [NOW]
        api.listed = [Batch(ref=PREFIX + ref(1)[8:], status=BatchStatus.SUCCESS)]
        api.answers[api.listed[0].ref] = PollError.of_status(404)
        config = make_config(feeds=feed())
        poller = new_poller(api, config, clock, wall_clock=lambda: wall[0])
        for _ in range(3):
            assert last_accepted(poller, clock) == NOW
            wall[0] += 900
            clock.now += 900


feeds = st.builds(FeedConfig, name=st.just("guests"), max_failed_ratio=st.sampled_from([0, 0.01, 0.1, 0.5, 1]))
ended = st.builds(
    lambda status, counts, modified, created: Batch(
        ref=ref(1),
        status=status,
        error_log_available=False,
        failed_records=counts[0],
        total_records=counts[1],
        modified=modified,
        created=created,
    ),
    st.sampled_from([BatchStatus.SUCCESS, BatchStatus.ERROR, BatchStatus.CORRUPTED, BatchStatus.UPLOADING]),
    st.sampled_from(
        [(0, 100), (1, 100), (2, 100), (5, 10), (51, 100), (100, 100), (9, 1000), (7, 7), (None, 7), (3, 0)]
    ),
    st.sampled_from([None, 0.5, 1.0, 2.0, 3.0]),
    st.sampled_from([None, 0.5, 1.0, 2.0, 3.0]),
)


@settings(deadline=None)
@given(st.lists(ended, max_size=12), feeds)
def test_what_is_kept_of_past_batches_is_enough_for_every_rule(batches: list[Batch], rule: FeedConfig) -> None:
    past = PastBatches()
    for batch in batches:
        past.add("guests", batch)
    assert newest_accepted(past.of_feed("guests"), rule) == newest_accepted(batches, rule)


def test_a_large_batch_with_few_failures_is_kept_beside_a_newer_small_one_with_a_larger_share_of_them() -> None:
    large = Batch(ref=ref(1), status=BatchStatus.ERROR, failed_records=9, total_records=1000, created=1.0, modified=1.0)
    small = replace(large, ref=ref(2), failed_records=5, total_records=10, created=2.0, modified=2.0)
    past = PastBatches()
    for batch in (large, small):
        past.add("guests", batch)
    assert list(past.of_feed("guests")) == [large, small]


def test_a_batch_that_comes_and_goes_is_kept_once() -> None:
    past = PastBatches()
    for _ in range(3):
        past.add("guests", Batch(ref=ref(1), status=BatchStatus.SUCCESS, created=1.0, modified=2.0))
        past.add("guests", Batch(ref=ref(2), status=BatchStatus.SUCCESS, modified=2.0))
    assert [batch.ref for batch in past.of_feed("guests")] == [ref(1)]


def test_a_feed_without_an_accepted_batch_has_the_time_zero() -> None:
    failed = Batch(ref=ref(1), status=BatchStatus.CORRUPTED, error_log_available=False, created=1.0, modified=2.0)
    rule = FeedConfig(name="guests")
    undated = Batch(ref=ref(2), status=BatchStatus.SUCCESS)
    none = NewestAccepted(modified=0.0, created=0.0, finished=0.0)
    assert [newest_accepted(batches, rule) for batches in ([], [undated])] == [none] * 2
    assert newest_accepted([failed], rule) == replace(none, finished=2.0)


@pytest.mark.parametrize(
    ("status", "created", "seen", "expired"),
    [
        (BatchStatus.UPLOADING, 7.0, 7.0 + MAX_UPLOAD_SECONDS, False),
        (BatchStatus.UPLOADING, 7.0, 8.0 + MAX_UPLOAD_SECONDS, True),
        (BatchStatus.UPLOADING, None, 8.0 + MAX_UPLOAD_SECONDS, False),
        (BatchStatus.FILE_UPLOADED, 7.0, 8.0 + MAX_UPLOAD_SECONDS, False),
        (BatchStatus.PROCESSING, 7.0, 8.0 + MAX_UPLOAD_SECONDS, False),
        (BatchStatus.UNKNOWN, 7.0, 8.0 + MAX_UPLOAD_SECONDS, False),
        (BatchStatus.SUCCESS, 7.0, 8.0 + MAX_UPLOAD_SECONDS, False),
    ],
)
def test_a_batch_is_expired_once_it_was_seen_without_its_file_so_long_after_its_allocation(
    status: BatchStatus, created: float | None, seen: float, *, expired: bool
) -> None:
    batch = Batch(ref=ref(1), status=status, error_log_available=False, created=created, modified=9.0)
    assert Reading(batch, seen).expired is expired


@pytest.mark.parametrize(
    ("status", "finished"), [(BatchStatus.UPLOADING, 7.0), (BatchStatus.PROCESSING, 0.0), (BatchStatus.CORRUPTED, 9.0)]
)
def test_an_expired_batch_has_ended_as_of_its_allocation_unless_it_goes_on(
    status: BatchStatus, finished: float
) -> None:
    batch = Batch(ref=ref(1), status=status, error_log_available=False, created=7.0, modified=9.0)
    assert newest_accepted([batch], FeedConfig(name="guests")) == NewestAccepted(finished=finished)


def test_what_is_kept_of_past_batches_stays_small() -> None:
    past = PastBatches()
    batch = Batch(ref=ref(1), status=BatchStatus.ERROR, error_log_available=False, total_records=100)
    for number in range(1000):
        past.add("guests", replace(batch, failed_records=number % 7, created=float(number), modified=float(number)))
    assert len(list(past.of_feed("guests"))) <= 7
    past.forget_all_but({})
    assert list(past.of_feed("guests")) == []
