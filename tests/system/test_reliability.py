"""The fault suite: a row that does not hold fails the command, and the table of the documentation has all rows."""

import re
from functools import partial
from pathlib import Path

import pytest

from tools.faults.__main__ import BEGIN, DOCUMENT, END, SUBJECTS, main, updated
from tools.faults.row import NeedsError, NotHeldError, Row, Verdict, expect, hold
from tools.faults.signals import awaiting, terminates
from tools.faults.upstream import answers_badly
from tools.program import wait_for
from tools.sandbox import faults

EMPTY = f"Before.\n\n{BEGIN}{END}\nAfter.\n"
TABLE_ROW = re.compile(r"^\| (.*?) \| (.*?) \| (.*) \| (.*?) \|$", re.MULTILINE)


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "reliability.md"
    path.write_text(EMPTY, encoding="utf-8")
    return path


def row(attempt: object) -> Row:
    """Make a row whose trial gives this, or raises it."""

    def give(_: Path) -> str:
        if isinstance(attempt, BaseException):
            raise attempt
        return f"{attempt}"

    return Row(fault="a fault", must_hold="It holds.", attempt=give)


def waits_in_vain(_: Path) -> str:
    return wait_for("what never comes", lambda: None, programs=[], seconds=0)


def test_a_row_that_holds_ends_with_0_and_is_in_the_table(document: Path) -> None:
    assert main([], {"Things": [row("one | two\nmore")]}, document) == 0
    text = document.read_text(encoding="utf-8")
    assert "| a fault | It holds. | one \\| two | holds |\n" in text
    assert "### Things" in text
    assert "1 rows: 1 holds. On " in text
    assert (text.startswith("Before.\n"), text.endswith("After.\n")) == (True, True)


@pytest.mark.parametrize(
    "error", [NotHeldError("found this"), AssertionError("found this"), OSError("found this")], ids=repr
)
def test_a_row_that_fails_ends_with_1_and_is_in_the_table(document: Path, error: Exception) -> None:
    assert main([], {"Things": [row("good"), row(error), row("good")]}, document) == 1
    text = document.read_text(encoding="utf-8")
    assert f"| a fault | It holds. | {type(error).__name__}: found this | FAILED |\n" in text
    assert text.count("| holds |") == 2


def test_what_never_comes_is_a_failure() -> None:
    result = Row(fault="a fault", must_hold="It holds.", attempt=waits_in_vain).run()
    assert result.verdict is Verdict.FAILED
    assert "what never comes" in result.measured


def test_what_this_machine_cannot_do_is_skipped_with_a_reason(document: Path) -> None:
    assert main([], {"Things": [row(NeedsError("root"))]}, document) == 0
    assert "| a fault | It holds. | needs root | not tried |\n" in document.read_text(encoding="utf-8")


def test_words_choose_rows_and_write_nothing(document: Path) -> None:
    assert main(["fau"], {"Things": [row("good")]}, document) == 0
    assert main(["no such fault"], {"Things": [row("good")]}, document) == 1
    assert document.read_text(encoding="utf-8") == EMPTY


def test_a_document_without_the_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="missing"):
        updated("nothing", {})


def test_an_expectation_that_is_not_met_says_what_was_found() -> None:
    expect("reasons", "ok", "ok")
    hold("it is so", 1)
    with pytest.raises(NotHeldError, match="reasons: timeout instead of ok"):
        expect("reasons", "timeout", "ok")
    with pytest.raises(NotHeldError, match="it is so"):
        hold("it is so", 0)


QUICK = [
    row
    for rows in SUBJECTS.values()
    for row in rows
    if row.fault in {"404", "a certificate that has expired", "a batch file half written", "SIGHUP between two scrapes"}
]


@pytest.mark.slow(reason="starts an exporter with its sandbox for each fault, and warms it up by several scrapes")
@pytest.mark.parametrize("row", QUICK, ids=[row.fault for row in QUICK])
def test_a_quick_row_holds(row: Row) -> None:
    result = row.run()
    assert result.verdict is Verdict.HOLDS, result.measured


BROKEN = {
    "another reason": partial(answers_badly, fault=faults.Status(500), reason="timeout"),
    "another up": partial(answers_badly, fault=faults.Status(500), reason="server_error", up=1),
    "an exit that is none": partial(terminates, scene=partial(awaiting, fault=faults.Delay(seconds=0.1)), signals=(9,)),
}


@pytest.mark.slow(reason="starts an exporter with its sandbox for each fault, and warms it up by several scrapes")
@pytest.mark.parametrize("attempt", BROKEN.values(), ids=BROKEN)
def test_a_row_fails_when_the_exporter_does_something_else(attempt: partial[str]) -> None:
    result = Row(fault="a fault", must_hold="What it does not.", attempt=attempt).run()
    assert result.verdict is Verdict.FAILED, result.measured
    assert "NotHeldError" in result.measured


def test_each_row_is_once_and_says_what_must_hold() -> None:
    rows = [row for rows in SUBJECTS.values() for row in rows]
    assert len(rows) >= 40
    assert len({row.fault for row in rows}) == len(rows)
    assert all(row.must_hold.endswith(".") for row in rows)


def test_the_documentation_has_exactly_these_rows_and_none_has_failed() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    found = [match.groups() for match in TABLE_ROW.finditer(text) if match[1] != "Fault" and "---" not in match[1]]
    assert [cells[:2] for cells in found] == [
        (row.fault.replace("|", "\\|"), row.must_hold.replace("|", "\\|")) for rows in SUBJECTS.values() for row in rows
    ]
    assert {cells[3] for cells in found} <= {f"{Verdict.HOLDS}", f"{Verdict.NOT_TRIED}"}
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == [*SUBJECTS]
