"""Why a batch failed, as far as its own answer says. Pure."""

import enum

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus, ChecksumProblem
from sitecore_cdp_exporter.poll.reading import Reading

# How long an upload URL lives, as documented. The list of batches does not say when it expires.
UPLOAD_URL_LIFETIME = 3600.0


class FailureCause(enum.StrEnum):
    """Why a batch failed: the values of the label `cause`."""

    RECORDS_REJECTED = "records_rejected"  # the file was read, and some records were rejected
    FILE_UNREADABLE = "file_unreadable"  # no record was read: the file is not gzip
    CHECKSUM_NOT_LOWERCASE_HEX = "checksum_not_lowercase_hex"  # the declared MD5 has capitals
    CHECKSUM_MALFORMED = "checksum_malformed"  # the declared checksum is no MD5 in hex
    CHECKSUM_OR_SIZE_MISMATCH = "checksum_or_size_mismatch"  # the file is not the one that was declared
    UPLOAD_EXPIRED = "upload_expired"  # no file came while its upload URL was valid


def failure_cause(reading: Reading, *, tells_uploaded: bool) -> FailureCause | None:
    """Return why a batch failed; None: it has not, or its answer does not say.

    Args:
        reading: The batch, and when it was read.
        tells_uploaded: Whether the API distinguishes uploaded files from missing ones, as `inspect` does.

    """
    batch = reading.batch
    match batch.status:
        case BatchStatus.SUCCESS:
            # Most batches. Each further case would take as long again.
            return None
        case BatchStatus.ERROR if batch.details_read:
            return _of_error(batch)
        case BatchStatus.CORRUPTED if batch.details_read:
            return _of_corrupted(batch)
        case BatchStatus.UPLOADING if tells_uploaded and _is_expired(batch, reading.polled):
            return FailureCause.UPLOAD_EXPIRED
    return None


def _of_error(batch: Batch) -> FailureCause | None:
    if batch.error_log_available or batch.failed_records:
        return FailureCause.RECORDS_REJECTED
    counts = (batch.total_records, batch.succeeded_records, batch.failed_records)
    return FailureCause.FILE_UNREADABLE if counts == (None, None, None) else None


def _of_corrupted(batch: Batch) -> FailureCause:
    match batch.checksum_problem:
        case ChecksumProblem.NOT_LOWERCASE_HEX:
            return FailureCause.CHECKSUM_NOT_LOWERCASE_HEX
        case ChecksumProblem.MALFORMED:
            return FailureCause.CHECKSUM_MALFORMED
    return FailureCause.CHECKSUM_OR_SIZE_MISMATCH


def _is_expired(batch: Batch, now: float) -> bool:
    expiry = batch.upload_expiry
    if expiry is None and batch.created is not None:
        expiry = batch.created + UPLOAD_URL_LIFETIME
    return expiry is not None and expiry <= now
