"""Process an uploaded file as the Batch API does: check it, unpack it, and import it record by record.

A file is gzip-compressed, with one JSON object per line, which has `ref`, `schema`, `mode` and `value`.
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

from pydantic import ValidationError

from sitecore_cdp_exporter.sandbox.profiles import ACCEPTED, Answer, Guest, Order, Profiles

UUID_PATTERN = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# Reading stops at a file that unpacks to more than this, and at a longer line.
MAX_UNPACKED_BYTES = 1024**3
MAX_LINE_BYTES = 16 * 1024**2
# The modes that Sitecore documents for the error log (all but the last) and for guest profiles.
MODES = frozenset({"insert", "create", "upsert", "merge", "delete", "gdpr_delete", "migration"})
# The modes of the schema `migration`, which merges two guests.
MIGRATION_MODES = frozenset({"guest"})


class UnreadableFileError(Exception):
    """The file is not gzip, is truncated, or unpacks to more than the sandbox reads."""


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """The result of importing one file. The counts are None if no record was read."""

    status: str
    total: int | None = None
    failed: int | None = None
    error_log: bytes | None = None


@dataclass(frozen=True)
class RecordResult:
    """The result of importing one record. `ref` is the string "null" if the line has none, as in real logs."""

    ref: str
    code: str
    message: str

    def line(self) -> bytes:
        """Return the line for the error log, with a line break."""
        return json.dumps({"ref": self.ref, "code": self.code, "message": self.message}).encode() + b"\n"


def is_uuid(value: object) -> bool:
    """Whether a value is a UUID as text, in either case."""
    return isinstance(value, str) and UUID_PATTERN.fullmatch(value) is not None


def import_record(line: bytes, profiles: Profiles) -> RecordResult:
    """Import one record."""
    record = _parse(line)
    if record is None:
        return RecordResult("null", "400", "Failed to parse import line")
    ref = record.get("ref", "null")
    if not is_uuid(ref):
        return RecordResult(str(ref), "400", "Validation error: ref must be a UUID")
    try:
        return RecordResult(ref, *_import(record, profiles))
    except ValidationError as error:
        problem = error.errors()[0]
        # Real messages may quote the data as well.
        quoted = f" is {problem['input']:.100}" if isinstance(problem["input"], str) else ""
        where = ".".join(map(str, problem["loc"]))
        return RecordResult(ref, "400", f"Validation error: {where:.100}{quoted}: {problem['msg']}")


def import_file(
    content: bytes,
    *,
    checksum: str,
    size: int | None,
    profiles: Profiles,
    import_one: Callable[[bytes, Profiles], RecordResult] = import_record,
    is_stopping: Callable[[], bool] = lambda: False,
) -> ImportResult | None:
    """Import a file, for which the client declared a size and an MD5 in hex. Return None if `is_stopping` aborted it.

    The MD5 comparison is case-sensitive: upper case results in `corrupted`, as in the real service.
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
                result = import_one(line, profiles)
                if not result.code.startswith("2"):
                    failed += 1
                    log_file.write(result.line())
    except UnreadableFileError:
        return ImportResult(status="error")
    return ImportResult(
        status="error" if failed else "success",
        total=total,
        failed=failed,
        error_log=log.getvalue() if failed else None,
    )


def _import(record: dict[str, Any], profiles: Profiles) -> Answer:
    """Validate a record, and apply it. Raises pydantic's `ValidationError` if its value is invalid."""
    schema, mode, value = record.get("schema"), record.get("mode"), record.get("value")
    if not isinstance(schema, str) or not schema:
        return "400", "Validation error: schema must be a string"
    if not isinstance(value, dict):
        return "400", "Validation error: value must be an object"
    if not isinstance(mode, str) or mode not in (MIGRATION_MODES if schema == "migration" else MODES):
        return "402", "Unsupported mode"
    match schema:
        case "guest":
            return profiles.import_guest(mode, Guest.model_validate(value))
        case "order":
            return profiles.import_order(mode, Order.model_validate(value))
    return ACCEPTED


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the JSON object on a line, or None."""
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def _lines(content: bytes) -> Iterator[bytes]:
    """Unpack the file line by line, skipping blank lines."""
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
    """Reject NaN and Infinity, which Python accepts but JSON does not have."""
    raise ValueError(name)
