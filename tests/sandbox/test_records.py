# ruff: noqa: ANN401, S324  JSON is Any; the Batch API's checksum is MD5.
"""What is wrong with a record or a file."""

import gzip
import hashlib
import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitecore_cdp_exporter.sandbox import profiles as profiles_module
from sitecore_cdp_exporter.sandbox import records
from sitecore_cdp_exporter.sandbox.profiles import Profiles
from sitecore_cdp_exporter.sandbox.records import ImportResult, import_file, import_record
from tests.sandbox.client import RECORD, lines

GUEST, ORDER = "guest", "order"
TIMES = ("2026-03-01T12:00:00.000Z", "2026-03-01T13:00:00.000Z")
OK = ("200", "OK")
NO_UUID = "Validation error: ref must be a UUID"
UNPARSABLE = ("null", "400", "Failed to parse import line")


def record(value: Any, mode: Any = "upsert", schema: Any = GUEST) -> bytes:
    return lines({**RECORD, "schema": schema, "mode": mode, "value": value})


def identified(number: int, **value: str) -> dict[str, Any]:
    return {"identifiers": [{"provider": "CRM", "id": str(number)}], **value}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (lines(RECORD), None),
        (lines(RECORD)[:-1] + b"\r\n", None),
        (record({}, schema=ORDER), None),
        (record({"anything": 1}, schema="tracking"), None),
        (record(identified(1)), None),
        (record({"email": None, **identified(1)}), None),
        (
            record({"email": "a@b.c", "extensions": [{"name": "ext", "key": "default", "points": 7, "gold": None}]}),
            None,
        ),
        (record({"migrateFrom": identified(1), "migrateTo": identified(2)}, "guest", "migration"), None),
        (b"{", UNPARSABLE),
        (b"[1]", UNPARSABLE),
        (b"\xff\xfe", UNPARSABLE),
        (b'{"ref": NaN}', UNPARSABLE),
        (b"[" * 100_000, UNPARSABLE),
        (b"{}", ("null", "400", NO_UUID)),
        (lines({**RECORD, "ref": "12"}), ("12", "400", NO_UUID)),
        (lines({**RECORD, "ref": 12}), ("12", "400", NO_UUID)),
        (record({}, schema=None), (RECORD["ref"], "400", "Validation error: schema must be a string")),
        (record([]), (RECORD["ref"], "400", "Validation error: value must be an object")),
        (record({}, ["upsert"]), (RECORD["ref"], "402", "Unsupported mode")),
        (record({}, "replace"), (RECORD["ref"], "402", "Unsupported mode")),
        (record({}, "guest"), (RECORD["ref"], "402", "Unsupported mode")),
        (record({}, "upsert", "migration"), (RECORD["ref"], "402", "Unsupported mode")),
        (record({"email": ""}), (RECORD["ref"], "400", "Identity information missing")),
        (record({"identifiers": []}, "create"), (RECORD["ref"], "400", "Identity information missing")),
        (record({"firstName": "Ada"}, "delete"), (RECORD["ref"], "400", "Not enough identifying info")),
        (record({"email": "a@b.c"}, "gdpr_delete"), (RECORD["ref"], "404", "Guest not found")),
        (
            record({"referenceId": "A1"}, "delete", ORDER),
            (RECORD["ref"], "404", "No order found for the provided referenceId and orderedAt attributes"),
        ),
        (
            record({"orderedAt": TIMES[0]}, "delete", ORDER),
            (RECORD["ref"], "404", "No order found for the provided referenceId and orderedAt attributes"),
        ),
    ],
)
def test_a_record_is_rejected_for_what_is_wrong_with_it(line: bytes, error: tuple[str, str, str] | None) -> None:
    result = import_record(line, Profiles())
    assert (result.ref, result.code, result.message) == (error or (RECORD["ref"], *OK))


@pytest.mark.parametrize(
    ("value", "schema", "said"),
    [
        ({"email": "ada at example.com"}, GUEST, "email is ada at example.com"),
        ({"email": 7}, GUEST, "email: "),
        ({"email": "a@b.c", "identifiers": "CRM 1"}, GUEST, "identifiers is CRM 1"),
        ({"email": "a@b.c", "identifiers": [{"provider": "CRM", "id": 1}]}, GUEST, "identifiers.0.id: "),
        ({"email": "a@b.c", "identifiers": [{"provider": "CRM"}]}, GUEST, "identifiers.0.id: "),
        ({"email": "a@b.c", "extensions": [{"key": ["default"]}]}, GUEST, "extensions.0.key."),
        ({"referenceId": 1}, ORDER, "referenceId: "),
        ({"email": "@" * 100_000}, GUEST, "email is @@@"),
        ({"extensions": [{"key" * 100_000: []}]}, GUEST, "extensions.0.keykey"),
    ],
)
def test_a_value_of_a_wrong_type_or_format_is_named_and_quoted_in_part(value: Any, schema: str, said: str) -> None:
    result = import_record(record(value, schema=schema), Profiles())
    assert result.code == "400"
    assert result.message.startswith(f"Validation error: {said}")
    assert len(result.message) < 500


