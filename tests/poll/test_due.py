"""When the next batch of a feed is due, by the interval and by the clock."""

import datetime as dt
import time
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitecore_cdp_exporter.config.calendar import DAYS, Calendar
from sitecore_cdp_exporter.config.model import FeedConfig
from sitecore_cdp_exporter.poll.acceptance import NewestAccepted
from sitecore_cdp_exporter.poll.due import due, next_due

HOUR = 3600.0
DAY = 24 * HOUR
BERLIN = ZoneInfo("Europe/Berlin")
WEEKDAYS = ("mon", "tue", "wed", "thu", "fri")
KNOWN = dt.datetime(2026, 3, 2, 12, tzinfo=BERLIN).timestamp()


def at(text: str, zone: str = "Europe/Berlin", fold: int = 0) -> float:
    """The moment at which a clock shows a date and a time."""
    return dt.datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()


def nightly(grace: float = 0.0, excluded: object = (), **calendar: Any) -> FeedConfig:  # noqa: ANN401  Keys of the config file.
    """A feed that is due at 23:30 in Berlin, or as `calendar` says."""
    by: dict[str, Any] = {"time": "23:30", "timezone": "Europe/Berlin", "except": excluded, **calendar}
    return FeedConfig(name="nightly-guests", expect_success_by=by, grace=grace)  # type: ignore[arg-type]


def shown(moment: float | None) -> str:
    """A moment as the clocks of Berlin show it, and whether they are on summer time."""
    assert moment is not None
    return f"{dt.datetime.fromtimestamp(moment, BERLIN):%a %Y-%m-%d %H:%M:%S %Z}"


def test_nothing_is_due_where_nothing_is_expected() -> None:
    assert due(FeedConfig(name="guests"), KNOWN, KNOWN) is None


@pytest.mark.parametrize(("last", "expected"), [(KNOWN + 5, KNOWN + 5 + 25 * HOUR), (0.0, KNOWN + 25 * HOUR)])
def test_by_the_interval_a_batch_is_due_so_long_after_the_newest_or_after_the_feed_is_known(
    last: float, expected: float
) -> None:
    feed = FeedConfig(name="guests", expect_success_every=DAY, grace=HOUR)
    assert due(feed, last, KNOWN) == expected


# 2026-03-02 is a Monday. What was accepted last, and when the next one is due with a window of six hours.
WITH_A_WINDOW = {
    "just before the window": ("2026-03-02 17:29:59", "Mon 2026-03-02 23:30:00 CET"),
    "on time, as early as the window allows": ("2026-03-02 17:30", "Tue 2026-03-03 23:30:00 CET"),
    "on time": ("2026-03-02 23:00", "Tue 2026-03-03 23:30:00 CET"),
    "on time, at the last moment": ("2026-03-02 23:30", "Tue 2026-03-03 23:30:00 CET"),
    "late": ("2026-03-03 02:00", "Tue 2026-03-03 23:30:00 CET"),
    "late by many hours": ("2026-03-03 17:00", "Tue 2026-03-03 23:30:00 CET"),
    "on Friday": ("2026-03-06 23:00", "Mon 2026-03-09 23:30:00 CET"),
    "at the weekend, which is late for Friday": ("2026-03-08 23:00", "Mon 2026-03-09 23:30:00 CET"),
}


@pytest.mark.parametrize(("last", "expected"), WITH_A_WINDOW.values(), ids=WITH_A_WINDOW)
def test_a_batch_counts_for_the_deadline_in_whose_window_it_is_or_that_it_is_late_for(last: str, expected: str) -> None:
    assert shown(due(nightly(days=WEEKDAYS, window=6 * HOUR), at(last), KNOWN)) == expected


def test_late_and_then_nothing_the_next_night_is_overdue_the_next_night() -> None:
    feed = nightly(grace=HOUR, window=6 * HOUR)
    late = due(feed, at("2026-03-03 02:00"), KNOWN)
    assert late == at("2026-03-04 00:30")


# Likewise without a window: since the deadline before.
WITHOUT_A_WINDOW = {
    "right after the deadline before": ("2026-03-02 23:30:01", "Wed 2026-03-04 23:30:00 CET"),
    "early": ("2026-03-03 10:00", "Wed 2026-03-04 23:30:00 CET"),
    "on time, at the last moment": ("2026-03-03 23:30", "Wed 2026-03-04 23:30:00 CET"),
    "early, at the weekend": ("2026-03-07 10:00", "Tue 2026-03-10 23:30:00 CET"),
}


