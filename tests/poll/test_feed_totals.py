"""What counts for a feed: each batch once, whatever was seen of it in which order."""

from collections import Counter
from copy import deepcopy
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.error_log import ErrorLog, RecordCause
from sitecore_cdp_exporter.config.model import FeedConfig
from sitecore_cdp_exporter.poll import feed_totals
from sitecore_cdp_exporter.poll.feed_totals import ROUNDING, SECONDS_BEFORE_THE_START, BatchCounter, FeedTotals, Totals
from sitecore_cdp_exporter.poll.walk import FINISHED, UNFINISHED
from tests.fake_api import ref

START = 1.75e9
LONG_AGO = START - 86400
FEED = "guests"
TOLERANT = FeedConfig(name=FEED, max_failed_ratio=0.1)
STRICT = FeedConfig(name=FEED)
LOG = ErrorLog({RecordCause.VALIDATION: 3, RecordCause.NOT_FOUND: 1})

LISTED = Batch(ref=ref(1), status=BatchStatus.PROCESSING, created=LONG_AGO, modified=LONG_AGO)
SUCCESS = Batch(
    ref=ref(1),
    status=BatchStatus.SUCCESS,
    created=LONG_AGO,
    modified=START + 60,
    error_log_available=False,
    total_records=10,
    succeeded_records=10,
    failed_records=0,
)
ERROR = replace(SUCCESS, status=BatchStatus.ERROR, succeeded_records=9, failed_records=1, error_log_available=True)


def without_details(batch: Batch) -> Batch:
    """Give a batch as the list shows it."""
    return Batch(ref=batch.ref, status=batch.status, created=batch.created, modified=batch.modified)


class Feed:
    """One feed, and the counter of a process that has just started."""

    def __init__(self) -> None:
        self.all = Totals()
        self.all.begin([FEED], 0.0)
        self.counter = BatchCounter(self.all, START)

    def see(self, *batches: Batch, log: ErrorLog | None = None, rule: FeedConfig = STRICT) -> FeedTotals:
        for batch in batches:
            self.counter.look_at(batch.ref, FEED, batch, log, rule)
        self.counter.forget({batch.ref for batch in batches})
        return self.totals

    def see_none(self) -> None:
        self.counter.forget([])

    @property
    def totals(self) -> FeedTotals:
        return self.all.of(FEED)

    @property
    def finished(self) -> dict[str, int]:
        return {status: count for status, count in self.totals.finished.items() if count}


@pytest.fixture
def feed() -> Feed:
    return Feed()


def test_a_batch_that_was_seen_unfinished_counts_when_it_has_finished(feed: Feed) -> None:
    feed.see(LISTED)
    assert feed.finished == {}
    feed.see(replace(SUCCESS, modified=LONG_AGO + 1))
    assert feed.finished == {"success": 1}
    assert (feed.totals.accepted, feed.totals.succeeded_records, feed.totals.failed_records) == (1, 10, 0)


@pytest.mark.parametrize(
    ("modified", "counts"),
    [
        (START + 1, True),
        (START - SECONDS_BEFORE_THE_START + 1, True),
        (START - SECONDS_BEFORE_THE_START, False),
        (LONG_AGO, False),
    ],
)
def test_a_batch_that_was_finished_when_first_seen_counts_if_it_was_modified_lately(
    feed: Feed,
    modified: float,
    counts: bool,  # noqa: FBT001  A column.
) -> None:
    feed.see(replace(SUCCESS, modified=modified))
    feed.see(replace(ERROR, ref=ref(2), modified=modified), log=LOG)
    assert feed.finished == ({"success": 1, "error": 1} if counts else {})
    assert feed.totals.succeeded_records == (19 if counts else 0)
    assert sum(feed.totals.error_log_records.values()) == (4 if counts else 0)


