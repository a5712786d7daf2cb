"""Since when a batch that was read has been waiting."""

import pytest

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.poll.reading import Reading
from tests.fake_api import ref

CREATED, MODIFIED, POLLED = 1.0, 2.0, 3.0
UPLOADING = BatchStatus.UPLOADING


@pytest.mark.parametrize(
    ("status", "created", "modified", "since"),
    [
        (UPLOADING, CREATED, MODIFIED, CREATED),
        (UPLOADING, None, MODIFIED, MODIFIED),
        (UPLOADING, 0.0, MODIFIED, 0.0),
        *((status, CREATED, MODIFIED, MODIFIED) for status in BatchStatus if status is not UPLOADING),
        (BatchStatus.PROCESSING, CREATED, None, CREATED),
        # A status that nobody knows must be shown, whatever else the API leaves out.
        (BatchStatus.UNKNOWN, None, None, POLLED),
        (UPLOADING, None, None, POLLED),
    ],
)
def test_a_batch_waits_for_its_file_since_it_was_allocated_and_then_since_it_last_changed(
    status: BatchStatus, created: float | None, modified: float | None, since: float
) -> None:
    batch = Batch(ref=ref(1), status=status, created=created, modified=modified)
    assert Reading(batch, POLLED).unfinished_since == (None if status.finished else since)
