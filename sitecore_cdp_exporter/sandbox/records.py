"""What the Batch API does with an uploaded file: check it, unpack it, and import it record by record.

A file is gzip and holds one JSON record a line, an object with `ref`, `schema`, `mode` and `value`.
"""

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

UUID_PATTERN = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# A file that unpacks to more than this is not read on; neither is one with a longer line.
MAX_UNPACKED_BYTES = 1024**3
MAX_LINE_BYTES = 16 * 1024**2
# The modes that Sitecore documents for the error log (all but the last) and for guest profiles.
MODES = frozenset({"insert", "create", "upsert", "merge", "delete", "gdpr_delete", "migration"})


class UnreadableFileError(Exception):
    """The file is no gzip file, is cut off, or unpacks to more than the sandbox reads."""


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """How the import of one file ended. The counts are None when no record was read."""

    status: str
    total: int | None = None
    failed: int | None = None
    error_log: bytes | None = None


@dataclass(frozen=True)
class RecordError:
    """One line of the error log. `ref` is the string "null" when the record has none, as in real logs."""

    ref: str
    code: str
    message: str

    def line(self) -> bytes:
        """Return the line of the log, with its end."""
        return json.dumps({"ref": self.ref, "code": self.code, "message": self.message}).encode() + b"\n"


def is_uuid(value: object) -> bool:
    """Whether a value is the text of a UUID, in either case."""
    return isinstance(value, str) and UUID_PATTERN.fullmatch(value) is not None


def import_file(
    content: bytes, *, checksum: str, size: int | None, is_stopping: Callable[[], bool] = lambda: False
) -> ImportResult | None:
    """Import a file for which the client declared an MD5 in hex and a size.

    The MD5 is compared with its case, so that one in upper case gives `corrupted`, as the real service does.
    None when it was given up because `is_stopping` said so.
    """
    if len(content) != size or hashlib.md5(content).hexdigest() != checksum:
        return ImportResult(status="corrupted")
    total = failed = 0
    log = io.BytesIO()
    try:
        with gzip.GzipFile(fileobj=log, mode="wb", mtime=0) as log_file:
            for line in _lines(content):
                if is_stopping():
                    return None
                total += 1
                if error := check_record(line):
                    failed += 1
                    log_file.write(error.line())
    except UnreadableFileError:
        return ImportResult(status="error")
    if failed:
        return ImportResult(status="error", total=total, failed=failed, error_log=log.getvalue())
    return ImportResult(status="success", total=total, failed=0)


def check_record(line: bytes) -> RecordError | None:
    """Check one record; None means that it is good."""
    record = _parse(line)
    if record is None:
        return RecordError("null", "400", "Failed to parse import line")
    ref = record.get("ref", "null")
    if not is_uuid(ref):
        return RecordError(str(ref), "400", "Validation error: ref must be a UUID")
    problem = _problem(schema=record.get("schema"), mode=record.get("mode"), value=record.get("value"))
    return None if problem is None else RecordError(ref, *problem)


def _parse(line: bytes) -> dict[str, Any] | None:
    """Read the object on a line; None means that there is none."""
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _problem(*, schema: object, mode: object, value: object) -> tuple[str, str] | None:
    """Return code and message for what is wrong with a record's parts."""
    if not isinstance(schema, str) or not schema:
        return "400", "Validation error: schema must be a string"
    if not isinstance(value, dict):
        return "400", "Validation error: value must be an object"
    if not isinstance(mode, str) or mode not in MODES:
        return "402", "Unsupported mode"
    # Which attributes identify a guest is up to each organisation. These two are the usual ones.
    if schema == "guest" and not (value.get("email") or value.get("identifiers")):
        return "400", "Identity information missing"
    return None


def _lines(content: bytes) -> Iterator[bytes]:
    """Unpack the file line by line; blank lines hold no record."""
    unpacked_bytes = 0
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        try:
            while line := file.readline(MAX_LINE_BYTES + 1):
                unpacked_bytes += len(line)
                if len(line) > MAX_LINE_BYTES or unpacked_bytes > MAX_UNPACKED_BYTES:
                    raise UnreadableFileError
                if line.strip():
                    yield line
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UnreadableFileError from error


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python reads but JSON does not have."""
    raise ValueError(name)
