"""One answer of the Batch API as typed data.

The API is read with tolerance where its documentation leaves room: fields may be missing or null, unknown fields and
status codes may appear. It is read strictly where a wrong value would become a wrong metric: a count that is a string,
a boolean, a fraction, negative or not a number makes the whole answer malformed.

An item of the list is read field by field instead. One that is wrong costs no more than itself, and is counted.
"""

import enum
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Self, TypeVar

from sitecore_cdp_exporter.api.error_log_url import LogUrl

Value = TypeVar("Value")

# The API is a Java service: its counts fit into a signed long.
MAX_COUNT = 2**63 - 1
# A ref from the list becomes a label and part of a URL path, so only a UUID will do.
_REF = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class MalformedBatchError(ValueError):
    """An answer is not a batch. The message names the field, never the value: values may be presigned URLs."""


class OtherBatchError(MalformedBatchError):
    """An answer is for another batch than was asked for: the connection that it came by is out of step."""


class ChecksumProblem(enum.Enum):
    """What is wrong with a declared checksum, which should be the MD5 of the file in 32 lower-case hex digits."""

    NOT_LOWERCASE_HEX = enum.auto()  # hex, but with capitals: compared as text, it matches no file
    MALFORMED = enum.auto()


class BatchStatus(enum.StrEnum):
    """`status.code` of the Batch API, in the order in which a batch goes through them."""

    UPLOADING = "uploading"
    FILE_UPLOADED = "file_uploaded"
    PROCESSING = "processing"
    SUCCESS = "success"
    CORRUPTED = "corrupted"
    ERROR = "error"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        # The API may gain a status that this version does not know.
        return cls("unknown") if isinstance(value, str) else None

    finished: bool  # whether the API will do no more with the batch

    def __init__(self, code: str) -> None:
        # An attribute, because a poll asks several times for each batch.
        self.finished = code in {"success", "corrupted", "error"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What the API says of one batch. None means that the answer did not say.

    Times are seconds since the Unix epoch. Presigned URLs (`location.href`, `status.log`) are secrets and not kept.

    Attributes:
        error_log_available: None: only the list of batches was read, which does not say.
        checksum_problem: What is wrong with the checksum that the uploader declared; None: nothing that shows.

    """

    ref: str
    status: BatchStatus
    error_log_available: bool | None = None
    total_records: int | None = None
    succeeded_records: int | None = None
    failed_records: int | None = None
    time_to_process_seconds: float | None = None
    size_bytes: int | None = None
    created: float | None = None
    modified: float | None = None
    upload_expiry: float | None = None
    checksum_problem: ChecksumProblem | None = None

    @property
    def details_read(self) -> bool:
        """Whether this is the batch's own answer, which has the details that the list of batches lacks."""
        return self.error_log_available is not None


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """A batch's own answer.

    Attributes:
        batch: What it says.
        log_url: Where its error log is; None: it has none. It is a secret that is used at once and never kept.
        names_itself: Whether it has the ref, and so cannot be the answer to another request.

    """

    batch: Batch
    log_url: LogUrl | None = None
    names_itself: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class BatchPage:
    """One page of the list of batches.

    Attributes:
        total: How many batches match the filter in all, by the API's count. None: it gave no usable count.
        length: How many items the page has.
        batches: The items whose ref is readable. What else is not readable is None, or the status `unknown`.
        unreadable: How many items are not readable, wholly or in part.

    """

    total: int | None
    length: int
    batches: tuple[Batch, ...]
    unreadable: int = 0


def parse_batch(ref: str, body: bytes) -> BatchAnswer:
    """Read the body of `GET /v2/batches/<ref>` or `GET /v2/batches/inspect/<ref>`.

    Raises:
        OtherBatchError: The body is another batch.
        MalformedBatchError: The body is not JSON, or not a batch.

    """
    answer = _Fields(_parse_json(body), "")
    status = answer.nested("status")
    stats = answer.nested("summaryStats")
    location = answer.nested("location")
    code = status.text("code")
    if code is None:
        raise MalformedBatchError("status.code is missing")
    answered_ref = answer.text("ref")
    if answered_ref is not None and answered_ref.lower() != ref.lower():
        raise OtherBatchError("ref is not the one that was asked for")
    time_to_process = stats.number("timeToProcessMillis")
    log_url = status.text("log")
    batch = Batch(
        ref=ref,
        status=BatchStatus(code),
        error_log_available=bool(log_url),
        total_records=stats.count("totalCount"),
        succeeded_records=stats.count("succeededCount"),
        failed_records=stats.count("failedCount"),
        time_to_process_seconds=None if time_to_process is None else time_to_process / 1000,
        size_bytes=answer.count("size"),
        created=answer.time("createdAt"),
        modified=answer.time("modifiedAt"),
        upload_expiry=location.time("expiry"),
        checksum_problem=_problem_of_checksum(_or_none(answer.text, "checksum")),
    )
    return BatchAnswer(batch, LogUrl(log_url) if log_url else None, names_itself=answered_ref is not None)


def parse_batch_page(body: bytes) -> BatchPage:
    """Read the body of `GET /v2/batches/inspect?...`.

    Only known fields are kept: the items may carry presigned URLs.

    Raises:
        MalformedBatchError: The body is not JSON, or has no list of items.

    """
    answer = _Fields(_parse_json(body), "")
    items = [_parse_item(item) for item in answer.items("items")]
    return BatchPage(
        total=_or_none(answer.count, "totalCount"),
        length=len(items),
        batches=tuple(batch for batch, _ in items if batch is not None),
        unreadable=sum(not is_whole for _, is_whole in items),
    )


def _problem_of_checksum(checksum: str | None) -> ChecksumProblem | None:
    if checksum is None or re.fullmatch(r"[0-9a-f]{32}", checksum):
        return None
    is_hex = re.fullmatch(r"[0-9a-fA-F]{32}", checksum)
    return ChecksumProblem.NOT_LOWERCASE_HEX if is_hex else ChecksumProblem.MALFORMED


def _parse_item(document: object) -> tuple[Batch | None, bool]:
    """Return what is readable of an item, and whether that is all of it. Without a ref it is of no use."""
    if not isinstance(document, dict):
        return None, False
    item = _Fields(document, "items.")
    ref = _or_none(item.text, "ref")
    if ref is None or not _REF.fullmatch(ref):
        return None, False
    batch = Batch(
        ref=ref,
        status=BatchStatus(_or_none(item.text, "status") or BatchStatus.UNKNOWN),
        created=_or_none(item.time, "createdAt"),
        modified=_or_none(item.time, "modifiedAt"),
    )
    is_whole = (
        batch.status is not BatchStatus.UNKNOWN
        and (batch.created is None) is (document.get("createdAt") is None)
        and (batch.modified is None) is (document.get("modifiedAt") is None)
    )
    return batch, is_whole


def _or_none(read: Callable[[str], Value | None], name: str) -> Value | None:
    try:
        return read(name)
    except MalformedBatchError:
        return None


def _parse_json(body: bytes) -> object:
    try:
        return json.loads(body, parse_constant=_refuse_constant)
    # RecursionError: nested too deeply. A number of too many digits is a ValueError, as is what is not UTF-8.
    except (ValueError, RecursionError):
        # The parser's message quotes the body, which may hold presigned URLs.
        raise MalformedBatchError("the body is not JSON") from None


def _refuse_constant(constant: str) -> float:
    raise ValueError(constant)


class _Fields:
    """Typed access to a JSON object. A field that is missing or null reads as None, one of a wrong type raises."""

    def __init__(self, document: object, path: str) -> None:
        if not isinstance(document, dict):
            raise MalformedBatchError(f"{path.removesuffix('.') or 'the body'} is not an object")
        self._fields = document
        self._path = path

    def nested(self, name: str) -> "_Fields":
        value = self._fields.get(name)
        return _Fields({} if value is None else value, f"{self._path}{name}.")

    def items(self, name: str) -> list[object]:
        value = self._fields.get(name)
        if isinstance(value, list):
            return value
        raise self._malformed(name, "a list")

    def text(self, name: str) -> str | None:
        value = self._fields.get(name)
        if value is None or isinstance(value, str):
            return value
        raise self._malformed(name, "a string")

    def number(self, name: str) -> int | float | None:
        value = self._fields.get(name)
        if value is None:
            return None
        # A boolean is an int in Python, not in JSON. The comparison also refuses the infinity that 1e999 becomes.
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
            raise self._malformed(name, "a number from 0 up")
        return value

    def count(self, name: str) -> int | None:
        value = self.number(name)
        if value is None:
            return None
        if value != int(value):
            raise self._malformed(name, "a whole number")
        return int(value)

    def time(self, name: str) -> float | None:
        text = self.text(name)
        if text is None:
            return None
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise self._malformed(name, "an ISO 8601 time") from None
        # A bare date would be read as midnight. RFC 3339 also allows a blank where ISO 8601 has a T.
        if "T" not in text and " " not in text:
            raise self._malformed(name, "an ISO 8601 time")
        # The API documents its times as UTC, so a time without an offset is UTC too.
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()

    def _malformed(self, name: str, expected: str) -> MalformedBatchError:
        return MalformedBatchError(f"{self._path}{name} is not {expected}")