@pytest.mark.parametrize(("last", "expected"), WITHOUT_A_WINDOW.values(), ids=WITHOUT_A_WINDOW)
def test_without_a_window_a_batch_counts_since_the_deadline_before(last: str, expected: str) -> None:
    assert shown(due(nightly(days=WEEKDAYS), at(last), KNOWN)) == expected


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("2026-03-02 23:45", "Wed 2026-03-04 00:30:00 CET"),
        ("2026-03-03 00:30", "Wed 2026-03-04 00:30:00 CET"),
        ("2026-03-03 00:30:01", "Thu 2026-03-05 00:30:00 CET"),
    ],
)
def test_without_a_window_a_batch_in_its_grace_does_not_count_for_the_next_deadline(last: str, expected: str) -> None:
    # Otherwise a missing batch of a feed that always comes in its grace would show a day late.
    assert shown(due(nightly(grace=HOUR), at(last), KNOWN)) == expected


@pytest.mark.parametrize("grace", [23 * HOUR, 30 * HOUR])
@pytest.mark.parametrize(
    ("last", "deadline"),
    [
        ("2026-03-03 11:30", "2026-03-03 23:30"),
        ("2026-03-03 11:31", "2026-03-04 23:30"),
        ("2026-03-03 21:30", "2026-03-04 23:30"),
    ],
)
def test_a_long_grace_leaves_half_the_time_to_be_early_for_the_next_deadline(
    last: str, deadline: str, grace: float
) -> None:
    assert due(nightly(grace=grace), at(last), KNOWN) == at(deadline) + grace


@pytest.mark.parametrize(("window", "deadline"), [(3 * DAY, "2026-03-05 23:30"), (24 * HOUR, "2026-03-03 23:30")])
def test_a_batch_counts_for_all_deadlines_whose_windows_it_is_in(window: float, deadline: str) -> None:
    assert due(nightly(window=window), at("2026-03-02 23:00"), KNOWN) == at(deadline)


@pytest.mark.parametrize(
    ("known", "grace", "expected"),
    [
        ("2026-03-02 12:00", HOUR, "2026-03-03 00:30"),
        ("2026-03-02 23:29", HOUR, "2026-03-03 00:30"),
        # The deadline is over, though its grace is not.
        ("2026-03-02 23:30", HOUR, "2026-03-04 00:30"),
        ("2026-03-02 23:31", HOUR, "2026-03-04 00:30"),
        ("2026-03-07 12:00", 0.0, "2026-03-09 23:30"),
    ],
)
def test_a_feed_that_was_just_added_is_due_by_its_first_deadline(known: str, grace: float, expected: str) -> None:
    assert due(nightly(grace, days=WEEKDAYS, window=6 * HOUR), 0.0, at(known)) == at(expected)


@pytest.mark.parametrize("excluded", ["2026-12-25", dt.date(2026, 12, 25)], ids=["text", "date"])
def test_an_excluded_day_has_no_deadline(excluded: object) -> None:
    # 2026-12-25 is a Friday.
    feed = nightly(days=WEEKDAYS, window=6 * HOUR, excluded=(excluded,))
    assert due(feed, at("2026-12-24 23:00"), KNOWN) == at("2026-12-28 23:30")
    # What comes on that day counts for no deadline to come.
    assert due(feed, at("2026-12-25 23:00"), KNOWN) == at("2026-12-28 23:30")
    assert due(feed, 0.0, at("2026-12-25 12:00")) == at("2026-12-28 23:30")


def test_a_date_is_excluded_where_the_deadline_is_and_not_in_utc() -> None:
    feed = nightly(time="00:30", window=HOUR, excluded=("2026-12-25",))
    # That is 2026-12-24 23:30 UTC.
    assert due(feed, at("2026-12-24 00:30"), KNOWN) == at("2026-12-26 00:30")


