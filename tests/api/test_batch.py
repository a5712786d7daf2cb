"""An answer of the API as a Batch: what is tolerated, what is refused."""

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitecore_cdp_exporter.api.batch import (
    MAX_COUNT,
    Batch,
    BatchPage,
    BatchStatus,
    ChecksumProblem,
    MalformedBatchError,
    parse_batch,
    parse_batch_page,
)
from sitecore_cdp_exporter.api.error_log_url import LogUrl
from tests.finished_batch import FINISHED_WITH_ERRORS, REF

SECRET = "presigned-signature"

ANSWER = {
    "href": f"https://api-engage-eu.sitecorecloud.io/v2/batches/{REF}",
    "ref": REF,
    "checksum": "0cc175b9c0f1b6a831c399e269772661",
    "size": 3456,
    "location": {"href": f"https://bucket.example/{SECRET}", "expiry": "2025-04-24T09:33:00.770Z"},
    "status": {"code": "error", "log": f"https://bucket.example/{SECRET}"},
    "summaryStats": {
        "timeToProcessMillis": 614867,
        "totalCount": 121776,
        "succeededCount": 121460,
        "failedCount": 316,
    },
    "createdAt": "2025-04-24T08:33:00.770Z",
    "modifiedAt": "2025-04-24T08:46:04.000Z",
}


def parse(document: object) -> Batch:
    return parse_batch(REF, json.dumps(document).encode()).batch


def with_field(path: str, value: object) -> dict[str, Any]:
    """Return the full answer with one field replaced, given as `summaryStats.totalCount`."""
    document: dict[str, Any] = json.loads(json.dumps(ANSWER))
    *parents, name = path.split(".")
    place = document
    for parent in parents:
        place = place[parent]
    place[name] = value
    return document


def test_a_full_answer_is_read_field_by_field() -> None:
    assert parse(ANSWER) == FINISHED_WITH_ERRORS


def test_a_batch_keeps_no_presigned_url() -> None:
    assert SECRET not in repr(parse(ANSWER))


def test_only_a_status_is_needed() -> None:
    batch = parse({"status": {"code": "uploading"}})
    assert batch == Batch(ref=REF, status=BatchStatus.UPLOADING, error_log_available=False)


@pytest.mark.parametrize("absent", ["summaryStats", "location", "size", "createdAt", "modifiedAt", "ref", "checksum"])
def test_a_missing_field_and_a_null_read_the_same(absent: str) -> None:
    missing = dict(ANSWER)
    del missing[absent]
    assert parse(missing) == parse(with_field(absent, None))


def test_partial_stats_give_what_they_have() -> None:
    batch = parse(with_field("summaryStats", {"totalCount": 7, "failedCount": None}))
    assert (batch.total_records, batch.succeeded_records, batch.failed_records) == (7, None, None)
    assert batch.time_to_process_seconds is None


@pytest.mark.parametrize(
    ("code", "status", "finished"),
    [
        ("uploading", BatchStatus.UPLOADING, False),
        ("file_uploaded", BatchStatus.FILE_UPLOADED, False),
        ("processing", BatchStatus.PROCESSING, False),
        ("success", BatchStatus.SUCCESS, True),
        ("corrupted", BatchStatus.CORRUPTED, True),
        ("error", BatchStatus.ERROR, True),
        ("archived", BatchStatus.UNKNOWN, False),
        ("SUCCESS", BatchStatus.UNKNOWN, False),
        ("", BatchStatus.UNKNOWN, False),
        ("\ud800", BatchStatus.UNKNOWN, False),
    ],
)
def test_every_status_code_is_a_status(code: str, status: BatchStatus, finished: bool) -> None:  # noqa: FBT001  A column.
    batch = parse(with_field("status.code", code))
    assert batch.status is status
    assert batch.status.finished is finished


