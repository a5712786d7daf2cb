"""Why a batch failed, as far as its own answer says."""

from dataclasses import replace

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus, parse_batch
from sitecore_cdp_exporter.poll.cause import FailureCause, failure_cause
from sitecore_cdp_exporter.poll.reading import Reading

REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
CREATED = 1_745_483_580.0
CHECKSUM = "0cc175b9c0f1b6a831c399e269772661"


def corrupted(checksum: str) -> Batch:
    return parse_batch(REF, f'{{"checksum": {checksum}, "status": {{"code": "corrupted"}}}}'.encode()).batch


ERROR = Batch(ref=REF, status=BatchStatus.ERROR, error_log_available=False)
UPLOADING = Batch(ref=REF, status=BatchStatus.UPLOADING, error_log_available=False, created=CREATED)


def cause(batch: Batch, *, at: float = CREATED, tells_uploaded: bool = True) -> FailureCause | None:
    return failure_cause(Reading(batch, at), tells_uploaded=tells_uploaded)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (replace(ERROR, error_log_available=True), FailureCause.RECORDS_REJECTED),
        (replace(ERROR, total_records=10, succeeded_records=9, failed_records=1), FailureCause.RECORDS_REJECTED),
        (ERROR, FailureCause.FILE_UNREADABLE),
        # Some counts say that the file was read, and none that a record was rejected.
        (replace(ERROR, total_records=10), None),
        (replace(ERROR, total_records=0, succeeded_records=0, failed_records=0), None),
        (corrupted(f'"{CHECKSUM}"'), FailureCause.CHECKSUM_OR_SIZE_MISMATCH),
        (corrupted("null"), FailureCause.CHECKSUM_OR_SIZE_MISMATCH),
        (corrupted("7"), FailureCause.CHECKSUM_OR_SIZE_MISMATCH),
        (corrupted(f'"{CHECKSUM.upper()}"'), FailureCause.CHECKSUM_NOT_LOWERCASE_HEX),
        (corrupted(f'"{CHECKSUM[:-1]}F"'), FailureCause.CHECKSUM_NOT_LOWERCASE_HEX),
        (corrupted('"DMF1ucDxtqgxw5niaXcmYQ=="'), FailureCause.CHECKSUM_MALFORMED),
        (corrupted(f'"{CHECKSUM}0"'), FailureCause.CHECKSUM_MALFORMED),
        (corrupted(f'"{CHECKSUM}\\n"'), FailureCause.CHECKSUM_MALFORMED),
        (corrupted('""'), FailureCause.CHECKSUM_MALFORMED),
        # Only the list was read, which says neither.
        (Batch(ref=REF, status=BatchStatus.ERROR), None),
        (Batch(ref=REF, status=BatchStatus.CORRUPTED), None),
        *(
            (Batch(ref=REF, status=status, error_log_available=True, created=0.0), None)
            for status in (BatchStatus.SUCCESS, BatchStatus.PROCESSING, BatchStatus.FILE_UPLOADED, BatchStatus.UNKNOWN)
        ),
    ],
)
def test_a_finished_batch_shows_why_it_failed(batch: Batch, expected: FailureCause | None) -> None:
    assert cause(batch) is expected


@pytest.mark.parametrize(
    ("batch", "expiry"),
    [
        (replace(UPLOADING, upload_expiry=CREATED + 60), CREATED + 60),
        # The list does not say when the URL expires, so the documented hour counts.
        (replace(UPLOADING, error_log_available=None), CREATED + 3600),
        (replace(UPLOADING, created=None, upload_expiry=CREATED), CREATED),
    ],
)
def test_an_upload_is_expired_once_its_url_is(batch: Batch, expiry: float) -> None:
    assert cause(batch, at=expiry - 0.001) is None
    assert cause(batch, at=expiry) is FailureCause.UPLOAD_EXPIRED


def test_an_upload_does_not_expire_if_the_endpoint_shows_queued_files_as_uploading() -> None:
    assert cause(replace(UPLOADING, upload_expiry=CREATED), at=CREATED + 1e6, tells_uploaded=False) is None


def test_an_upload_without_a_time_is_not_expired() -> None:
    assert cause(replace(UPLOADING, created=None), at=1e12) is None