def test_createdat_stands_in_for_a_missing_modifiedat_and_nothing_for_both(feed: Feed) -> None:
    feed.see(replace(SUCCESS, created=LONG_AGO, modified=None))
    feed.see(replace(SUCCESS, created=None, modified=None))
    assert feed.finished == {}
    feed.see(replace(SUCCESS, created=START, modified=None))
    assert feed.finished == {"success": 1}


def test_a_batch_whose_status_was_not_readable_was_not_seen_unfinished(feed: Feed) -> None:
    feed.see(replace(LISTED, status=BatchStatus.UNKNOWN))
    feed.see(replace(SUCCESS, modified=LONG_AGO))
    assert feed.finished == {}


@pytest.mark.parametrize("change", [{"status": BatchStatus.ERROR}, {"modified": START + 9000}, {"failed_records": 5}])
def test_a_finished_batch_that_changes_counts_no_more(feed: Feed, change: dict[str, object]) -> None:
    feed.see(SUCCESS)
    feed.see(replace(SUCCESS, **change))  # type: ignore[arg-type]
    assert feed.finished == {"success": 1}
    assert (feed.totals.accepted, feed.totals.succeeded_records, feed.totals.failed_records) == (1, 10, 0)


def test_a_batch_that_is_uploaded_anew_under_its_ref_counts_again(feed: Feed) -> None:
    feed.see(ERROR, log=LOG)
    feed.see(replace(LISTED, modified=START + 900))
    again = replace(SUCCESS, modified=START + 1000)
    feed.see(again)
    feed.see(again)
    assert feed.finished == {"error": 1, "success": 1}
    assert (feed.totals.accepted, feed.totals.succeeded_records, feed.totals.failed_records) == (1, 19, 1)


def test_an_answer_that_is_older_than_the_one_before_makes_no_new_upload(feed: Feed) -> None:
    feed.see(SUCCESS)
    feed.see(replace(LISTED, modified=START + 10))
    # The list rounds to the next second.
    feed.see(replace(SUCCESS, modified=START + 60.9))
    assert feed.finished == {"success": 1}


def test_a_batch_that_is_listed_again_does_not_count_twice(feed: Feed) -> None:
    feed.see(SUCCESS)
    feed.see_none()
    feed.see(SUCCESS)
    assert feed.finished == {"success": 1}


def test_records_count_when_the_details_are_read_and_their_log_once_it_was(feed: Feed) -> None:
    feed.see(without_details(ERROR), log=LOG)
    assert feed.finished == {"error": 1}
    assert (feed.totals.succeeded_records, feed.totals.failed_records) == (0, 0)
    assert not any(feed.totals.error_log_records.values()), "it may be that of an upload before"
    feed.see(ERROR)
    assert (feed.totals.succeeded_records, feed.totals.failed_records) == (9, 1)
    for log in (LOG, LOG, ErrorLog({RecordCause.OTHER: 7})):
        feed.see(ERROR, log=log)
    counts = {cause: count for cause, count in feed.totals.error_log_records.items() if count}
    assert counts == {"validation": 3, "not_found": 1}
    assert (feed.totals.succeeded_records, feed.totals.failed_records) == (9, 1)


def test_records_that_a_batch_does_not_count_itself_count_as_none(feed: Feed) -> None:
    feed.see(replace(SUCCESS, total_records=None, succeeded_records=None, failed_records=None))
    assert (feed.totals.succeeded_records, feed.totals.failed_records) == (0, 0)


def test_the_records_of_a_finished_batch_that_counts_are_awaited_until_its_details_are_read(feed: Feed) -> None:
    old = replace(SUCCESS, modified=LONG_AGO + 1)

    def awaits(batch: Batch) -> bool:
        return feed.counter.awaits_records(batch.ref, batch)

    assert awaits(without_details(SUCCESS))
    assert not awaits(SUCCESS), "there is nothing to wait for"
    assert not awaits(without_details(replace(SUCCESS, status=BatchStatus.PROCESSING)))
    assert not awaits(without_details(old)), "it does not count"
    feed.see(LISTED)
    assert awaits(without_details(old))
    feed.see(without_details(old))
    assert awaits(without_details(old))
    feed.see(old)
    assert not awaits(without_details(old))
    feed.see(replace(SUCCESS, ref=ref(2)))
    assert not awaits(without_details(replace(SUCCESS, ref=ref(2))))


