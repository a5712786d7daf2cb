"""One batch file: which entries count, and how the mistakes in the others are failure."""

import json
import os
import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sitecore_cdp_exporter.config.files import read_regular_file
from sitecore_cdp_exporter.config.model import MAX_FILE_BYTES, WatchedBatch
from sitecore_cdp_exporter.watch.batch_files import (
    BatchFile,
    BatchFileError,
    parse_batch_file,
)

REF = "12af3453-62da-4b31-b646-631b7b5f3009"
OTHER_REF = "3ee694e5-0b77-2d1e-af19-1aa78f500785"
PATH = Path("batches.d/tonight.yaml")
NO_UUID = "expected a UUID such as 12af3453-62da-4b31-b646-631b7b5f3009"


def parse(content: str | bytes) -> BatchFile:
    return parse_batch_file(PATH, content.encode() if isinstance(content, str) else content)


def read_batch_file(path: Path) -> BatchFile:
    return parse_batch_file(path, read_regular_file(path, MAX_FILE_BYTES))


def failure_of(path: Path) -> str:
    with pytest.raises(BatchFileError) as raised:
        read_batch_file(path)
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None
    return str(raised.value)


@pytest.mark.parametrize(
    "content",
    [
        f"- {REF}\n- {{ref: {OTHER_REF}, feed: guests, labels: {{team: crm}}}}\n",
        f"- {REF}\n- ref: {OTHER_REF}\n  feed: guests\n  labels:\n    team: crm",
        f'["{REF}", {{"ref": "{OTHER_REF}", "feed": "guests", "labels": {{"team": "crm"}}}}]',
        json.dumps([REF, {"ref": OTHER_REF, "feed": "guests", "labels": {"team": "crm"}}], separators=(",", ":")),
        json.dumps([REF, {"ref": OTHER_REF, "feed": "guests", "labels": {"team": "crm"}}], indent="\t"),
        f"\ufeff---\r\n- ref: {REF}\r\n- ref: {OTHER_REF}\r\n  feed: guests\r\n  labels: {{team: crm}}\r\n",
    ],
)
def test_the_entries_are_those_of_batches_in_yaml_and_in_json(content: str, tmp_path: Path) -> None:
    path = tmp_path / "tonight"
    path.write_text(content, encoding="utf-8", newline="")
    expected = (WatchedBatch(ref=REF), WatchedBatch(ref=OTHER_REF, feed="guests", labels={"team": "crm"}))
    assert read_batch_file(path) == BatchFile(expected, ())


def test_an_entry_names_the_batches_that_it_replaces() -> None:
    text = f"- {{ref: {REF}, replaces: [{OTHER_REF.upper()}]}}\n- {{ref: {REF}, replaces: [{OTHER_REF}]}}\n"
    assert parse(text) == BatchFile((WatchedBatch(ref=REF, replaces=(OTHER_REF.upper(),)),), ())
    _, errors = parse(f"{text}- {REF}\n- {{ref: {OTHER_REF}, replaces: [{OTHER_REF.upper()}]}}\n")
    assert errors == (
        f"{PATH}:3: [2]: duplicate ref with a different feed, labels or replaces; line 1 takes precedence",
        f"{PATH}:4: [3].replaces: must name other batches, not this one",
    )


@pytest.mark.parametrize("content", ["", "\n", "# nothing tonight\n", "[]", "---\n", "null", "~\n", "\ufeff"])
def test_an_empty_file_is_an_empty_list(content: str) -> None:
    assert parse(content) == BatchFile((), ())


