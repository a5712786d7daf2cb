"""An error log, streamed: how many records were rejected, by cause. Pure.

A log has one JSON object a line, `{"ref": ..., "code": ..., "message": ...}`, mostly packed with gzip. Its messages
quote personal data. Only counts leave this module, and nothing is kept beyond the line at hand.
"""

import enum
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeAlias

from sitecore_cdp_exporter.api.errors import LogReason, Reason

# Why an error log could not be read.
LogFailure: TypeAlias = Reason | LogReason

# Memory holds a few of these at a time.
_MAX_PIECE = 64 * 1024
_GZIP_MARK = b"\x1f\x8b"
# A number, since `in` looks for one in a short line five times as fast as for bytes.
_BRACE = ord("{")
_decode_json = json.JSONDecoder().decode


class RecordCause(enum.StrEnum):
    """Why a record was rejected, as far as Sitecore documents it: the values of the label `cause`."""

    IDENTITY_MISSING = "identity_missing"  # 400: nothing says whose record it is
    VALIDATION = "validation"  # 400: a type, a format, or an attribute that the schema does not have
    UNPARSABLE_LINE = "unparsable_line"  # 400: the line is not JSON; its ref is the string "null"
    UNSUPPORTED_MODE = "unsupported_mode"  # 402
    NOT_ALLOWED = "not_allowed"  # 403; deleting a guest with an active session, too
    NOT_FOUND = "not_found"  # 404: deletes only, and mostly harmless: already gone
    ALREADY_EXISTS = "already_exists"  # 409: mode create only
    OPEN_SESSION = "open_session"  # the guest has an open session; worth another try later
    INTERNAL = "internal"  # 500: not the file's fault; upload it again
    OTHER = "other"  # nothing that is documented


# What the documented messages say, in lower case: more than their codes do.
_PHRASES = {
    "open session": RecordCause.OPEN_SESSION,
    "failed to parse": RecordCause.UNPARSABLE_LINE,
    "identity information": RecordCause.IDENTITY_MISSING,
    "identifying info": RecordCause.IDENTITY_MISSING,
    "unsupported mode": RecordCause.UNSUPPORTED_MODE,
}
_CODES = {
    "400": RecordCause.VALIDATION,
    "402": RecordCause.UNSUPPORTED_MODE,
    "403": RecordCause.NOT_ALLOWED,
    "404": RecordCause.NOT_FOUND,
    "409": RecordCause.ALREADY_EXISTS,
    "500": RecordCause.INTERNAL,
}


@dataclass(frozen=True, slots=True)
class ErrorLogBounds:
    """How much of a log is read, in bytes: as it is sent, unpacked, and of one line."""

    packed: int = 64 * 1024 * 1024
    unpacked: int = 256 * 1024 * 1024
    line: int = 64 * 1024


BOUNDS = ErrorLogBounds()


@dataclass(frozen=True, slots=True)
class ErrorLog:
    """What is kept of an error log.

    Attributes:
        records: How many records were rejected, for each cause that occurs.
        truncated: Whether there was more than was counted: beyond a bound, or on a line that is too long.

    """

    records: Mapping[RecordCause, int]
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class LogReading:
    """The result of reading an error log.

    Attributes:
        log: Its counts, or why there are none.
        received: How many bytes were received.
        seconds: The processor time that it took.

    """

    log: ErrorLog | LogFailure
    received: int = 0
    seconds: float = 0.0


class NotAnErrorLogError(ValueError):
    """What was sent is no error log: it cannot be unpacked, or has no JSON object. The message is fit for a log."""


