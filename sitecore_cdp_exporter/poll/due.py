"""When the next batch of a feed is due at the latest. Pure; times are seconds since the Unix epoch.

A feed with `expect_success_by` has deadlines. A batch counts for the deadline that it meets or is late for and, within
the window, for the next ones. The next batch is due by the first deadline that the last one does not count for.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from sitecore_cdp_exporter.config.calendar import DAYS, Calendar
from sitecore_cdp_exporter.config.model import FeedConfig
from sitecore_cdp_exporter.poll.acceptance import NewestAccepted

# The API may report any time, but Python's dates end in the year 9999.
MAX_TIME = dt.datetime(9000, 1, 1, tzinfo=dt.UTC).timestamp()
ONE_DAY = dt.timedelta(days=1)


# A feed, and what is expected of it. When that changes, its time starts over.
Expectation: TypeAlias = tuple[str, float | None, Calendar | None]


def expectation(feed: FeedConfig) -> Expectation:
    """Return what is expected of a feed."""
    return feed.name, feed.expect_success_every, feed.expect_success_by


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """The latest times at which the next batch of a feed is due, including grace.

    Attributes:
        finished: For the next batch that finishes, accepted or not, or whose file never comes.
        accepted: For the next accepted batch.

    """

    finished: float
    accepted: float


def next_due(feed: FeedConfig, newest: NewestAccepted, since: float) -> Due | None:
    """Return when the next batch of a feed is due, after the newest ones; None: nothing is expected.

    Args:
        feed: What is expected.
        newest: Its newest batches.
        since: Since when the expectation is known.

    """
    accepted, finished = due(feed, newest.modified, since), due(feed, newest.finished, since)
    if accepted is None or finished is None:
        return None
    # If none was accepted yet, a batch that failed before the feed was known must not make it overdue at once.
    return Due(finished=max(finished, accepted), accepted=accepted)


def due(feed: FeedConfig, last: float, since: float) -> float | None:
    """Return when the next batch of a feed is due, or None if nothing is expected.

    Args:
        feed: The feed and its expectations.
        last: When the newest batch that counts was modified. 0 or less: there was none.
        since: Since when the expectation is known, so that a feed without a batch is not overdue at once.

    """
    if feed.expect_success_every is not None:
        return (last if last > 0 else since) + feed.expect_success_every + feed.grace
    if feed.expect_success_by is None:
        return None
    calendar = feed.expect_success_by
    deadline = (
        _first_not_met(calendar, min(last, MAX_TIME), feed.grace) if last > 0 else _next_deadline(calendar, since)
    )
    return deadline + feed.grace


def _first_not_met(calendar: Calendar, accepted: float, grace: float) -> float:
    """Return the first deadline that a batch accepted at this time does not count for."""
    if calendar.window is not None:
        return _next_deadline(calendar, min(accepted + calendar.window, MAX_TIME))
    # A batch within the grace of the previous deadline is the one that was due then. But a long grace must leave time
    # for batches that are early for the next.
    before, after = _deadlines_around(calendar, accepted)
    is_late = accepted <= before + min(grace, (after - before) / 2)
    return after if is_late else _next_deadline(calendar, after)


def _deadlines_around(calendar: Calendar, moment: float) -> tuple[float, float]:
    """Return the last deadline before a time, and the next one."""
    day = _day_of(calendar, moment)
    before = next(deadline for deadline in _deadlines(calendar, day, -ONE_DAY) if deadline < moment)
    return before, _next_deadline(calendar, before)


def _next_deadline(calendar: Calendar, moment: float) -> float:
    """Return the first deadline after a time."""
    # Start a day earlier: if clocks are set back at midnight, its last hour occurs twice.
    day = _day_of(calendar, moment) - ONE_DAY
    return next(deadline for deadline in _deadlines(calendar, day, ONE_DAY) if deadline > moment)


def _day_of(calendar: Calendar, moment: float) -> dt.date:
    return dt.datetime.fromtimestamp(moment, calendar.timezone).date()


def _deadlines(calendar: Calendar, day: dt.date, step: dt.timedelta) -> Iterator[float]:
    """Yield the deadlines from a day onwards, or backwards."""
    while True:
        if DAYS[day.weekday()] in calendar.days and day not in calendar.excluded:
            yield _moment(day, calendar)
        day += step


def _moment(day: dt.date, calendar: Calendar) -> float:
    """Return the time of the deadline on a day.

    If clocks are set back and the time occurs twice, the later one counts. If they are set forward and it does not
    occur, it is that much later: 02:30 becomes 03:30.
    """
    local = dt.datetime.combine(day, calendar.time, calendar.timezone)
    return max(local.timestamp(), local.replace(fold=1).timestamp())