@pytest.mark.parametrize(("before", "after", "accepted"), [(TOLERANT, STRICT, 1), (STRICT, TOLERANT, 0)])
def test_a_batch_is_accepted_by_the_rule_of_the_moment_at_which_it_counts(
    feed: Feed, before: FeedConfig, after: FeedConfig, accepted: int
) -> None:
    feed.see(ERROR, rule=before)
    feed.see(ERROR, rule=after)
    assert feed.totals.accepted == accepted


def test_where_only_the_details_can_say_whether_a_batch_is_accepted_they_decide(feed: Feed) -> None:
    feed.see(without_details(ERROR), rule=TOLERANT)
    assert feed.totals.accepted == 0
    feed.see(ERROR, rule=TOLERANT)
    feed.see(ERROR, rule=TOLERANT)
    assert feed.totals.accepted == 1


def test_a_success_whose_details_cannot_be_read_is_accepted(feed: Feed) -> None:
    feed.see(without_details(SUCCESS))
    assert feed.totals.accepted == 1


def test_what_has_counted_for_one_feed_goes_on_to_count_for_it(feed: Feed) -> None:
    feed.all.begin(["orders"], 0.0)
    feed.see(without_details(SUCCESS))
    feed.counter.look_at(SUCCESS.ref, "orders", SUCCESS, None, None)
    assert feed.totals.succeeded_records == 10
    assert feed.all.of("orders") == FeedTotals()


def test_another_organisation_counts_on_from_where_it_began_and_only_what_is_new(feed: Feed) -> None:
    feed.see(SUCCESS)
    later = START + 86400
    feed.counter.begin_another_organisation(later)
    feed.see(replace(SUCCESS, ref=ref(2)))
    assert feed.finished == {"success": 1}, "it had finished long before the config named its organisation"
    feed.see(replace(SUCCESS, ref=ref(3), modified=later))
    assert feed.finished == {"success": 2}


def test_what_was_shown_does_not_change_when_more_counts(feed: Feed) -> None:
    feed.see(ERROR, log=LOG)
    shown = feed.all.shown(1.0)[FEED]
    before = deepcopy(shown)
    feed.see(replace(ERROR, ref=ref(2)), log=LOG)
    assert shown == before
    assert feed.totals.finished != shown.finished
    assert feed.totals.error_log_records != shown.error_log_records


def test_the_poll_that_is_the_first_to_show_a_feed_shows_zeros_whatever_has_counted(feed: Feed) -> None:
    feed.all.begin([FEED, None], 5.0)
    feed.see(SUCCESS)
    assert feed.all.shown(0.0) == {FEED: FeedTotals(), None: FeedTotals()}, "a scrape that shares the first poll"
    assert feed.all.shown(1.0)[FEED].accepted == 1
    feed.counter.look_at(ref(2), None, replace(SUCCESS, ref=ref(2)), None, None)
    assert feed.all.shown(5.0)[None].accepted == 0
    assert feed.all.shown(6.0)[None].accepted == 1


def test_a_feed_that_nothing_has_named_for_long_is_forgotten_and_begins_again_at_zero(feed: Feed) -> None:
    feed.see(SUCCESS)
    feed.all.begin(["orders"], 50.0)
    feed.all.forget_unnamed(0.0)
    assert feed.all.shown(50.0).keys() == {FEED, "orders"}
    feed.all.forget_unnamed(0.1)
    assert feed.all.shown(50.0).keys() == {"orders"}
    feed.see(SUCCESS, replace(SUCCESS, ref=ref(2)))
    assert feed.all.shown(60.0).keys() == {"orders"}, "what comes late for a forgotten feed is lost"
    feed.all.begin([FEED], 70.0)
    feed.see(SUCCESS, replace(SUCCESS, ref=ref(3)))
    assert feed.all.shown(70.0)[FEED].accepted == 0
    assert feed.all.shown(71.0)[FEED].accepted == 1, "no batch counts twice"