@pytest.mark.parametrize("value", [None, 5, b"success"])
def test_what_is_not_text_is_not_a_status(value: object) -> None:
    with pytest.raises(ValueError, match="is not a valid BatchStatus"):
        BatchStatus(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("log", "available"), [("https://bucket.example/log", True), ("", False), (None, False)])
def test_an_error_log_is_available_if_there_is_a_url(log: str | None, available: bool) -> None:  # noqa: FBT001  A column.
    assert parse(with_field("status.log", log)).error_log_available is available


@pytest.mark.parametrize(("log", "url"), [("https://bucket.example/log", "https://bucket.example/log"), ("", None)])
def test_the_url_of_an_error_log_is_handed_over_beside_the_batch(log: str, url: str | None) -> None:
    answer = parse_batch(REF, json.dumps(with_field("status.log", log)).encode())
    assert answer.log_url == (None if url is None else LogUrl(url))


@pytest.mark.parametrize(("ref", "names_itself"), [(REF, True), (None, False)])
def test_an_answer_says_whether_it_names_its_batch(ref: str | None, names_itself: bool) -> None:  # noqa: FBT001  A column.
    assert parse_batch(REF, json.dumps(with_field("ref", ref)).encode()).names_itself is names_itself


@pytest.mark.parametrize(
    ("checksum", "problem"),
    [
        (None, None),
        (5, None),
        ("0cc175b9c0f1b6a831c399e269772661", None),
        ("0cc175b9c0f1b6a831c399e26977266F", ChecksumProblem.NOT_LOWERCASE_HEX),
        ("0CC175B9C0F1B6A831C399E269772661", ChecksumProblem.NOT_LOWERCASE_HEX),
        ("0cc175b9c0f1b6a831c399e26977266", ChecksumProblem.MALFORMED),
        ("0cc175b9c0f1b6a831c399e2697726611", ChecksumProblem.MALFORMED),
        ("0CC175B9C0F1B6A831C399E26977266G", ChecksumProblem.MALFORMED),
        ("DMF1ucDxtqgxw5niaXcmYQ==", ChecksumProblem.MALFORMED),
    ],
)
def test_a_checksum_that_matches_no_file_is_named(checksum: object, problem: ChecksumProblem | None) -> None:
    assert parse(with_field("checksum", checksum)).checksum_problem is problem


@pytest.mark.parametrize(
    ("text", "timestamp"),
    [
        ("2025-04-24T08:33:00Z", 1745483580),
        ("2025-04-24T08:33:00.7Z", 1745483580.7),
        ("2025-04-24T08:33:00.770Z", 1745483580.77),
        ("2025-04-24T08:33:00.770123Z", 1745483580.770123),
        ("2025-04-24T08:33:00.770123456Z", 1745483580.770123),
        ("2025-04-24T08:33:00.770+00:00", 1745483580.77),
        ("2025-04-24T10:33:00.770+02:00", 1745483580.77),
        ("2025-04-24T03:03:00-05:30", 1745483580),
        ("2025-04-24T08:33:00+0000", 1745483580),
        ("2025-04-24T08:33:00.770", 1745483580.77),
        ("2025-04-24 08:33:00.770Z", 1745483580.77),
        ("2025-04-24 10:33:00.770+02:00", 1745483580.77),
        ("2025-04-24 08:33:00", 1745483580),
    ],
)
def test_times_may_have_a_fraction_an_offset_and_a_blank_in_a_batch_as_in_the_list(text: str, timestamp: float) -> None:
    assert parse(with_field("createdAt", text)).created == pytest.approx(timestamp, abs=1e-6)
    page = parse_page([item(createdAt=text)])
    assert page.unreadable == 0
    assert page.batches[0].created == pytest.approx(timestamp, abs=1e-6)


