# ruff: noqa: ANN401, S324  JSON is Any; the Batch API's checksum is MD5.
"""What is wrong with a record or a file."""

import gzip
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sitecore_cdp_exporter.sandbox import records
from sitecore_cdp_exporter.sandbox.records import ImportResult, check_record, import_file
from tests.sandbox.client import (
    RECORD,
    lines,
)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (lines(RECORD), None),
        (lines(RECORD)[:-1] + b"\r\n", None),
        (lines({**RECORD, "schema": "order", "value": {}}), None),
        (lines({**RECORD, "mode": "gdpr_delete"}), None),
        (lines({**RECORD, "value": {"identifiers": [{"provider": "CRM", "id": "1"}]}}), None),
        (b"{", ("null", "400", "Failed to parse import line")),
        (b"[1]", ("null", "400", "Failed to parse import line")),
        (b"\xff\xfe", ("null", "400", "Failed to parse import line")),
        (b'{"ref": NaN}', ("null", "400", "Failed to parse import line")),
        (b"[" * 100_000, ("null", "400", "Failed to parse import line")),
        (b"{}", ("null", "400", "Validation error: ref must be a UUID")),
        (lines({**RECORD, "ref": "12"}), ("12", "400", "Validation error: ref must be a UUID")),
        (lines({**RECORD, "ref": 12}), ("12", "400", "Validation error: ref must be a UUID")),
        (lines({**RECORD, "schema": None}), (RECORD["ref"], "400", "Validation error: schema must be a string")),
        (lines({**RECORD, "value": []}), (RECORD["ref"], "400", "Validation error: value must be an object")),
        (lines({**RECORD, "mode": ["upsert"]}), (RECORD["ref"], "402", "Unsupported mode")),
        (lines({**RECORD, "value": {"email": ""}}), (RECORD["ref"], "400", "Identity information missing")),
    ],
)
def test_a_record_is_checked(line: bytes, error: tuple[str, str, str] | None) -> None:
    found = check_record(line)
    assert (found and (found.ref, found.code, found.message)) == error


@given(st.binary())
def test_any_line_is_either_good_or_explained(line: bytes) -> None:
    error = check_record(line)
    assert error is None or set(json.loads(error.line())) == {"ref", "code", "message"}


def imported(content: bytes, **options: Any) -> ImportResult | None:
    return import_file(content, checksum=hashlib.md5(content).hexdigest(), size=len(content), **options)


def test_blank_lines_and_a_missing_last_line_end_are_no_records() -> None:
    result = imported(gzip.compress(b"\n\r\n" + lines(RECORD) + b"  \n" + lines(RECORD)[:-1]))
    assert result == ImportResult(status="success", total=2, failed=0)


@pytest.mark.parametrize("limit", ["MAX_UNPACKED_BYTES", "MAX_LINE_BYTES"])
def test_a_file_that_unpacks_to_too_much_is_given_up(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    content = gzip.compress(b" " * 1001)
    monkeypatch.setattr(records, limit, 1001)
    assert imported(content) == ImportResult(status="success", total=0, failed=0)
    monkeypatch.setattr(records, limit, 1000)
    assert imported(content) == ImportResult(status="error")


def test_an_import_stops_when_it_is_told_to() -> None:
    answers = iter([False, False, True])
    assert imported(gzip.compress(lines(*[RECORD] * 10)), is_stopping=lambda: next(answers)) is None
    assert list(answers) == []