SUMMER_TIME_BEGINS = {
    "the night before": ("2026-03-27 22:00", "23:30", "Sat 2026-03-28 23:30:00 CET"),
    "the night of it": ("2026-03-28 23:00", "23:30", "Sun 2026-03-29 23:30:00 CEST"),
    "before the hour that is missing": ("2026-03-28 12:00", "01:59", "Sun 2026-03-29 01:59:00 CET"),
    "the first time that does not exist": ("2026-03-28 12:00", "02:00", "Sun 2026-03-29 03:00:00 CEST"),
    "a time that does not exist": ("2026-03-28 12:00", "02:30", "Sun 2026-03-29 03:30:00 CEST"),
    "the day after one that does not exist": ("2026-03-29 03:30", "02:30", "Mon 2026-03-30 02:30:00 CEST"),
}
SUMMER_TIME_ENDS = {
    "the night before": ("2026-10-23 22:00", "23:30", "Sat 2026-10-24 23:30:00 CEST"),
    "the night of it": ("2026-10-24 23:00", "23:30", "Sun 2026-10-25 23:30:00 CET"),
    "a time that comes twice": ("2026-10-24 12:00", "02:30", "Sun 2026-10-25 02:30:00 CET"),
    "the first time that comes once again": ("2026-10-24 12:00", "03:00", "Sun 2026-10-25 03:00:00 CET"),
    "the day after one that comes twice": ("2026-10-25 02:45", "02:30", "Mon 2026-10-26 02:30:00 CET"),
}


@pytest.mark.parametrize(
    ("last", "time", "expected"),
    [*SUMMER_TIME_BEGINS.values(), *SUMMER_TIME_ENDS.values()],
    ids=[*SUMMER_TIME_BEGINS, *SUMMER_TIME_ENDS],
)
def test_a_deadline_is_by_the_clocks_of_its_zone_when_they_are_changed(last: str, time: str, expected: str) -> None:
    assert shown(due(nightly(time=time, window=6 * HOUR), at(last), KNOWN)) == expected


def test_the_first_of_two_times_is_not_yet_late() -> None:
    feed = nightly(time="02:30", window=2 * HOUR)
    for fold in (0, 1):
        assert due(feed, at("2026-10-25 02:20", fold=fold), KNOWN) == at("2026-10-26 02:30")


def test_the_last_hour_of_a_day_may_come_again_after_midnight() -> None:
    # Newfoundland set its clocks back from 00:01 to 23:01 of the day before.
    feed = nightly(timezone="America/St_Johns", window=HOUR)
    after_midnight = at("2010-11-07 00:00:30", "America/St_Johns")
    again = at("2010-11-06 23:30", "America/St_Johns", fold=1)
    assert again > after_midnight
    assert due(feed, 0.0, after_midnight) == again


def test_a_date_that_a_zone_skipped_is_not_a_second_deadline() -> None:
    # Samoa went from 29 to 31 December 2011.
    feed = nightly(timezone="Pacific/Apia", window=HOUR)
    last = at("2011-12-31 23:00", "Pacific/Apia")
    assert due(feed, last - DAY, KNOWN) == at("2011-12-31 23:30", "Pacific/Apia")
    assert due(feed, last, KNOWN) == at("2012-01-01 23:30", "Pacific/Apia")
    assert due(nightly(timezone="Pacific/Apia"), last, KNOWN) == at("2012-01-01 23:30", "Pacific/Apia")


@pytest.mark.parametrize("last", [-62_135_596_800.0, -1.0, 1.0, 253_402_300_799.0, 1e18])
@pytest.mark.parametrize("window", [None, 1e-3, 292 * 365 * DAY])
@pytest.mark.parametrize("zone", ["Etc/GMT+12", "Pacific/Kiritimati"])
def test_whatever_time_the_api_reports_there_is_a_due_time(last: float, window: float | None, zone: str) -> None:
    moment = due(nightly(timezone=zone, window=window, grace=292 * 365 * DAY), last, KNOWN)
    assert moment is not None
    assert 0 < moment < 1e12


zones = st.sampled_from(
    ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Asia/Tehran"]
)
moments = st.floats(at("2005-01-01 00:00"), at("2037-01-01 00:00"))
calendars = st.builds(
    nightly,
    time=st.times().map(lambda time: f"{time:%H:%M}"),
    timezone=zones,
    days=st.sets(st.sampled_from(DAYS), min_size=1).map(tuple),
    window=st.none() | st.floats(1.0, 30 * DAY),
    grace=st.just(0.0) | st.floats(0.0, 10 * DAY),
)


