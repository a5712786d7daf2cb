"""Which batches a poll asks for, and in which order."""

from typing import Any

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.errors import PollError
from sitecore_cdp_exporter.poll.memory import Record
from sitecore_cdp_exporter.poll.plan import MAX_SILENCE, SECONDS_BETWEEN_REFUSED_DETAILS, plan
from sitecore_cdp_exporter.poll.reading import Reading

NOW = 5000.0
PROCESSING, SUCCESS, ERROR = BatchStatus.PROCESSING, BatchStatus.SUCCESS, BatchStatus.ERROR


def listed(status: BatchStatus, *, modified: float = 7.0, created: float | None = None) -> Batch:
    return Batch(ref="any", status=status, modified=modified, created=created)


def read(
    status: BatchStatus,
    *,
    modified: float = 7.0,
    asked: float = 100.0,
    recheck: float = NOW + 1,
    **rest: Any,  # noqa: ANN401  Of Record.
) -> Record:
    return Record(reading=Reading(listed(status, modified=modified), asked), asked=asked, recheck=recheck, **rest)


def planned(
    records: dict[str, Record],
    known: dict[str, Batch] | None = None,
    *,
    unfinished: str = "",
    silence: float = 0.0,
    longest_ago_first: bool = False,
) -> list[str]:
    readings = {key: Reading(batch, NOW) for key, batch in (known or {}).items()}
    return plan(
        records,
        readings,
        {key: reading for key, reading in readings.items() if key in unfinished},
        now=NOW,
        last_request=NOW - silence,
        longest_ago_first=longest_ago_first,
    )


@pytest.mark.parametrize(
    ("record", "due"),
    [
        (Record(), True),
        (Record(failure=PollError.of_status(404), asked=NOW), True),
        (read(PROCESSING, asked=NOW), True),
        (read(SUCCESS), False),
        (read(SUCCESS, recheck=NOW), True),
        (read(ERROR, recheck=NOW + 0.1), False),
    ],
)
def test_a_batch_without_a_list_is_due_until_it_is_finished_and_then_for_its_re_check(
    record: Record,
    due: bool,  # noqa: FBT001  A column.
) -> None:
    assert planned({"a": record}) == ["a"] * due


@pytest.mark.parametrize(
    ("record", "batch", "due"),
    [
        (Record(), listed(SUCCESS), True),
        (read(PROCESSING), listed(SUCCESS), True),
        (read(ERROR, listed_modified=7.0), listed(SUCCESS), True),
        (read(SUCCESS, modified=6.0, listed_modified=6.0), listed(SUCCESS), True),
        # It was asked before the list had it. Its own answer may be rounded to a second.
        (read(SUCCESS, modified=7.0), listed(SUCCESS, modified=7.0), False),
        (read(SUCCESS, modified=7.0), listed(SUCCESS, modified=7.999), False),
        (read(SUCCESS, modified=8.0), listed(SUCCESS, modified=7.001), False),
        (read(SUCCESS, modified=7.0), listed(SUCCESS, modified=8.0), True),
        (read(SUCCESS, modified=8.0), listed(SUCCESS, modified=7.0), True),
        # An organisation may round more than is known; then what the list said settles it.
        (read(SUCCESS, modified=9.0, listed_modified=7.0), listed(SUCCESS, modified=7.0), False),
        # The list settles it: no re-check is needed.
        (read(SUCCESS, listed_modified=7.0, recheck=0.0), listed(SUCCESS), False),
        (Record(refused=listed(SUCCESS), asked=NOW - SECONDS_BETWEEN_REFUSED_DETAILS + 1), listed(SUCCESS), False),
        (Record(refused=listed(SUCCESS), asked=NOW - SECONDS_BETWEEN_REFUSED_DETAILS), listed(SUCCESS), True),
        (Record(refused=listed(SUCCESS, modified=6.0), asked=NOW), listed(SUCCESS), True),
        # An older list says that it is unfinished, which proves nothing.
        (Record(), listed(PROCESSING), True),
    ],
)
def test_a_batch_that_the_list_shows_is_due_until_its_details_are_as_new(
    record: Record,
    batch: Batch,
    due: bool,  # noqa: FBT001  Likewise.
) -> None:
    assert planned({"a": record}, {"a": batch}) == ["a"] * due


def test_what_this_list_shows_to_be_unfinished_is_not_asked_unless_it_said_otherwise_itself() -> None:
    records = {"a": Record(), "b": read(PROCESSING), "c": read(SUCCESS)}
    assert planned(records, dict.fromkeys("abc", listed(PROCESSING)), unfinished="abc") == ["c"]


def test_unfinished_come_first_then_never_read_then_re_checks_and_in_each_the_one_asked_longest_ago() -> None:
    records = {
        "recheck, late": read(SUCCESS, asked=90, recheck=0),
        "recheck, early": read(SUCCESS, asked=80, recheck=0),
        "failed": Record(failure=PollError.of_status(500), asked=70),
        "new": Record(),
        "unfinished, late": read(PROCESSING, asked=60),
        "unfinished, early": read(PROCESSING, asked=50),
    }
    assert planned(records) == [
        "unfinished, early",
        "unfinished, late",
        "new",
        "failed",
        "recheck, early",
        "recheck, late",
    ]
    assert planned(records, longest_ago_first=True) == [
        "new",
        "unfinished, early",
        "unfinished, late",
        "failed",
        "recheck, early",
        "recheck, late",
    ]


def test_among_batches_never_polled_the_newest_comes_first() -> None:
    known = {key: listed(SUCCESS, created=created) for key, created in (("old", 1.0), ("new", 3.0), ("middle", 2.0))}
    assert planned({key: Record() for key in known}, known) == ["new", "middle", "old"]


def test_after_a_long_silence_the_batch_polled_longest_ago_is_due() -> None:
    records = {"a": read(SUCCESS, asked=200), "b": read(SUCCESS, asked=100), "c": read(SUCCESS, asked=300)}
    assert planned(records, silence=MAX_SILENCE - 1) == []
    assert planned(records, silence=MAX_SILENCE) == ["b"]
    assert planned({}, silence=MAX_SILENCE) == []