@pytest.mark.parametrize(("later", "finished"), [(ROUNDING, 1), (ROUNDING + 0.1, 2)])
def test_an_upload_is_new_if_it_was_modified_later_than_times_are_rounded(
    feed: Feed, later: float, finished: int
) -> None:
    feed.see(SUCCESS)
    feed.see(LISTED)
    feed.see(replace(SUCCESS, modified=START + 60 + later))
    assert feed.finished == {"success": finished}


def test_an_upload_without_times_is_new_after_the_batch_was_seen_unfinished(feed: Feed) -> None:
    undated = replace(SUCCESS, created=None, modified=None)
    for number, batch in enumerate([undated, SUCCESS, undated, undated], 1):
        feed.see(LISTED)
        feed.see(batch)
        assert feed.finished == {"success": number}


def test_as_long_as_few_batches_are_remembered_none_is_too_old_to_count(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_totals, "MAX_REMEMBERED", 2)
    feed.see(replace(SUCCESS, ref=ref(1), modified=START + 100))
    # The first one is watched no more.
    feed.see(replace(SUCCESS, ref=ref(2), modified=START + 100))
    feed.see(replace(SUCCESS, ref=ref(3), modified=START + 50))
    assert feed.finished == {"success": 3}


def test_what_was_counted_longest_ago_is_forgotten_first(feed: Feed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_totals, "MAX_REMEMBERED", 1)
    one, two = replace(SUCCESS, modified=START + 10), replace(SUCCESS, ref=ref(2), modified=START + 20)
    feed.see(one, two)
    feed.see(LISTED, two)
    feed.see(replace(one, modified=START + 1000), two)
    feed.see_none()
    feed.see(replace(SUCCESS, ref=ref(3), modified=START + 30))
    assert feed.finished == {"success": 4}


def test_what_is_remembered_is_bounded_and_what_is_forgotten_never_counts_twice(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed_totals, "MAX_REMEMBERED", 10)
    batches = [replace(SUCCESS, ref=ref(number), modified=START + number) for number in range(50)]
    watched = [replace(SUCCESS, ref=ref(number)) for number in range(100, 120)]
    feed.see(*watched)
    for batch in batches:
        feed.see(batch, *watched)
    assert feed.finished == {"success": 70}
    assert len(feed.counter._counted) <= 10 + 21
    feed.see(*watched, *batches)
    assert feed.finished == {"success": 70}
    feed.see(replace(SUCCESS, ref=ref(200), modified=START + 1000))
    assert feed.finished == {"success": 71}


@dataclass
class Upload:
    """A try to load a batch: as it is, as it was when it counted and when its details did, and what else was seen."""

    batch: Batch
    counted: Batch | None = None
    read: Batch | None = None
    seen_unfinished: bool = False
    log: bool = False


@dataclass
class History:
    """The uploads of one ref, the last of them last."""

    uploads: list[Upload] = field(default_factory=list)
    listed: bool = True


