"""A batch as it is read, with every field that the API has for one that finished with errors."""

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus

REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"

FINISHED_WITH_ERRORS = Batch(
    ref=REF,
    status=BatchStatus.ERROR,
    error_log_available=True,
    total_records=121776,
    succeeded_records=121460,
    failed_records=316,
    time_to_process_seconds=614.867,
    size_bytes=3456,
    created=1745483580.77,
    modified=1745484364.0,
    upload_expiry=1745487180.77,
)