@given(
    st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9999, 12, 30)),  # noqa: DTZ001  Hypothesis wants naive bounds.
    st.integers(-23, 23),
)
def test_any_time_is_read_as_the_moment_it_names(naive: datetime, hours: int) -> None:
    moment = naive.replace(tzinfo=timezone(timedelta(hours=hours)))
    read = parse(with_field("modifiedAt", moment.isoformat())).modified
    assert read is not None
    assert read == pytest.approx((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds(), abs=1e-4)


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("far_from_utc")
@pytest.mark.parametrize("text", ["2025-04-24T08:33:00", "2025-04-24T08:33:00Z", "2025-04-24T10:33:00+02:00"])
def test_a_time_without_an_offset_is_utc_in_any_time_zone(text: str) -> None:
    assert parse(with_field("createdAt", text)).created == 1745483580


COUNTS = ["size", "summaryStats.totalCount", "summaryStats.succeededCount", "summaryStats.failedCount"]
TIMES = ["createdAt", "modifiedAt", "location.expiry"]


@pytest.mark.parametrize("count", [0, 0.0, 1, MAX_COUNT])
def test_a_count_may_be_anything_from_0_up_to_a_signed_long(count: float) -> None:
    batch = parse(with_field("summaryStats", dict.fromkeys(ANSWER["summaryStats"], count)))  # type: ignore[call-overload]
    assert (batch.total_records, batch.succeeded_records, batch.failed_records) == (count, count, count)
    assert batch.time_to_process_seconds == count / 1000


@pytest.mark.parametrize("field", [*COUNTS, "summaryStats.timeToProcessMillis"])
@pytest.mark.parametrize("value", ["12", "", True, False, -1, -0.5, [], {}, 2**63, 10**400, 1e300])
def test_what_is_not_a_number_from_0_up_is_refused(field: str, value: object) -> None:
    with pytest.raises(MalformedBatchError, match=rf"^{field} is not a number from 0 up$"):
        parse(with_field(field, value))


@pytest.mark.parametrize("field", COUNTS)
def test_a_fraction_is_not_a_count(field: str) -> None:
    with pytest.raises(MalformedBatchError, match=rf"^{field} is not a whole number$"):
        parse(with_field(field, 1.5))


@pytest.mark.parametrize("field", [*COUNTS, "summaryStats.timeToProcessMillis"])
@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_what_json_does_not_know_is_refused(field: str, constant: str) -> None:
    body = json.dumps(with_field(field, "PLACE")).replace('"PLACE"', constant)
    with pytest.raises(MalformedBatchError):
        parse_batch(REF, body.encode())


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_json_does_not_know_is_refused_wherever_it_stands(constant: str) -> None:
    with pytest.raises(MalformedBatchError, match=r"^the body is not JSON$"):
        parse_batch(REF, f'{{"status": {{"code": "success"}}, "unknown": [{constant}]}}'.encode())


@pytest.mark.parametrize("field", TIMES)
@pytest.mark.parametrize("value", [1745483580770, True, "", "yesterday", "2025-04-24", "2025-13-01T00:00:00Z", [], {}])
def test_what_is_not_a_time_is_refused(field: str, value: object) -> None:
    with pytest.raises(MalformedBatchError, match=rf"^{field} is not (a string|an ISO 8601 time)$"):
        parse(with_field(field, value))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("status", None, "status.code is missing"),
        ("status", "error", "status is not an object"),
        ("status", [], "status is not an object"),
        ("status.code", None, "status.code is missing"),
        ("status.code", 5, "status.code is not a string"),
        ("status.log", True, "status.log is not a string"),
        ("summaryStats", [], "summaryStats is not an object"),
        ("summaryStats", 0, "summaryStats is not an object"),
        ("location", "https://bucket.example", "location is not an object"),
        ("ref", 5, "ref is not a string"),
        ("ref", "439332a9-f837-496f-9e4a-87491689bb90", "ref is not the one that was asked for"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(MalformedBatchError, match=rf"^{message}$"):
        parse(with_field(field, value))


def test_the_ref_may_come_back_in_the_other_case() -> None:
    assert parse(with_field("ref", REF.upper())).ref == REF


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>Sign in</body></html>",
        b"{",
        b"\xff\xfe",
        b'{"status": {"code": "\xff"}}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 5_000,
        b'{"size": ' + b"9" * 5_000 + b"}",
        b"null",
        b"[]",
        b'"success"',
        b"3",
    ],
)
def test_what_is_not_an_object_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedBatchError, match=r"^the body is not (JSON|an object)$"):
        parse_batch(REF, body)


