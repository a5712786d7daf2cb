"""What one scrape says of a poll."""

from dataclasses import replace

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.model import ApiConfig, Config, Discovery, FeedConfig, WatchedBatch
from sitecore_cdp_exporter.poll.cause import FailureCause
from sitecore_cdp_exporter.poll.feed_totals import BatchCounter, Totals
from sitecore_cdp_exporter.poll.memory import Memory
from sitecore_cdp_exporter.poll.open_failure import MAX_AGE, FailureKind, OpenFailure
from sitecore_cdp_exporter.poll.poll import Poll
from sitecore_cdp_exporter.poll.snapshot import BatchState, Snapshot, take_snapshot
from tests.fake_api import Clock, FakeApi, batch, ref
from tests.poll.polling import NOW, new_poller, poll

EXPIRED = Batch(ref=ref(1), status=BatchStatus.UPLOADING, error_log_available=False, upload_expiry=NOW - 1, created=1.0)
UNREADABLE = replace(EXPIRED, status=BatchStatus.ERROR, upload_expiry=None)


def snapshot_of(api: FakeApi, clock: Clock, answer: Batch | PollError, endpoint: str = "batches") -> Snapshot:
    api.answers[ref(1)] = answer
    config = Config.model_validate(
        {
            "api": ApiConfig.model_validate({"base_url": "https://api.example", "endpoint": endpoint}),
            "batches": [WatchedBatch(ref=ref(1))],
            "feeds": [FeedConfig(name="guests")],
        }
    )
    poller = new_poller(api, config, clock)
    return poll(poller, clock)


@pytest.mark.parametrize(
    ("answer", "endpoint", "cause"),
    [
        (UNREADABLE, "batches", FailureCause.FILE_UNREADABLE),
        (UNREADABLE, "inspect", FailureCause.FILE_UNREADABLE),
        (EXPIRED, "batches", None),
        (EXPIRED, "inspect", FailureCause.UPLOAD_EXPIRED),
        (PollError.of_status(500), "inspect", None),
    ],
)
def test_a_failed_batch_has_its_cause_as_far_as_the_endpoint_lets_it_be_known(
    api: FakeApi, clock: Clock, answer: Batch | PollError, endpoint: str, cause: FailureCause | None
) -> None:
    (state,) = snapshot_of(api, clock, answer, endpoint).batches
    assert state.cause is cause


def test_an_api_that_is_down_has_the_reason_why(api: FakeApi, clock: Clock) -> None:
    down = snapshot_of(api, clock, PollError(Reason.TIMEOUT, "no answer"))
    assert (down.api_up, down.api_failure) == (False, Reason.TIMEOUT)
    up = snapshot_of(api, clock, EXPIRED)
    assert (up.api_up, up.api_failure) == (True, None)


def test_each_feed_of_the_config_has_its_state(api: FakeApi, clock: Clock) -> None:
    assert [state.feed.name for state in snapshot_of(api, clock, EXPIRED).feeds] == ["guests"]


def test_a_poll_takes_until_its_last_answer_however_late_it_is_shown() -> None:
    config = Config(api=ApiConfig(base_url="https://api.example"))
    running = Poll(config, Memory(config, BatchCounter(Totals(), NOW), 100.0), 100.0, 110.0)
    assert take_snapshot(running, 103.0, NOW).poll_duration == 3.0
    running.finish_if_done(104.0)
    assert take_snapshot(running, 107.0, NOW).poll_duration == 4.0


def state_of(api: FakeApi, clock: Clock, answer: Batch, feed: FeedConfig) -> BatchState:
    api.answers[ref(1)] = answer
    config = Config.model_validate(
        {
            "api": ApiConfig(base_url="https://api.example"),
            "batches": [WatchedBatch(ref=ref(1), feed=feed.name)],
            "feeds": [feed],
        }
    )
    (state,) = poll(new_poller(api, config, clock), clock).batches
    return state


@pytest.mark.parametrize(("age", "ratio"), [(60.0, 0.02), (MAX_AGE + 1, None)])
def test_a_batch_that_counts_as_loaded_shows_for_a_week_what_share_failed(
    api: FakeApi, clock: Clock, age: float, ratio: float | None
) -> None:
    answer = replace(UNREADABLE, total_records=100, succeeded_records=98, failed_records=2, modified=NOW - age)
    assert state_of(api, clock, answer, FeedConfig(name="guests", max_failed_ratio=0.05)).tolerated_ratio == ratio


def test_whether_a_batch_has_too_few_records_goes_by_its_feed(api: FakeApi, clock: Clock) -> None:
    answer = replace(EXPIRED, status=BatchStatus.SUCCESS, total_records=100, upload_expiry=None, modified=NOW - 60)
    state = state_of(api, clock, answer, FeedConfig(name="guests", min_records=200))
    assert state.open_failure == OpenFailure(FailureKind.TOO_FEW_RECORDS, 0.5)


def test_only_what_has_failed_can_be_superseded(api: FakeApi, clock: Clock) -> None:
    feed = FeedConfig(name="guests", next_success_resolves=True)
    assert state_of(api, clock, replace(EXPIRED, status=BatchStatus.PROCESSING), feed).superseded is None
    assert state_of(api, clock, replace(EXPIRED, status=BatchStatus.CORRUPTED), feed).superseded is False


def test_finished_batches_whose_details_cannot_be_read_are_counted(api: FakeApi, clock: Clock) -> None:
    api.listed = [replace(batch(number, BatchStatus.ERROR), modified=NOW - 60) for number in (1, 2)]
    api.answer(PollError.of_status(500), 1, 2)
    config = Config(
        api=ApiConfig(base_url="https://api.example", endpoint="inspect"), discovery=Discovery(enabled=True)
    )
    assert poll(new_poller(api, config, clock), clock).unread == 2
