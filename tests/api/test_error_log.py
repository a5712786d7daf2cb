"""Counting the rejected records of any error log by cause."""

import gzip
import json
import tracemalloc
import zlib
from collections.abc import Iterator

import pytest

from sitecore_cdp_exporter.api.error_log import (
    BOUNDS,
    ErrorLog,
    ErrorLogBounds,
    NotAnErrorLogError,
    RecordCause,
    count_causes,
)

MIB = 1024 * 1024
REF = "9c5b0f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"


def line(code: object = "400", message: object = "Validation error", ref: str = REF) -> bytes:
    return json.dumps({"ref": ref, "code": code, "message": message}).encode() + b"\n"


GOOD = line()
ONE = ErrorLog({RecordCause.VALIDATION: 1})


def packed(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Pack a log of any size, piece by piece."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    for piece in pieces:
        yield packer.compress(piece)
    yield packer.flush()


@pytest.mark.parametrize(
    ("code", "message", "cause"),
    [
        ("400", "Validation error: extension field age must be a number", "validation"),
        ("400", "Attribute nickname is not in the schema", "validation"),
        ("400", "There is more than one order with that referenceId", "validation"),
        ("400", "Identity information missing", "identity_missing"),
        ("400", "Not enough identifying info", "identity_missing"),
        ("400", "IDENTITY INFORMATION MISSING", "identity_missing"),
        ("400", "Failed to parse import line", "unparsable_line"),
        ("402", "Unsupported mode", "unsupported_mode"),
        ("403", "Action not allowed", "not_allowed"),
        ("403", "Unable to delete a guest with an active session", "not_allowed"),
        ("404", "Guest not found", "not_found"),
        ("409", "The identity exists already", "already_exists"),
        ("500", "Internal error", "internal"),
        (None, "Unable to migrate guest with open session", "open_session"),
        ("400", "Unable to migrate guest with open session", "open_session"),
        (400, "Validation error", "validation"),
        (" 404 ", "Order not found", "not_found"),
        ("418", "I am a teapot", "other"),
        ("", "", "other"),
        (None, None, "other"),
        ({"value": "400"}, ["Validation error"], "other"),
        (True, 7, "other"),
        ("2000", "", "other"),
    ],
)
def test_a_record_counts_for_its_cause(code: object, message: object, cause: str) -> None:
    assert count_causes([line(code, message)]) == ErrorLog({RecordCause(cause): 1})


@pytest.mark.parametrize("code", [200, "200", "201", 204])
def test_lines_of_a_success_count_in_no_cause(code: object) -> None:
    message = "3 matches found for this guest, 1st match deleted"
    assert count_causes([line(code, message), GOOD]) == ONE
    # The log of a success has nothing else; it is a log all the same.
    assert count_causes([line(code, message)]) == ErrorLog({})


@pytest.mark.parametrize("pack", [gzip.compress, bytes], ids=["gzip", "plain"])
def test_gzip_is_known_by_its_first_bytes_however_they_come(pack: type[bytes]) -> None:
    log = pack(GOOD * 3 + line("404"))
    expected = ErrorLog({RecordCause.VALIDATION: 3, RecordCause.NOT_FOUND: 1})
    assert count_causes([log]) == expected
    assert count_causes(log[at : at + 1] for at in range(len(log))) == expected
    assert count_causes([b"", log[:1], b"", log[1:], b""]) == expected


def test_gzip_files_that_follow_each_other_are_one_log() -> None:
    assert count_causes([gzip.compress(GOOD) + gzip.compress(GOOD) + bytes(512)]) == ErrorLog(
        {RecordCause.VALIDATION: 2}
    )


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n\n"])
def test_the_last_line_counts_with_and_without_its_end(end: bytes) -> None:
    assert count_causes([GOOD.strip() + end]) == ONE


@pytest.mark.parametrize(
    "other",
    [
        b"\n",
        b"not JSON",
        b"{",
        b'["400", "Validation error"]',
        b'[{"code": "400", "message": "Validation error"}]',
        b'"{}"',
        b"null",
        b"[" * 60_000,
        b'{"code":' * 8_000,
        b'{"code": ' + b"9" * 5_000 + b"}",
        b"\xff\xfe{",
        b"<html><body>{}</body></html>",
    ],
)
def test_a_line_that_is_not_an_object_counts_for_no_cause(other: bytes) -> None:
    assert count_causes([other + b"\n" + GOOD]) == ONE
    for log in (other, gzip.compress(other)):
        with pytest.raises(NotAnErrorLogError) as raised:
            count_causes([log])
        assert str(raised.value) == "the error log has no JSON object"


def test_a_nested_object_counts_once() -> None:
    nested = json.dumps({"code": "404", "message": {"code": "400"}, "errors": [{"code": "500"}]}).encode()
    assert count_causes([nested]) == ErrorLog({RecordCause.NOT_FOUND: 1})


def test_text_that_is_not_utf_8_hides_no_record() -> None:
    assert count_causes([b'{"code": "400", "message": "Jos\xe9 \xff\xc0"}\n']) == ONE


@pytest.mark.parametrize("log", [[], [b""], [gzip.compress(b"")]], ids=["nothing", "empty", "packed"])
def test_an_empty_file_is_not_an_error_log(log: list[bytes]) -> None:
    with pytest.raises(NotAnErrorLogError):
        count_causes(log)


@pytest.mark.parametrize(
    "damaged",
    [
        gzip.compress(GOOD * 1000)[:-20],
        gzip.compress(GOOD * 1000)[:-1],
        gzip.compress(GOOD)[:5],
        gzip.compress(GOOD)[:-8] + bytes(8),
        gzip.compress(GOOD)[:10] + b"\xff" * 50,
        gzip.compress(GOOD) + b"garbage",
    ],
    ids=["cut in the middle", "cut at the end", "head", "wrong checksum", "wrong data", "garbage behind it"],
)
def test_a_damaged_gzip_file_is_not_an_error_log(damaged: bytes) -> None:
    with pytest.raises(NotAnErrorLogError, match="cannot be unpacked"):
        count_causes([damaged])


def test_a_log_is_counted_up_to_its_bounds() -> None:
    two = ErrorLog({RecordCause.VALIDATION: 2})
    three = [GOOD * 3]
    assert count_causes(three, ErrorLogBounds(unpacked=len(GOOD) * 3)).truncated is False
    assert count_causes(three, ErrorLogBounds(unpacked=len(GOOD) * 3 - 2)) == ErrorLog(two.records, truncated=True)
    assert count_causes(three, ErrorLogBounds(packed=len(GOOD) * 2 + 5)) == ErrorLog(two.records, truncated=True)
    # Stored, not compressed, so that the first lines can be unpacked without the rest.
    stored = gzip.compress(GOOD * 2000, compresslevel=0)
    counted = count_causes([stored], ErrorLogBounds(packed=len(stored) - 1000))
    assert counted.truncated
    assert 0 < counted.records[RecordCause.VALIDATION] < 2000


@pytest.mark.parametrize("step", [1 << 30, 64 * 1024, 1000])
def test_a_line_that_is_too_long_is_left_out(step: int) -> None:
    long = b'{"code": "400", "message": "' + b"x" * 200_000 + b'"}\n'
    log = GOOD + long + GOOD + long + GOOD + long.strip()
    chunks = [log[at : at + step] for at in range(0, len(log), step)]
    assert count_causes(chunks) == ErrorLog({RecordCause.VALIDATION: 3}, truncated=True)
    with pytest.raises(NotAnErrorLogError):
        count_causes([long])


@pytest.mark.parametrize("step", [1, 7, 100, 1 << 20])
def test_a_line_of_exactly_the_maximum_length_counts(step: int) -> None:
    log = GOOD * 2 + line("404")
    chunks = [log[at : at + step] for at in range(0, len(log), step)]
    whole = ErrorLog({RecordCause.VALIDATION: 2, RecordCause.NOT_FOUND: 1})
    assert count_causes(chunks, ErrorLogBounds(line=len(GOOD) - 1)) == whole
    assert count_causes(chunks, ErrorLogBounds(line=len(GOOD) + 100)) == whole


class Clock:
    """Time that is over after some looks at it."""

    def __init__(self, looks: int) -> None:
        self.left = looks

    def __call__(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise TimeoutError


def test_what_was_counted_when_the_time_is_over_stands() -> None:
    counted = count_causes([GOOD] * 100, check_time=Clock(looks=10))
    assert counted.truncated
    assert 0 < counted.records[RecordCause.VALIDATION] < 100


def test_a_log_that_drips_is_counted_as_far_as_it_was_received() -> None:
    def drip() -> Iterator[bytes]:
        yield GOOD
        raise TimeoutError

    assert count_causes(drip()) == ErrorLog({RecordCause.VALIDATION: 1}, truncated=True)


def test_without_one_record_in_time_there_is_no_log() -> None:
    with pytest.raises(TimeoutError):
        count_causes([b"{\n"] * 100, check_time=Clock(looks=10))


def test_a_broken_connection_is_not_mistaken_for_the_end_of_the_answer() -> None:
    def cut() -> Iterator[bytes]:
        yield gzip.compress(GOOD)[:-9]
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        count_causes(cut())


def peak_of(chunks: Iterator[bytes]) -> tuple[ErrorLog | None, int]:
    """Count a log, and return how many bytes more than before were in use at a time."""
    tracemalloc.start()
    try:
        return count_causes(chunks), tracemalloc.get_traced_memory()[1]
    except NotAnErrorLogError:
        return None, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_megabytes_of_zeros_are_not_an_error_log() -> None:
    # Each of the files that follow each other is far larger than the memory it may take, and quick to pack.
    log, peak = peak_of(iter([gzip.compress(bytes(8 * MIB)) * 2]))
    assert log is None
    assert peak < 2 * MIB


def test_a_line_of_12_megabytes_takes_no_memory() -> None:
    def pieces() -> Iterator[bytes]:
        yield b'{"code": "400", "message": "'
        for _ in range(12):
            yield b"x" * MIB
        yield b'"}\n' + GOOD

    log, peak = peak_of(packed(pieces()))
    assert log == ErrorLog({RecordCause.VALIDATION: 1}, truncated=True)
    assert peak < 4 * MIB


def test_many_empty_lines_take_no_memory() -> None:
    log, peak = peak_of(packed(piece for piece in [b"\n" * (MIB // 4), GOOD]))
    assert log == ONE
    # Of the list of all lines, the references alone would be 2 MiB.
    assert peak < 3 * MIB


@pytest.mark.slow(reason="reads ten million lines, as far as the bounds let it")
def test_ten_million_lines_are_counted_up_to_the_bound() -> None:
    log = count_causes(packed(GOOD * 10_000 for _ in range(1000)))
    assert log == ErrorLog({RecordCause.VALIDATION: BOUNDS.unpacked // len(GOOD)}, truncated=True)


def test_many_records_take_no_memory() -> None:
    log, peak = peak_of(packed(GOOD * 100 for _ in range(100)))
    assert log == ErrorLog({RecordCause.VALIDATION: 10_000})
    # Their refs alone would be more.
    assert peak < 0.8 * MIB
