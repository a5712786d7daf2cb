"""Names in the config: refs, feeds and labels. What is allowed, how it is normalized, and its JSON Schema."""

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema
from pydantic.config import JsonDict

REF = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
REF_SCHEMA: JsonDict = {"type": "string", "pattern": REF}
# Whole groups of hex digits, then part of one. The dashes between them are optional.
REF_PREFIX = (
    "^[0-9a-fA-F]{8}"
    "(?:-?[0-9a-fA-F]{0,3}|-?[0-9a-fA-F]{4}"
    "(?:-?[0-9a-fA-F]{0,3}|-?[0-9a-fA-F]{4}"
    "(?:-?[0-9a-fA-F]{0,3}|-?[0-9a-fA-F]{4}-?[0-9a-fA-F]{0,12})))$"
)
LABEL_NAME = r"^[a-zA-Z_][a-zA-Z0-9_]*$"
# Labels that the exporter, Prometheus, its alerts and the recording rules use. A custom label of the same name would
# shadow or break them.
RESERVED_LABELS = (
    "ref",
    "feed",
    "status",
    "reason",
    "cause",
    "kind",
    "of",
    "result",
    "field",
    "job",
    "instance",
    "le",
    "alertname",
    "alertstate",
    "severity",
    "why",
)
LABEL_NAME_SCHEMA: JsonDict = {
    "pattern": LABEL_NAME,
    "not": {"anyOf": [{"enum": [*RESERVED_LABELS]}, {"pattern": "^__"}]},
}


def _check_ref(ref: str) -> str:
    """Require a UUID."""
    if not re.fullmatch(REF, ref):
        raise ValueError("expected a UUID such as 12af3453-62da-4b31-b646-631b7b5f3009")
    return ref


def to_ref_prefix(text: str) -> str:
    """Return a prefix of refs in lower case, with the dashes of a UUID.

    Raises ValueError if no UUID can begin with it, or if it has fewer than eight hex digits.
    """
    if not re.fullmatch(REF_PREFIX, text):
        raise ValueError("expected at least 8 hex digits that a UUID begins with, such as 5a0c2f0e or 5a0c2f0e-6d0b")
    digits = text.lower().replace("-", "")
    groups = (digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])
    return "-".join(group for group in groups if group)


def _check_label_name(name: str) -> str:
    """Reject reserved names, and names that Prometheus does not accept."""
    if not re.fullmatch(LABEL_NAME, name):
        raise ValueError("a label name has only letters, digits and _, and does not start with a digit")
    if name in RESERVED_LABELS or name.startswith("__"):
        raise ValueError(f"this label name is reserved, like {', '.join(RESERVED_LABELS)} and all that start with __")
    return name


def _check_feed(feed: str) -> str:
    """Reject names that a dashboard cannot show."""
    if not feed or has_characters_of(feed, "Cc", "Cs"):
        raise ValueError("must have at least one character, and no control characters")
    return feed


def has_characters_of(text: str, *categories: str) -> bool:
    """Whether a text contains characters of any of these Unicode categories."""
    return any(unicodedata.category(character) in categories for character in text)


Ref = Annotated[str, AfterValidator(_check_ref), WithJsonSchema(REF_SCHEMA)]
RefPrefix = Annotated[str, AfterValidator(to_ref_prefix), WithJsonSchema({"type": "string", "pattern": REF_PREFIX})]
Feed = Annotated[
    str, AfterValidator(_check_feed), WithJsonSchema({"type": "string", "pattern": r"^[^\u0000-\u001f\u007f-\u009f]+$"})
]
LabelName = Annotated[str, AfterValidator(_check_label_name)]