def assert_is_sound(batch: Batch) -> None:
    counts = [batch.total_records, batch.succeeded_records, batch.failed_records, batch.size_bytes]
    assert all(count is None or (type(count) is int and 0 <= count <= MAX_COUNT) for count in counts)
    seconds = batch.time_to_process_seconds
    assert seconds is None or (type(seconds) is float and 0 <= seconds <= MAX_COUNT)
    # float() is what the exposition does with a value; it must never fail there.
    assert all(value is None or float(value) == value for value in [batch.created, batch.modified, batch.upload_expiry])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes().map(lambda d: f"{d:%FT%TZ}"),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=5,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_batch_or_malformed(body: bytes) -> None:
    with suppress(MalformedBatchError):
        assert_is_sound(parse_batch(REF, body).batch)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*COUNTS, *TIMES, "summaryStats.timeToProcessMillis", "status.log", "status", "location"]),
            json_values,
        ),
        min_size=1,
        max_size=3,
    )
)
def test_any_value_in_any_field_results_in_a_valid_batch_or_an_error_that_names_the_field(
    changes: list[tuple[str, object]],
) -> None:
    document = with_field("href", "")
    for path, value in changes:
        *parents, name = path.split(".")
        place = document
        for parent in parents:
            if not isinstance(place.get(parent), dict):
                place[parent] = {}
            place = place[parent]
        place[name] = value
    message = ""
    try:
        assert_is_sound(parse(document))
    except MalformedBatchError as error:
        message = str(error)
    named = [*(path.split(".")[0] for path, _ in changes), "the body is not JSON"]
    assert not message or any(name in message for name in named)


@given(json_values)
def test_an_error_never_quotes_the_answer(value: object) -> None:
    document = {"status": {"code": value, "log": f"https://bucket.example/{SECRET}"}, "size": SECRET}
    with pytest.raises(MalformedBatchError) as raised:
        parse(document)
    assert SECRET not in str(raised.value)


ITEM = {
    "href": f"https://api-engage-eu.sitecorecloud.io/v2/batches/inspect/{REF}",
    "ref": REF,
    "status": "error",
    "createdAt": "2025-04-24T08:33:00.770Z",
    "modifiedAt": "2025-04-24T08:46:04.000Z",
}
LISTED = Batch(ref=REF, status=BatchStatus.ERROR, created=1745483580.77, modified=1745484364)
UNREADABLE_REFS: list[object] = [*(None, "", "batch-7", f"{{{REF}}}", f"{REF}\n", REF.replace("-", ""), 5, {}, [REF])]
UNREADABLE_TIMES = [
    1745483580,
    1745483580770,
    1745483580.77,
    "1745483580770",
    "24 Apr 2025",
    "2025-04-24",
    "",
    {},
    True,
]


def item(**fields: object) -> dict[str, object]:
    return {**ITEM, **fields}


def parse_page(items: object, **fields: object) -> BatchPage:
    return parse_batch_page(json.dumps({"totalCount": 7, "items": items, **fields}).encode())


def test_a_page_is_read_item_by_item() -> None:
    other = "439332a9-f837-496f-9e4a-87491689bb90"
    page = parse_page([ITEM, {"ref": other, "status": "processing"}], offset=0, limit=100)
    assert page == BatchPage(7, 2, (LISTED, Batch(ref=other, status=BatchStatus.PROCESSING)))