@pytest.mark.parametrize(
    ("steps", "answers"),
    [
        # The letters of an address have no case.
        ([({"email": "a@b.c"}, "create"), ({"email": "A@b.c"}, "create")], ["200", "409"]),
        ([({"email": "a@b.c"}, "insert"), ({"email": "a@b.c"}, "merge"), ({"email": "a@b.c"}, "upsert")], ["200"] * 3),
        ([(identified(1), "upsert"), (identified(2), "create"), (identified(1), "create")], ["200", "200", "409"]),
        ([({"email": "a@b.c"}, "upsert"), *[({"email": "a@b.c"}, "delete")] * 2], ["200", "200", "404"]),
        # A guest is found by what it was known by before, too.
        (
            [(identified(1, email="a@b.c"), "upsert"), (identified(1), "upsert"), ({"email": "a@b.c"}, "gdpr_delete")],
            ["200"] * 3,
        ),
        ([(identified(1, email="a@b.c"), "upsert"), (identified(1), "delete"), ({"email": "a@b.c"}, "delete")],
         ["200", "200", "404"]),
    ],
)  # fmt: skip
def test_what_becomes_of_a_guest_depends_on_those_before(steps: list[tuple[Any, str]], answers: list[str]) -> None:
    profiles = Profiles()
    assert [import_record(record(*step), profiles).code for step in steps] == answers


def test_a_delete_that_matches_several_guests_deletes_the_first_and_reports_it() -> None:
    profiles = Profiles()
    for number in range(3):
        import_record(record(identified(number, email="a@b.c")), profiles)
    deletes = [import_record(record({"email": "a@b.c"}, "delete"), profiles) for _ in range(4)]
    assert [(delete.code, delete.message) for delete in deletes] == [
        ("200", "3 matches found for this guest, 1st match deleted"),
        ("200", "2 matches found for this guest, 1st match deleted"),
        ("200", "Guest and associated entities deleted"),
        ("404", "Guest not found"),
    ]


def test_an_order_with_a_recycled_reference_needs_its_time_to_be_deleted() -> None:
    profiles = Profiles()

    def order(mode: str, **value: str) -> str:
        return import_record(record({"referenceId": "A1", **value}, mode, ORDER), profiles).message

    assert [order("create", orderedAt=time) for time in TIMES] == ["OK", "OK"]
    assert order("create", orderedAt=TIMES[0]) == "Identity already exists"
    assert order("upsert", orderedAt=TIMES[0]) == "OK"
    assert order("delete").startswith("More than one order exists with that referenceId, please supply the orderedAt")
    assert order("delete", orderedAt=TIMES[0]) == "Order and associated entities deleted"
    assert order("delete") == "Order and associated entities deleted"
    assert order("delete", orderedAt=TIMES[1]).startswith("No order found")


def test_a_long_demo_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles_module, "MAX_IDENTITIES", 3)
    monkeypatch.setattr(profiles_module, "MAX_ORDERS", 3)
    profiles = Profiles()
    for number in range(5):
        import_record(record(identified(number)), profiles)
        import_record(record({"referenceId": str(number)}, schema=ORDER), profiles)
    guests = [import_record(record(identified(number), "delete"), profiles).code for number in range(5)]
    orders = [import_record(record({"referenceId": str(n)}, "delete", ORDER), profiles).code for n in range(5)]
    assert guests == orders == ["404", "404", "200", "200", "200"]


@given(st.lists(st.tuples(st.sampled_from(["create", "delete"]), st.integers(0, 2), st.sampled_from(["", "a@b.c"]))))
def test_as_many_guests_can_be_deleted_as_were_created(steps: list[tuple[str, int, str]]) -> None:
    profiles = Profiles()

    def said(mode: str, number: int, email: str) -> str:
        # Number 0 stands for a guest without identifiers.
        value = identified(number, email=email) if number else {"email": email}
        return import_record(record(value, mode), profiles).message

    answers = [said(*step) for step in steps]
    for left in [(1, ""), (2, ""), (0, "a@b.c")]:
        answers += iter(partial(said, "delete", *left), "Guest not found")
    assert answers.count("OK") == sum(answer.endswith("deleted") for answer in answers)


@given(st.binary())
def test_any_line_is_either_accepted_or_explained(line: bytes) -> None:
    result = import_record(line, Profiles())
    assert set(json.loads(result.line())) == {"ref", "code", "message"}


@pytest.mark.parametrize("place", [b'{"ref": %s}', record({"email": "%s"}).replace(b'"%s"', b"%s")])
def test_a_value_at_any_depth_is_explained(place: bytes) -> None:
    for depth in range(800, 1100):
        assert import_record(place % (b"[" * depth + b"]" * depth), Profiles()).code == "400"


def imported(content: bytes, **options: Any) -> ImportResult | None:
    checksum = hashlib.md5(content).hexdigest()
    return import_file(content, checksum=checksum, size=len(content), profiles=Profiles(), **options)


def test_blank_lines_and_a_missing_last_line_break_are_not_records() -> None:
    result = imported(gzip.compress(b"\n\r\n" + lines(RECORD) + b"  \n" + lines(RECORD)[:-1]))
    assert result == ImportResult(status="success", total=2, failed=0)


@pytest.mark.parametrize("limit", ["MAX_UNPACKED_BYTES", "MAX_LINE_BYTES"])
def test_a_file_that_unpacks_to_too_much_is_given_up(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    content = gzip.compress(b" " * 1001)
    monkeypatch.setattr(records, limit, 1001)
    assert imported(content) == ImportResult(status="success", total=0, failed=0)
    monkeypatch.setattr(records, limit, 1000)
    assert imported(content) == ImportResult(status="error")


def test_an_import_stops_when_it_is_reported_to() -> None:
    answers = iter([False, False, True])
    assert imported(gzip.compress(lines(*[RECORD] * 10)), is_stopping=lambda: next(answers)) is None
    assert list(answers) == []
