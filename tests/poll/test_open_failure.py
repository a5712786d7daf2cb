"""Which failures are open, and how much of the batch is missing."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.config.model import ApiConfig, Config, FeedConfig, WatchedBatch
from sitecore_cdp_exporter.poll.acceptance import is_accepted
from sitecore_cdp_exporter.poll.open_failure import MAX_AGE, FailureKind, OpenFailure, open_failure, tolerated_ratio
from tests.fake_api import Clock, FakeApi, Lists, ref
from tests.poll.polling import NOW, new_poller, poll

WEEK = 7 * 86400.0
ERROR = Batch(ref=ref(1), status=BatchStatus.ERROR, error_log_available=True, created=NOW - 60, modified=NOW)
SUCCESS = replace(ERROR, status=BatchStatus.SUCCESS, error_log_available=False)
CORRUPTED = replace(ERROR, status=BatchStatus.CORRUPTED, error_log_available=False)
GUESTS = FeedConfig(name="guests", max_failed_ratio=0.05, min_records=1000)


def judge(
    batch: Batch,
    feed: FeedConfig | None = None,
    *,
    superseded: bool | None = None,
    finished: float | None = NOW,
    now: float = NOW,
) -> tuple[FailureKind, float] | None:
    accepted = is_accepted(batch, feed)
    failure = open_failure(batch, feed, accepted=accepted, superseded=superseded, finished=finished, now=now)
    return None if failure is None else (failure.kind, failure.ratio)


def counts(total: int | None, failed: int | None, batch: Batch = ERROR) -> Batch:
    return replace(batch, total_records=total, failed_records=failed)


REJECTED, FEW, UNREADABLE = FailureKind.REJECTED, FailureKind.REJECTED_FEW, FailureKind.UNREADABLE
NO_LOG = replace(ERROR, error_log_available=False)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (counts(100, 25), (REJECTED, 0.25)),
        (counts(20, 1), (REJECTED, 0.05)),
        (counts(19, 1), (FEW, 1 / 19)),
        (counts(1, 1), (FEW, 1.0)),
        (counts(100, 100), (REJECTED, 1.0)),
        (counts(100, 0), (REJECTED, 0.0)),
        (counts(100, 101), (REJECTED, 1.0)),
        # Without both counts the share is not known, and may be all.
        (counts(100, None), (REJECTED, 1.0)),
        (counts(19, None), (REJECTED, 1.0)),
        (counts(None, 7), (REJECTED, 1.0)),
        (counts(None, None), (REJECTED, 1.0)),
        (counts(0, 0), (REJECTED, 1.0)),
        # Without a log, too, the file was not read at all.
        (counts(None, None, NO_LOG), (UNREADABLE, 1.0)),
        (counts(0, 0, NO_LOG), (UNREADABLE, 1.0)),
        (counts(None, 7, NO_LOG), (REJECTED, 1.0)),
        (counts(100, 25, NO_LOG), (REJECTED, 0.25)),
        (counts(100, None, NO_LOG), (REJECTED, 1.0)),
        (CORRUPTED, (FailureKind.CORRUPTED, 1.0)),
        # The list says that a file is damaged, but not what was rejected.
        (replace(CORRUPTED, error_log_available=None), (FailureKind.CORRUPTED, 1.0)),
        (replace(ERROR, error_log_available=None), None),
        (counts(100, 0, SUCCESS), None),
        *(
            (replace(ERROR, status=status), None)
            for status in (
                BatchStatus.UPLOADING,
                BatchStatus.FILE_UPLOADED,
                BatchStatus.PROCESSING,
                BatchStatus.UNKNOWN,
            )
        ),
    ],
)
def test_a_failed_batch_has_a_kind_and_the_share_that_is_missing(
    batch: Batch, expected: tuple[FailureKind, float] | None
) -> None:
    assert judge(batch) == expected


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (counts(1000, 50), None),
        (counts(1000, 51), (REJECTED, 0.051)),
        (counts(1000, 0, SUCCESS), None),
        (counts(999, 0, SUCCESS), (FailureKind.TOO_FEW_RECORDS, pytest.approx(0.001))),
        (counts(250, 0, SUCCESS), (FailureKind.TOO_FEW_RECORDS, 0.75)),
        (counts(0, 0, SUCCESS), (FailureKind.TOO_FEW_RECORDS, 1.0)),
        (counts(900, 45), (FailureKind.TOO_FEW_RECORDS, pytest.approx(0.1))),
        (counts(None, None, SUCCESS), None),
    ],
)
def test_what_counts_as_loaded_is_open_only_if_the_feed_expects_more_records(
    batch: Batch, expected: tuple[FailureKind, float] | None
) -> None:
    assert judge(batch, GUESTS) == expected


@pytest.mark.parametrize("batch", [counts(100, 25), CORRUPTED, counts(250, 0, SUCCESS)])
def test_a_failure_is_open_for_seven_days_unless_a_later_batch_supersedes_it(batch: Batch) -> None:
    assert MAX_AGE == WEEK
    assert judge(batch, GUESTS, superseded=False, now=NOW + WEEK) is not None
    assert judge(batch, GUESTS, superseded=False, now=NOW + WEEK + 1) is None
    assert judge(batch, GUESTS, finished=None, now=NOW + WEEK + 1) is not None
    assert judge(batch, GUESTS, superseded=True) is None


some_counts = st.one_of(st.none(), st.integers(0, 50), st.integers(0, 10**12))
batches = st.builds(
    Batch,
    ref=st.just(ref(1)),
    status=st.sampled_from(BatchStatus),
    error_log_available=st.none() | st.booleans(),
    total_records=some_counts,
    failed_records=some_counts,
)
feeds = st.builds(
    FeedConfig, name=st.just("guests"), max_failed_ratio=st.floats(0, 0.99), min_records=st.integers(0, 100)
)


@given(batch=batches, feed=feeds, superseded=st.none() | st.booleans(), age=st.floats(-WEEK, 2 * WEEK))
def test_what_is_accepted_in_full_superseded_or_old_is_never_open_and_the_rest_always_is(
    batch: Batch,
    feed: FeedConfig,
    superseded: bool | None,  # noqa: FBT001  Hypothesis calls it by name.
    age: float,
) -> None:
    accepted = is_accepted(batch, feed)
    shown = open_failure(batch, feed, accepted=accepted, superseded=superseded, finished=NOW - age, now=NOW)
    has_few = bool(accepted) and batch.total_records is not None and batch.total_records < feed.min_records
    has_failed = accepted is False or batch.status is BatchStatus.CORRUPTED or has_few
    assert (shown is not None) == (has_failed and not superseded and age <= WEEK)
    assert shown is None or 0 <= shown.ratio <= 1


def config(*refs: str, **feed: object) -> Config:
    return Config.model_validate(
        {
            "api": ApiConfig(base_url="https://api.example"),
            "batches": [WatchedBatch(ref=each, feed="guests") for each in refs],
            "feeds": [FeedConfig.model_validate({"name": "guests", **feed})],
            "recheck_finished": 0.0,
        }
    )


def test_an_open_failure_outlasts_an_outage_and_ends_when_a_later_batch_is_accepted(api: FakeApi, clock: Clock) -> None:
    api.answers[ref(1)] = counts(100, 25)
    api.answers[ref(2)] = PollError.of_status(404)
    poller = new_poller(api, config(ref(1), ref(2), next_success_resolves=True), clock)

    def shown() -> list[OpenFailure | None]:
        return [state.open_failure for state in poll(poller, clock).batches]

    assert shown() == [OpenFailure(REJECTED, 0.25), None]
    api.answers[ref(1)] = api.answers[ref(2)] = PollError(Reason.TIMEOUT)
    clock.now += 3600
    assert shown() == [OpenFailure(REJECTED, 0.25), None]
    api.answers[ref(2)] = replace(SUCCESS, ref=ref(2), created=NOW + 60, modified=NOW + 120)
    clock.now += 3600
    assert shown() == [None, None]


@pytest.mark.parametrize("modified", [NOW, None])
def test_a_failure_ends_after_a_week_whether_or_not_the_api_says_when_the_batch_changed(
    api: FakeApi, clock: Clock, modified: float | None
) -> None:
    api.answers[ref(1)] = replace(counts(100, 25), created=NOW, modified=modified)
    wall = [NOW]
    poller = new_poller(api, config(ref(1)), clock, Lists(), wall_clock=lambda: wall[0])
    assert poll(poller, clock).batches[0].open_failure == OpenFailure(REJECTED, 0.25)
    wall[0] = NOW + WEEK + 1
    assert poll(poller, clock).batches[0].open_failure is None


def test_a_probe_shows_an_open_failure_too(api: FakeApi, clock: Clock) -> None:
    api.answers[ref(1)] = CORRUPTED
    poller = new_poller(api, config(), clock)
    (state,) = poller.probe(ref(1), clock.now + 10).batches
    assert state.open_failure == OpenFailure(FailureKind.CORRUPTED, 1.0)


@pytest.mark.parametrize(
    ("batch", "feed", "finished", "expected"),
    [
        (counts(100, 5), GUESTS, NOW, 0.05),
        (counts(100, 5), GUESTS, NOW - MAX_AGE, 0.05),
        (counts(100, 5), GUESTS, NOW - MAX_AGE - 1, None),
        (counts(100, 5), GUESTS, None, 0.05),
        (counts(100, 5, NO_LOG), GUESTS, NOW, 0.05),
        # The log says that records were rejected.
        (counts(100, 0), GUESTS, NOW, 0.0),
        (counts(100, 0, NO_LOG), GUESTS, NOW, None),
        (counts(100, 6), GUESTS, NOW, None),
        (counts(100, 5), None, NOW, None),
        (counts(100, 5, SUCCESS), GUESTS, NOW, None),
    ],
)
def test_a_failure_is_tolerated_for_a_week_where_the_batch_counts_as_loaded(
    batch: Batch, feed: FeedConfig | None, finished: float | None, expected: float | None
) -> None:
    assert tolerated_ratio(batch, accepted=is_accepted(batch, feed), finished=finished, now=NOW) == expected