def deadlines_around(calendar: Calendar, moment: float) -> list[float]:
    """The deadlines from a fortnight before a moment to four months after it, counted without `fold`."""
    first = dt.datetime.fromtimestamp(moment, calendar.timezone).date() - dt.timedelta(days=14)
    days = [first + dt.timedelta(days=number) for number in range(140)]
    return sorted(
        {
            _deadline(day, calendar)
            for day in days
            if DAYS[day.weekday()] in calendar.days and day not in calendar.excluded
        }
    )


def _deadline(day: dt.date, calendar: Calendar) -> float:
    """The last moment at which the clocks show that day and time, or would without being changed."""
    naive = dt.datetime.combine(day, calendar.time)
    utc = naive.replace(tzinfo=dt.UTC)
    offsets = [(utc + dt.timedelta(days=days)).astimezone(calendar.timezone).utcoffset() for days in (-1, 0, 1)]
    moments = [utc - offset for offset in offsets if offset is not None]
    shown = [each for each in moments if each.astimezone(calendar.timezone).replace(tzinfo=None) == naive]
    return max(shown or moments).timestamp()


@given(feed=calendars, one=moments, other=moments)
def test_a_newer_batch_never_makes_the_next_one_due_earlier(feed: FeedConfig, one: float, other: float) -> None:
    earlier, later = sorted((one, other))
    dues = due(feed, earlier, KNOWN), due(feed, later, KNOWN)
    assert dues[0] is not None
    assert dues[1] is not None
    assert dues[0] <= dues[1]
    # The next one is not overdue at the moment at which this one is accepted.
    assert dues[1] > later


@given(feed=calendars, last=moments, excluded=st.sets(st.integers(0, 60), max_size=60))
def test_due_is_the_first_deadline_of_the_calendar_that_no_batch_counts_for_and_its_grace(
    feed: FeedConfig, last: float, excluded: set[int]
) -> None:
    first = dt.datetime.fromtimestamp(last, dt.UTC).date()
    calendar = feed.expect_success_by
    assert calendar is not None
    calendar = calendar.model_copy(update={"excluded": tuple(first + dt.timedelta(days=day) for day in excluded)})

    def begins(before: float, deadline: float) -> float:
        if calendar.window is not None:
            return deadline - calendar.window
        return before + min(feed.grace, (deadline - before) / 2)

    deadlines = pairwise(deadlines_around(calendar, last))
    expected = next(deadline for before, deadline in deadlines if last <= begins(before, deadline) and deadline >= last)
    moment = due(feed.model_copy(update={"expect_success_by": calendar}), last, KNOWN)
    assert moment == pytest.approx(expected + feed.grace, abs=1e-3)


@given(feed=calendars, finished=moments, accepted=moments | st.just(0.0), since=moments)
def test_one_that_finishes_is_never_due_before_one_that_is_accepted(
    feed: FeedConfig, finished: float, accepted: float, since: float
) -> None:
    newest = NewestAccepted(modified=accepted, finished=max(finished, accepted))
    moment = next_due(feed, newest, since)
    assert moment is not None
    assert moment.finished >= moment.accepted == due(feed, accepted, since)
    if accepted:
        assert moment.finished == due(feed, newest.finished, since)


@given(feed=calendars, since=moments)
def test_a_feed_without_a_batch_is_due_by_the_first_deadline_after_it_is_known(feed: FeedConfig, since: float) -> None:
    moment = due(feed, 0.0, since)
    assert moment is not None
    assert since < moment - feed.grace + 1e-3
    assert moment - feed.grace - since < 9 * DAY


@pytest.mark.parametrize(("zone", "offset"), [("UTC", 0), ("America/New_York", -5), ("Pacific/Kiritimati", 14)])
def test_the_time_zone_of_the_process_does_not_matter(zone: str, offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        assert time.timezone == -offset * HOUR, "it is the time zone of this process"
        moment = due(nightly(days=WEEKDAYS, window=6 * HOUR), at("2026-03-06 23:00"), KNOWN)
    time.tzset()
    assert moment == at("2026-03-09 23:30")