class FeedMachine(RuleBasedStateMachine):
    """Batches that are uploaded, finish, are uploaded anew, listed, taken from the list and looked at, in any order.

    The model keeps every upload for itself, so that what should have counted follows from the whole history.
    """

    def __init__(self) -> None:
        super().__init__()
        self.feed = Feed()
        self.now = START - 2 * SECONDS_BEFORE_THE_START
        self.histories: list[History] = []
        self.shown = FeedTotals()

    def tick(self, seconds: float) -> float:
        self.now += seconds
        return self.now

    # A few batches of which much happens find more than many.
    @precondition(lambda self: len(self.histories) < 3)
    @rule(seconds=st.sampled_from([5.0, 200.0]), listed=st.booleans())
    def upload(self, seconds: float, listed: bool) -> None:  # noqa: FBT001  Hypothesis calls it by name.
        batch = replace(LISTED, ref=ref(len(self.histories)), created=self.tick(seconds), modified=self.now)
        self.histories.append(History([Upload(batch)], listed))

    @precondition(lambda self: self.histories)
    @rule(data=st.data(), status=st.sampled_from(UNFINISHED + FINISHED), failed=st.integers(0, 10))
    def progress(self, data: st.DataObject, status: BatchStatus, failed: int) -> None:
        """Let an upload go on; one that has finished begins anew, or only changes."""
        history = data.draw(st.sampled_from(self.histories))
        last = history.uploads[-1]
        batch = replace(last.batch, status=status, modified=self.tick(5.0))
        if not last.batch.status.finished and status.finished:
            batch = replace(
                batch, error_log_available=True, total_records=10, succeeded_records=10 - failed, failed_records=failed
            )
        elif last.batch.status.finished and not status.finished:
            history.uploads.append(Upload(without_details(batch)))
            return
        last.batch = batch

    @precondition(lambda self: self.histories)
    @rule(data=st.data())
    def list_or_not(self, data: st.DataObject) -> None:
        history = data.draw(st.sampled_from(self.histories))
        history.listed = not history.listed

    @rule(details=st.booleans(), logs=st.booleans())
    def look(self, details: bool, logs: bool) -> None:  # noqa: FBT001  Likewise.
        """Look at all that is listed: at the batches themselves, or only at the list."""
        listed = [history for history in self.histories if history.listed]
        for history in self.histories:
            if not history.listed:
                # The exporter forgets that it was unfinished.
                for upload in history.uploads:
                    upload.seen_unfinished = False
        for history in listed:
            self.note(history, details=details, logs=logs)
        batches = [history.uploads[-1].batch for history in listed]
        self.feed.see(*(batches if details else map(without_details, batches)), log=LOG if logs else None)

    def note(self, history: History, *, details: bool, logs: bool) -> None:
        upload = history.uploads[-1]
        if not upload.batch.status.finished:
            upload.seen_unfinished = True
            return
        if upload.counted is None:
            earlier = [index for index, each in enumerate(history.uploads) if each.counted]
            is_fresh = not earlier and (upload.batch.modified or 0) > START - SECONDS_BEFORE_THE_START
            since = history.uploads[earlier[-1] + 1 :] if earlier else history.uploads
            if is_fresh or any(each.seen_unfinished for each in since):
                upload.counted = upload.batch
        # What is read of an upload that does not count itself may be all that there is of one that did.
        last = next((each for each in reversed(history.uploads) if each.counted), None)
        if last is not None and details:
            last.read = last.read or upload.batch
            last.log |= logs

    @invariant()
    def what_has_counted_is_what_should_have(self) -> None:
        uploads = [upload for history in self.histories for upload in history.uploads]
        totals = self.feed.totals
        by_status = Counter(upload.counted.status for upload in uploads if upload.counted)
        assert totals.finished == {status: by_status[status] for status in FINISHED}
        assert totals.accepted == by_status[BatchStatus.SUCCESS]
        read = [upload.read for upload in uploads if upload.read]
        assert totals.succeeded_records == sum(batch.succeeded_records or 0 for batch in read)
        assert totals.failed_records == sum(batch.failed_records or 0 for batch in read)
        assert totals.error_log_records[RecordCause.VALIDATION] == 3 * sum(upload.log for upload in uploads)

    @invariant()
    def no_counter_falls(self) -> None:
        before, now = self.shown, self.feed.all.shown(1.0)[FEED]
        assert all(now.finished[status] >= count for status, count in before.finished.items())
        assert (now.accepted, now.succeeded_records) >= (before.accepted, before.succeeded_records)
        assert now.failed_records >= before.failed_records
        self.shown = now


TestWhateverIsSeen = FeedMachine.TestCase
TestWhateverIsSeen.settings = settings(
    deadline=None,
    max_examples=100,
    stateful_step_count=40,
    # To shrink a failure would take longer than the test may.
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