def count_causes(
    chunks: Iterable[bytes], bounds: ErrorLogBounds = BOUNDS, check_time: Callable[[], object] = lambda: None
) -> ErrorLog:
    """Count the rejected records of a log by cause.

    Args:
        chunks: The log as it is sent, piece by piece.
        bounds: How much of it is read.
        check_time: Raises TimeoutError once the time for it is over; the chunks may raise it, too.

    Raises:
        NotAnErrorLogError: It cannot be unpacked, or has no JSON object.
        TimeoutError: The time was over before the first JSON object.

    """
    counts: Counter[RecordCause | None] = Counter()
    reading = _Reading(chunks, bounds)
    try:
        for lines in reading.lines():
            check_time()
            counts.update(cause_of(record) for line in lines if (record := _parse(line)) is not None)
    except TimeoutError:
        if not counts:
            raise
        reading.truncated = True
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise NotAnErrorLogError("the error log cannot be unpacked") from None
    if not counts:
        raise NotAnErrorLogError("the error log has no JSON object")
    return ErrorLog({cause: counts[cause] for cause in RecordCause if counts[cause]}, reading.truncated)


def cause_of(record: Mapping[str, object]) -> RecordCause | None:
    """Return why a record was rejected; None: it was not, its code is 2xx."""
    code = f"{record.get('code')}".strip()
    if len(code) == len("200") and code.startswith("2"):
        return None
    message = f"{record.get('message')}".lower()
    for phrase, cause in _PHRASES.items():
        if phrase in message:
            return cause
    return _CODES.get(code, RecordCause.OTHER)


def _parse(line: bytes) -> dict[str, object] | None:
    """Return the JSON object on a line, or None."""
    try:
        # A name that is not UTF-8 is no reason to miss a record.
        record = _decode_json(line.decode(errors="replace"))
    # RecursionError: nested too deeply. A number of too many digits is a ValueError.
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


class _Reading:
    """Unpacks a log and cuts it into lines, within its bounds.

    Attributes:
        truncated: Whether something was left out.

    """

    def __init__(self, chunks: Iterable[bytes], bounds: ErrorLogBounds) -> None:
        self.truncated = False
        self._max_line = bounds.line
        self._pieces = self._up_to(bounds.unpacked, self._unpack(self._up_to(bounds.packed, chunks)))

    def lines(self) -> Iterator[list[bytes]]:
        """Yield the lines that may hold an object, those of one piece at a time."""
        rest = b""
        is_too_long = False
        for piece in self._pieces:
            *lines, rest = (rest + piece).split(b"\n")
            if is_too_long and lines:
                # There it ends.
                del lines[0]
                is_too_long = False
            if is_too_long or len(rest) > self._max_line:
                # It may go on for long, so it is not kept.
                is_too_long, rest, self.truncated = True, b"", True
            yield [line for line in lines if _BRACE in line and self._is_short(line)]
        # The last line may lack a line break. A line cut by a limit is not a complete object, so it does not count.
        yield [rest]

    def _is_short(self, line: bytes) -> bool:
        is_short = len(line) <= self._max_line
        self.truncated |= not is_short
        return is_short

    def _up_to(self, limit: int, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """Pass on so many bytes, and note whether there are more."""
        left = limit
        for piece in pieces:
            if len(piece) > left:
                self.truncated = True
                yield piece[:left]
                return
            left -= len(piece)
            yield piece

    def _unpack(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Unpack data that starts like gzip, regardless of its name and headers. Pass on everything else."""
        head, sent = b"", iter(chunks)
        while len(head) < len(_GZIP_MARK) and (chunk := next(sent, None)) is not None:
            head += chunk
        sent = chain([head], sent)
        if not head.startswith(_GZIP_MARK):
            yield from sent
            return
        file = gzip.GzipFile(fileobj=io.BufferedReader(_Chunks(sent)))
        try:
            while piece := file.read1(_MAX_PIECE):
                yield piece
        except EOFError:
            # A bound has cut it, or else it was sent so.
            if not self.truncated:
                raise


class _Chunks(io.RawIOBase):
    """Chunks of bytes as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        super().__init__()
        self._chunks = chunks
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Say that BufferedReader may read from it."""
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401  As in RawIOBase.
        """Return the next bytes; 0 at the end."""
        while not self._left:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._left = memoryview(chunk)
        count = min(len(self._left), len(buffer))
        buffer[:count], self._left = self._left[:count], self._left[count:]
        return count
