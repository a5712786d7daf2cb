"""When everything watched had been answered for, and what is known only then: when the next batch of a feed is due."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchPage, BatchStatus
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.model import Config
from sitecore_cdp_exporter.poll.due import Due
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.snapshot import Snapshot
from tests.fake_api import Clock, FakeApi, Lists, batch, ref
from tests.poll.polling import DAY, Scrape, poll, wait_for_poll_threads_to_end

START = 1.75e9
HOUR = 3600.0
NIGHTLY = {"name": "nightly", "expect_success_every": DAY, "grace": HOUR, "ref_prefix": ref(1)[:8]}
HOURLY = {"name": "hourly", "expect_success_every": HOUR}


class Machine:
    """A poller, and the clocks of its machine, which a test moves together."""

    def __init__(self, api: FakeApi, clock: Clock, **sections: Any) -> None:  # noqa: ANN401  Sections of the config file.
        self.api = api
        self.clock = clock
        self._started = clock.now
        self.lists = Lists()
        self.poller = Poller(
            api, config(**sections), self.lists, clock=clock, wall_clock=self.wall_clock, wait=clock.wait
        )

    def wall_clock(self) -> float:
        return START + self.clock.now - self._started

    def poll(self, after: float = 60.0) -> Snapshot:
        self.clock.now += after
        return poll(self.poller, self.clock)

    def reconfigure(self, **sections: Any) -> None:  # noqa: ANN401  Likewise.
        self.poller.reconfigure(self.api, config(**sections))


def config(**sections: Any) -> Config:  # noqa: ANN401  Sections of the config file.
    api = {"base_url": "https://api.example", "endpoint": "inspect" if "discovery" in sections else "batches"}
    return Config.model_validate({"api": api, **sections})


def finished(number: int, age: float, status: BatchStatus = BatchStatus.SUCCESS) -> Batch:
    done = batch(number, status, total=10)
    return replace(done, created=START - age - 60, modified=START - age, failed_records=10)


def listed(one: Batch) -> Batch:
    """A batch as the list shows it."""
    return Batch(ref=one.ref, status=one.status, created=one.created, modified=one.modified)


def test_a_poll_is_complete_when_all_have_answered(api: FakeApi, clock: Clock) -> None:
    api.answers[ref(2)] = finished(2, HOUR)
    machine = Machine(api, clock, batches=[ref(1), ref(2)])
    assert machine.poll(60).complete_poll == START + 60
    # Only one is asked, and the other is remembered.
    assert machine.poll(60).complete_poll == START + 120


@pytest.mark.parametrize(
    "answer",
    [*map(PollError.of_status, (404, 403, 500, 418)), PollError(Reason.BAD_RESPONSE)],
    ids=["404", "403", "500", "418", "not a batch"],
)
def test_an_answer_that_is_an_error_of_the_batch_is_an_answer(api: FakeApi, clock: Clock, answer: PollError) -> None:
    api.answers[ref(2)] = answer
    assert Machine(api, clock, batches=[ref(1), ref(2)]).poll(60).complete_poll == START + 60


NO_ANSWERS = [
    *map(PollError.of_status, (401, 429)),
    *map(PollError, (Reason.TIMEOUT, Reason.CONNECTION, Reason.TLS, Reason.INTERNAL)),
]


@pytest.mark.parametrize("failure", NO_ANSWERS, ids=lambda failure: failure.reason.value)
def test_a_batch_that_did_not_answer_leaves_the_poll_incomplete(api: FakeApi, clock: Clock, failure: PollError) -> None:
    api.answers[ref(2)] = failure
    machine = Machine(api, clock, batches=[ref(1), ref(2)])
    assert machine.poll().complete_poll is None
    api.answers[ref(2)] = finished(2, HOUR)
    assert machine.poll(600).complete_poll == START + 660


@pytest.mark.parametrize("status", [401, 500, 503])
def test_the_time_is_frozen_in_an_outage(api: FakeApi, clock: Clock, status: int) -> None:
    machine = Machine(api, clock, batches=[ref(1)])
    machine.poll(60)
    api.answers[ref(1)] = PollError.of_status(status)
    assert machine.poll(60).complete_poll == machine.poll(600).complete_poll == START + 60
    api.answers[ref(1)] = finished(1, HOUR)
    assert machine.poll(600).complete_poll == START + 1320


def test_an_outage_freezes_it_where_all_are_finished_too(api: FakeApi, clock: Clock) -> None:
    api.answers[ref(1)] = finished(1, HOUR)
    machine = Machine(api, clock, batches=[ref(1)])
    machine.poll(60)
    api.answers[ref(1)] = PollError(Reason.TIMEOUT)
    # After five minutes without a request it is asked for a sign of life.
    frozen = machine.poll(600).complete_poll
    assert frozen == START + 60
    assert machine.poll(600).complete_poll == frozen


def test_a_failed_recheck_of_a_finished_batch_leaves_what_it_answered(api: FakeApi, clock: Clock) -> None:
    api.answers[ref(1)] = finished(1, HOUR)
    machine = Machine(api, clock, batches=[ref(1), ref(2)], recheck_finished="0s")
    machine.poll(60)
    api.answers[ref(1)] = PollError(Reason.TIMEOUT)
    assert machine.poll(60).complete_poll == START + 120


def test_where_nothing_is_watched_everything_has_answered(api: FakeApi, clock: Clock) -> None:
    assert Machine(api, clock, feeds=[HOURLY]).poll(60).complete_poll == START + 60


def test_a_poll_whose_time_is_over_is_not_complete_and_a_late_answer_completes_the_next(
    api: FakeApi, clock: Clock, background: ThreadPoolExecutor
) -> None:
    machine = Machine(api, clock, batches=[ref(1)])
    for expected in (None, START + 60):
        api.open.clear()
        scrape = Scrape(background, clock, machine.poller.poll)
        api.wait_until_at_once(1)
        assert scrape.out_of_time().complete_poll == expected
        api.open.set()
        wait_for_poll_threads_to_end()


def test_a_stopped_exporter_has_not_polled_everything(
    api: FakeApi, clock: Clock, background: ThreadPoolExecutor
) -> None:
    machine = Machine(api, clock, batches=[ref(1)])
    api.open.clear()
    scrape = Scrape(background, clock, machine.poller.poll)
    api.wait_until_at_once(1)
    machine.poller.stop()
    assert scrape.result().complete_poll is None


def test_a_probe_has_no_metrics_of_the_watch_list(api: FakeApi, clock: Clock) -> None:
    machine = Machine(api, clock, batches=[ref(1)])
    assert machine.poller.probe(ref(1), clock.now + 10).complete_poll is None


class TestWithDiscovery:
    def test_the_list_and_the_details_of_the_finished_are_part_of_it(self, api: FakeApi, clock: Clock) -> None:
        failed = finished(1, HOUR, BatchStatus.ERROR)
        api.listed = [listed(failed), listed(batch(2))]
        api.answers[ref(1)] = PollError(Reason.TIMEOUT)
        machine = Machine(api, clock, discovery={"enabled": True})
        assert machine.poll().complete_poll is None
        api.answers[ref(1)] = failed
        assert machine.poll(60).complete_poll == START + 120

    def test_details_that_are_refused_are_answered_for(self, api: FakeApi, clock: Clock) -> None:
        api.listed = [listed(finished(1, HOUR)), listed(batch(2))]
        api.answers[ref(1)] = PollError.of_status(404)
        machine = Machine(api, clock, discovery={"enabled": True})
        assert machine.poll(60).complete_poll == START + 60
        # It is not asked again at once.
        assert machine.poll(60).complete_poll == START + 120
        assert api.asked == [ref(1)]

    def test_without_the_list_nothing_is_known_to_be_everything(self, api: FakeApi, clock: Clock) -> None:
        api.list_error = PollError.of_status(500)
        machine = Machine(api, clock, discovery={"enabled": True}, batches=[ref(1)])
        assert machine.poll().complete_poll is None
        api.list_error = None
        assert machine.poll(60).complete_poll == START + 120

    def test_an_item_of_the_list_that_is_unreadable_for_a_month_does_not_stop_it(self, clock: Clock) -> None:
        api = ApiWithAnUnreadableItem()
        api.listed = [batch(2)]
        machine = Machine(api, clock, discovery={"enabled": True})
        snapshot = machine.poll(60)
        assert snapshot.discovery is not None
        assert snapshot.discovery.failure is Reason.BAD_RESPONSE
        assert snapshot.complete_poll == START + 60
        # A list that is no list at all does.
        api.list_error = PollError(Reason.BAD_RESPONSE)
        assert machine.poll(60).complete_poll == START + 60


class ApiWithAnUnreadableItem(FakeApi):
    def read_page(
        self, statuses: tuple[BatchStatus, ...], offset: int, limit: int, credentials: Credentials
    ) -> BatchPage:
        page = super().read_page(statuses, offset, limit, credentials)
        return replace(page, total=(page.total or 0) + 1, length=page.length + 1, unreadable=1)


class TestDue:
    def test_nothing_is_due_before_everything_was_answered_for(self, api: FakeApi, clock: Clock) -> None:
        api.answers = {ref(1): finished(1, HOUR), ref(2): PollError(Reason.TIMEOUT)}
        machine = Machine(api, clock, batches=[{"ref": ref(1), "feed": "nightly"}, ref(2)], feeds=[NIGHTLY])
        assert machine.poll().feeds[0].due is None
        api.answers[ref(2)] = batch(2)
        assert machine.poll().feeds[0].due is not None
        # Then it stays.
        api.answers[ref(2)] = PollError(Reason.TIMEOUT)
        assert machine.poll().feeds[0].due is not None

    def test_it_is_due_after_the_newest_batch_that_finished_and_the_newest_that_was_accepted(
        self, api: FakeApi, clock: Clock
    ) -> None:
        api.answers = {
            ref(1): finished(1, 2 * HOUR),
            ref(2): finished(2, HOUR, BatchStatus.CORRUPTED),
            ref(3): batch(3),
        }
        machine = Machine(api, clock, batches=[{"ref": ref(n), "feed": "nightly"} for n in (1, 2, 3)], feeds=[NIGHTLY])
        (state,) = machine.poll().feeds
        assert state.due == Due(finished=START - HOUR + DAY + HOUR, accepted=START - 2 * HOUR + DAY + HOUR)

    @pytest.mark.parametrize("status", [BatchStatus.SUCCESS, BatchStatus.ERROR, BatchStatus.CORRUPTED])
    def test_a_batch_that_left_its_file_counts_on(self, api: FakeApi, clock: Clock, status: BatchStatus) -> None:
        api.answers = {
            ref(1): finished(1, HOUR, status),
            ref(2): finished(2, 5 * HOUR, BatchStatus.CORRUPTED),
            ref(3): finished(3, 10 * HOUR),
        }
        machine = Machine(api, clock, feeds=[NIGHTLY], batches=[{"ref": ref(n), "feed": "nightly"} for n in (1, 2, 3)])
        before = machine.poll().feeds[0].due
        machine.reconfigure(feeds=[NIGHTLY])
        assert machine.poll().feeds[0].due == before
        assert before is not None
        assert before.finished == START - HOUR + DAY + HOUR

    @pytest.mark.parametrize("status", [BatchStatus.SUCCESS, BatchStatus.CORRUPTED])
    def test_a_feed_that_leaves_the_config_is_forgotten(self, api: FakeApi, clock: Clock, status: BatchStatus) -> None:
        api.answers[ref(1)] = finished(1, HOUR, status)
        machine = Machine(api, clock, feeds=[NIGHTLY], batches=[{"ref": ref(1), "feed": "nightly"}])
        machine.poll(100)
        for feeds in ([NIGHTLY], [], [NIGHTLY]):
            machine.reconfigure(feeds=feeds)
        (state,) = machine.poll().feeds
        assert state.due == Due(finished=START + 100 + DAY + HOUR, accepted=START + 100 + DAY + HOUR)

    def test_a_feed_without_a_batch_has_its_time_from_when_it_is_known(self, api: FakeApi, clock: Clock) -> None:
        machine = Machine(api, clock, feeds=[NIGHTLY])
        known_at_the_start = Due(finished=START + DAY + HOUR, accepted=START + DAY + HOUR)
        assert machine.poll(500).feeds[0].due == known_at_the_start
        machine.reconfigure(feeds=[NIGHTLY, HOURLY])
        added = Due(finished=START + 500 + HOUR, accepted=START + 500 + HOUR)
        for _ in range(2):
            assert [state.due for state in machine.poll(300).feeds] == [known_at_the_start, added]

    def test_an_upload_whose_file_never_came_counts_once_that_was_seen(self, api: FakeApi, clock: Clock) -> None:
        api.answers[ref(1)] = finished(1, HOUR)
        created = START + HOUR
        api.answers[ref(2)] = Batch(
            ref=ref(2), status=BatchStatus.UPLOADING, error_log_available=False, created=created
        )
        watched = [{"ref": ref(number), "feed": "nightly"} for number in (1, 2)]
        machine = Machine(api, clock, batches=watched, feeds=[NIGHTLY])
        before = Due(finished=START + DAY, accepted=START + DAY)
        assert machine.poll(2.5 * HOUR).feeds[0].due == before
        answer = api.answers[ref(2)]
        api.answers[ref(2)] = PollError(Reason.TIMEOUT)
        assert machine.poll(HOUR).feeds[0].due == before
        api.answers[ref(2)] = answer
        assert machine.poll().feeds[0].due == replace(before, finished=created + DAY + HOUR)

    @pytest.mark.parametrize("status", [404, 500])
    def test_what_was_not_seen_to_have_no_file_counts_only_if_it_was_before(
        self, api: FakeApi, clock: Clock, status: int
    ) -> None:
        api.answers[ref(1)] = finished(1, HOUR)
        upload = Batch(ref=ref(2), status=BatchStatus.UPLOADING, error_log_available=False, created=START)
        watched = [{"ref": ref(number), "feed": "nightly"} for number in (1, 2)]
        machine = Machine(api, clock, batches=watched, feeds=[NIGHTLY])
        before = Due(finished=START + DAY, accepted=START + DAY)
        for answer, finishes in (
            (upload, before.finished),
            (PollError.of_status(status), before.finished),
            (upload, START + DAY + HOUR),
            (PollError.of_status(status), START + DAY + HOUR),
        ):
            api.answers[ref(2)] = answer
            assert machine.poll(HOUR).feeds[0].due == replace(before, finished=finishes)

    def test_an_upload_whose_file_never_came_counts_at_once_where_only_the_list_shows_it(
        self, api: FakeApi, clock: Clock
    ) -> None:
        accepted = finished(1, HOUR)
        upload = Batch(ref=ref(2), status=BatchStatus.UPLOADING, created=START - 0.5 * HOUR)
        api.listed = [listed(accepted), upload]
        api.answers = {ref(1): accepted, ref(2): PollError.of_status(404)}
        machine = Machine(api, clock, discovery={"enabled": True}, feeds=[NIGHTLY])
        due = Due(finished=START + DAY, accepted=START + DAY)
        assert machine.poll(HOUR).feeds[0].due == due
        expired = replace(due, finished=START + DAY + 0.5 * HOUR)
        assert machine.poll().feeds[0].due == expired
        api.listed = [listed(accepted)]
        for _ in range(3):
            snapshot = machine.poll(HOUR)
            assert snapshot.feeds[0].due == expired
        assert [state.watched.ref for state in snapshot.batches] == [ref(1)]

    def test_an_upload_whose_file_never_came_counts_on_when_it_has_left_its_file(
        self, api: FakeApi, clock: Clock
    ) -> None:
        api.answers[ref(1)] = finished(1, HOUR)
        for number, created in ((2, START), (3, START + HOUR), (4, START + 2 * HOUR)):
            api.answers[ref(number)] = Batch(
                ref=ref(number), status=BatchStatus.UPLOADING, error_log_available=False, created=created
            )
        watched = [{"ref": ref(number), "feed": "nightly"} for number in range(1, 5)]
        machine = Machine(api, clock, batches=watched, feeds=[NIGHTLY])
        before = machine.poll(3 * HOUR).feeds[0].due
        assert before == Due(finished=START + HOUR + DAY + HOUR, accepted=START + DAY)
        machine.reconfigure(batches=watched[:1], feeds=[NIGHTLY])
        # Of the last one it was never seen whether its file came.
        assert machine.poll(DAY).feeds[0].due == before

    def test_a_batch_that_failed_before_the_feed_was_known_does_not_make_it_overdue(
        self, api: FakeApi, clock: Clock
    ) -> None:
        api.answers[ref(1)] = finished(1, 5 * DAY, BatchStatus.CORRUPTED)
        machine = Machine(api, clock, batches=[{"ref": ref(1), "feed": "nightly"}], feeds=[NIGHTLY])
        assert machine.poll().feeds[0].due == Due(finished=START + DAY + HOUR, accepted=START + DAY + HOUR)

    def test_another_expectation_starts_over(self, api: FakeApi, clock: Clock) -> None:
        machine = Machine(api, clock, feeds=[HOURLY])
        machine.poll(2 * HOUR)
        by_the_clock = {"name": "hourly", "expect_success_by": {"time": "15:00"}}
        # START is 15:06:40 UTC.
        machine.reconfigure(feeds=[by_the_clock])
        (state,) = machine.poll().feeds
        assert state.due == Due(finished=START - 400 + DAY, accepted=START - 400 + DAY)

    def test_the_grace_may_change_at_any_time(self, api: FakeApi, clock: Clock) -> None:
        machine = Machine(api, clock, feeds=[HOURLY])
        machine.poll(2 * HOUR)
        machine.reconfigure(feeds=[{**HOURLY, "grace": 2 * HOUR}])
        (state,) = machine.poll().feeds
        assert state.due == Due(finished=START + 3 * HOUR, accepted=START + 3 * HOUR)

    def test_another_organisation_starts_from_scratch(self, api: FakeApi, clock: Clock) -> None:
        machine = Machine(api, clock, feeds=[HOURLY])
        machine.poll(HOUR)
        other = Config.model_validate({"api": {"base_url": "https://other.example"}, "feeds": [HOURLY]})
        machine.poller.reconfigure(api, other)
        (state,) = machine.poll(60).feeds
        assert state.due == Due(finished=START + 2 * HOUR, accepted=START + 2 * HOUR)
