"""What each cause of a failure means, what to do about it, and how to silence its alerts.

The messages in prometheus/alerts.yml say the same, docs/runbook.md says more.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sitecore_cdp_exporter.api.error_log import RecordCause
from sitecore_cdp_exporter.poll.cause import FailureCause

RUNBOOK_URL = "https://github.com/sitecore-cdp-batch-exporter/sitecore-cdp-batch-exporter/blob/main/docs/runbook.md"
# Linux refuses an argument of 128 KiB, which is 3,500 refs.
MAX_SILENCED_REFS = 1000


class Advice(NamedTuple):
    """Two texts, each a sentence or two."""

    meaning: str
    action: str


WHY_RECORDS: Mapping[RecordCause, Advice] = {
    RecordCause.IDENTITY_MISSING: Advice(
        "The record does not say whose it is.",
        "Add what identifies a guest in your organisation, such as an email address or identifiers.",
    ),
    RecordCause.VALIDATION: Advice(
        "A field has the wrong type or format, or is not in the schema.",
        "Read the messages in the error log, and correct the field in the export.",
    ),
    RecordCause.UNPARSABLE_LINE: Advice(
        "A line of the file is not JSON.",
        "Write each record as one JSON object on one line, with no list around them.",
    ),
    RecordCause.UNSUPPORTED_MODE: Advice(
        "The mode of the record is one that Sitecore CDP does not support.",
        "Set mode to insert, create, upsert, merge, delete or gdpr_delete.",
    ),
    RecordCause.NOT_ALLOWED: Advice(
        "Sitecore CDP does not allow what the record asks for, such as deleting a guest with an active session.",
        "Upload deletes again later; for anything else, read the messages in the error log.",
    ),
    RecordCause.NOT_FOUND: Advice(
        "The record deletes a guest or an order that is not there.",
        "Usually there is nothing to do: it is already gone. If it should exist, check its identifiers.",
    ),
    RecordCause.ALREADY_EXISTS: Advice(
        "The record creates a guest that already exists.",
        "Use mode upsert to change existing guests, or leave such records out.",
    ),
    RecordCause.OPEN_SESSION: Advice(
        "The guest has an open session.",
        "Upload these records again later.",
    ),
    RecordCause.INTERNAL: Advice(
        "Sitecore CDP failed; the file is not at fault.",
        "Upload these records again. If it happens again, open a case with Sitecore.",
    ),
    RecordCause.OTHER: Advice(
        "The error log gives a reason that this exporter does not know.",
        "Read the messages in the error log.",
    ),
}

WHY_BATCHES: Mapping[FailureCause, Advice] = {
    FailureCause.RECORDS_REJECTED: Advice(
        "Sitecore CDP read the file and rejected some of its records.",
        "Correct the rejected records and upload them again, as a new batch.",
    ),
    FailureCause.FILE_UNREADABLE: Advice(
        "Sitecore CDP could read nothing of the file: it is probably not gzip but, for example, a zip.",
        "Compress the file with gzip, and upload it again, as a new batch.",
    ),
    FailureCause.CHECKSUM_NOT_LOWERCASE_HEX: Advice(
        "The uploader declared the MD5 with capital letters, so it matches no file.",
        "Write the checksum in lower-case hex, and upload the file again, as a new batch.",
    ),
    FailureCause.CHECKSUM_MALFORMED: Advice(
        "The checksum that the uploader declared is not an MD5 in hex.",
        "Declare the MD5 of the gzipped file as 32 lower-case hex digits, and upload the file again, as a new batch.",
    ),
    FailureCause.CHECKSUM_OR_SIZE_MISMATCH: Advice(
        "The file that arrived does not have the MD5 or the size that the uploader declared.",
        "Compute both from the gzipped file exactly as it is sent, and upload it again, as a new batch.",
    ),
    FailureCause.UPLOAD_EXPIRED: Advice(
        "The upload URL has expired, and no file has come.",
        "Look at the log of the uploader, and run it again: it needs a new ref.",
    ),
}


def silence_command(refs: Sequence[str]) -> str:
    """Return the shell command that silences the alerts of these batches, in two lines; of many, several commands."""
    starts = range(0, len(refs), MAX_SILENCED_REFS)
    return "\n".join(_silence(refs[start : start + MAX_SILENCED_REFS]) for start in starts)


def _silence(refs: Sequence[str]) -> str:
    # Several refs make a regular expression, in which their digits and dashes are literal.
    matcher = f"ref={refs[0]}" if len(refs) == 1 else f"'ref=~{'|'.join(refs)}'"
    return (
        "amtool silence add --alertmanager.url=http://localhost:9093 --duration=7d \\\n"
        f"    --comment='uploaded again' {matcher}"
    )