@pytest.mark.parametrize(
    ("entry", "error"),
    [
        ("nightly", f"[1]: {NO_UUID}"),
        ("12af3453-62da-4b31-b646-631b7b5f30", f"[1]: {NO_UUID}"),
        ("", "[1]: expected a ref, or a mapping with ref, feed, labels and replaces"),
        ("7", "[1]: expected a ref, or a mapping with ref, feed, labels and replaces"),
        ("[]", "[1]: expected a ref, or a mapping with ref, feed, labels and replaces"),
        ("{}", "[1].ref: is missing"),
        ("{feed: guests}", "[1].ref: is missing"),
        ("{ref: 7}", "[1].ref: expected a string; put it in quotes"),
        (f"{{ref: {OTHER_REF}, fed: guests}}", "[1].fed: unknown key; did you mean feed?"),
        (
            f"{{ref: {OTHER_REF}, retention: 1d}}",
            "[1].retention: unknown key; expected one of ref, feed, labels, replaces",
        ),
        (
            f"{{ref: {OTHER_REF}, feed: ''}}",
            "[1].feed: must have at least one character, and no control characters",
        ),
        (f"{{ref: {OTHER_REF}, labels: crm}}", "[1].labels: expected a mapping"),
        (f"{{ref: {OTHER_REF}, labels: {{team: 7}}}}", "[1].labels.team: expected a string; put it in quotes"),
        (
            f"{{ref: {OTHER_REF}, labels: {{a-b: x}}}}",
            "[1].labels.a-b: a label name has only letters, digits and _, and does not start with a digit",
        ),
        (f"{{ref: {OTHER_REF}, ref: {OTHER_REF}}}", "[1].ref: duplicate key; already on line 2"),
        (f"{{ref: {OTHER_REF}, 7: x}}", "[1]: a key that is not a string; quote it if it is meant to be one"),
        ("!!str x", f"[1]: {NO_UUID}"),
        ("!python x", "[1]: YAML tags are not supported; quote a value that begins with !"),
        ("*nightly", "[1]: an alias without an anchor above it; quote a value that begins with *"),
        (
            f"{{ref: {REF}, feed: orders}}",
            "[1].ref: duplicate ref with a different feed, labels or replaces; line 1 takes precedence",
        ),
        (
            f"{{ref: {REF.upper()}, feed: guests}}",
            "[1].ref: duplicate ref with a different feed, labels or replaces; line 1 takes precedence",
        ),
        (REF, "[1]: duplicate ref with a different feed, labels or replaces; line 1 takes precedence"),
    ],
)
def test_a_bad_entry_is_reported_with_its_place_and_the_others_count(entry: str, error: str) -> None:
    good = "- {ref: " + REF + ", feed: guests, labels: {team: crm}}\n"
    last = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
    batches, errors = parse(f"{good}- {entry}\n- {last}\n")
    assert [batch.ref for batch in batches] == [REF, last]
    assert errors == (f"{PATH}:2: {error}",)


def test_all_mistakes_are_reported_in_the_order_of_the_file() -> None:
    batches, errors = parse(f"- x\n- {{ref: {REF}, feed: 7, job: x, labels: {{job: x}}}}\n- {OTHER_REF}\n- y\n")
    assert [batch.ref for batch in batches] == [OTHER_REF]
    assert [error.removeprefix(f"{PATH}:").rpartition(": ")[0] for error in errors] == [
        "1: [0]",
        "2: [1].feed: expected a string; put it in quotes".rpartition(": ")[0],
        "2: [1].labels.job",
        "2: [1].job: unknown key".rpartition(": ")[0],
        "4: [3]",
    ]


@pytest.mark.parametrize("entry", ["{ref: UPPER, feed: guests}", "{feed: guests, labels: {}, ref: LOWER}", "*first"])
def test_the_same_entry_twice_is_accepted(entry: str) -> None:
    entry = entry.replace("UPPER", REF.upper()).replace("LOWER", REF)
    assert parse(f"- &first {{ref: {REF}, feed: guests}}\n- {entry}\n") == BatchFile(
        (WatchedBatch(ref=REF, feed="guests"),), ()
    )