@pytest.mark.parametrize("time", UNREADABLE_TIMES)
def test_an_item_whose_time_is_unreadable_keeps_its_ref_and_status(time: object) -> None:
    page = parse_page([item(createdAt=time, modifiedAt=time)])
    assert page == BatchPage(7, 1, (Batch(ref=REF, status=BatchStatus.ERROR),), unreadable=1)


@pytest.mark.parametrize("status", [None, "", "ERROR", "Error", "archived", {"code": "error"}, ["error"], 5, True])
def test_an_item_whose_status_is_unreadable_keeps_its_ref(status: object) -> None:
    page = parse_page([item(status=status)])
    assert page == BatchPage(7, 1, (replace(LISTED, status=BatchStatus.UNKNOWN),), unreadable=1)


@pytest.mark.parametrize(
    "nameless",
    [
        *(None, 5, "error", [], [ITEM], {}, {"status": "error"}),
        *(item(ref=ref) for ref in UNREADABLE_REFS),
    ],
)
def test_an_item_without_a_ref_costs_no_other_item(nameless: object) -> None:
    assert parse_page([nameless, ITEM]) == BatchPage(7, 2, (LISTED,), unreadable=1)


@pytest.mark.parametrize("count", [None, "7", "", -1, 1.5, True, [], {}, 2**63])
def test_a_page_without_a_usable_count_still_has_its_items(count: object) -> None:
    assert parse_page([ITEM], totalCount=count) == BatchPage(None, 1, (LISTED,))


@pytest.mark.parametrize("items", [None, {}, "error", 5])
def test_a_page_without_a_list_of_items_is_refused(items: object) -> None:
    with pytest.raises(MalformedBatchError, match=r"^items is not a list$"):
        parse_page(items)


@given(
    st.dictionaries(st.text(max_size=8) | st.sampled_from(list(ITEM)), st.just(f"https://bucket.example/{SECRET}")),
    st.dictionaries(st.text(max_size=8) | st.just("totalCount"), st.just(f"https://bucket.example/{SECRET}")),
)
def test_a_page_keeps_no_presigned_url_wherever_it_stands(of_item: dict[str, str], of_page: dict[str, str]) -> None:
    for name in ("items", "log"):
        of_page.pop(name, None)
    page = parse_page([{**ITEM, "errorLog": {"href": SECRET}, **of_item}, of_item], log=[SECRET], **of_page)
    assert page.length == 2
    assert SECRET not in repr(page)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps({"totalCount": 1, "items": value}).encode()))
def test_any_bytes_are_a_page_or_malformed(body: bytes) -> None:
    with suppress(MalformedBatchError):
        page = parse_batch_page(body)
        assert page.length - len(page.batches) <= page.unreadable <= page.length
        for batch in page.batches:
            assert_is_sound(batch)


def every_place(document: object, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Name each place of a JSON document where a value stands, objects and lists included."""
    yield place
    if isinstance(document, dict):
        for key, value in document.items():
            yield from every_place(value, (*place, key))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from every_place(value, (*place, index))


def planted(document: Any, place: tuple[str | int, ...], value: object) -> Any:  # noqa: ANN401  Of any kind.
    if not place:
        return value
    copy = json.loads(json.dumps(document))
    target = copy
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    return copy


PRESIGNED = f"https://bucket.example/{SECRET}"
PLANTED = [PRESIGNED, [PRESIGNED], {"href": PRESIGNED}, {PRESIGNED: PRESIGNED}]


def test_a_batch_keeps_no_presigned_url_wherever_it_stands() -> None:
    document = ANSWER | {"errors": PRESIGNED}
    for place in every_place(document):
        for value in PLANTED:
            try:
                shown = repr(parse(planted(document, place, value)))
            except MalformedBatchError as error:
                shown = "".join([repr(error), *traceback.format_exception(error)])
            assert SECRET not in shown, place