def test_an_invalid_entry_does_not_replace_a_valid_one_with_the_same_ref() -> None:
    batches, errors = parse(f"- {{ref: {REF}, feed: 7}}\n- {{ref: {REF}, feed: guests}}\n")
    assert batches == (WatchedBatch(ref=REF, feed="guests"),)
    assert len(errors) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- [", "2:1: not valid YAML: did not find expected node content"),
        (b'["12af', "1:7: not valid YAML: found unexpected end of stream"),
        (f'["{REF}",\n'.encode(), "2:1: not valid YAML: did not find expected node content"),
        (b"- a\n- \xff\n", "2: not UTF-8"),
        (b"- a\0\n", "1:4: character U+0000 is not allowed in YAML"),
        (f"batches:\n- {REF}\n".encode(), "1: expected a list of batches"),
        (b"{}", "1: expected a list of batches"),
        (REF.encode(), "1: expected a list of batches"),
        (b"password: hunter2", "1: expected a list of batches"),
        (b"\n7\n", "2: expected a list of batches"),
        (b"[]\n---\n[]\n", "2: a second YAML document begins here; expected only one"),
        (b"!x []", "1: YAML tags are not supported; quote a value that begins with !"),
        (b"[" * 100_000, "1:34: not valid YAML: nested too deeply"),
        (rb'[{"feed": "\ud83d\ude00"}]', "1:14: not valid YAML: found invalid Unicode character escape code"),
    ],
)
def test_an_unparsable_file_is_reported_in_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "tonight.yaml"
    path.write_bytes(content)
    failure = failure_of(path)
    assert failure.startswith(f"{path}:{message}")
    assert failure.isprintable()
    assert "hunter2" not in failure


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(f"- {REF}\n".encode().ljust(MAX_FILE_BYTES, b"#"))
    assert len(read_batch_file(path).batches) == 1


def test_what_cannot_be_read_leaves_no_file_open(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    before = sorted(Path("/proc/self/fd").iterdir())
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none"):
        with pytest.raises(OSError, match=re.escape(str(path))):
            read_batch_file(path)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary()
    | st.text().map(str.encode)
    | st.lists(
        st.sampled_from(
            [
                *(
                    "- ",
                    "\n",
                    "\n- ",
                    "ref: ",
                    "feed: ",
                    "labels: ",
                    "{",
                    "}",
                    "[",
                    "]",
                    ", ",
                    ": ",
                    "&a ",
                    "*a",
                    "!x ",
                ),
                *(REF, OTHER_REF, REF.upper(), "'", '"', "<<: ", "~", "7", "x", "---\n", "\0", "\t", "#"),
            ]
        )
    ).map(lambda pieces: "".join(pieces).encode())
)
def test_any_bytes_result_in_entries_and_error_lines_or_in_one_error(content: bytes) -> None:
    try:
        batches, errors = parse(content)
    except BatchFileError as error:
        batches, errors = (), (str(error),)
    refs = [batch.ref.lower() for batch in batches]
    assert len(set(refs)) == len(refs)
    assert all(ref in content.decode("utf-8-sig").lower() for ref in refs)
    assert [line for line in errors if not line.isprintable() or not line.startswith(f"{PATH}:")] == []


ENTRIES = st.fixed_dictionaries(
    {"ref": st.sampled_from([REF, REF.upper(), OTHER_REF, "nightly"])},
    optional={"feed": st.sampled_from(["guests", "orders", ""]), "labels": st.just({"team": "crm"})},
)


@given(entries=st.lists(ENTRIES))
def test_the_first_valid_entry_for_a_ref_wins(entries: list[dict[str, object]]) -> None:
    """Compare with a model that goes through the entries one by one."""
    expected: dict[str, dict[str, object]] = {}
    mistakes = 0
    for entry in entries:
        ref = str(entry["ref"]).lower()
        mistaken = [ref == "nightly", entry.get("feed") == ""]
        mistakes += sum(mistaken)
        if not any(mistaken):
            first = expected.setdefault(ref, entry)
            mistakes += any(first.get(key) != entry.get(key) for key in ("feed", "labels"))
    batches, errors = parse(json.dumps(entries))
    assert batches == tuple(WatchedBatch.model_validate(entry) for entry in expected.values())
    assert len(errors) == mistakes
