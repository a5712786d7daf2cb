"""Which batches a poll requests, and in which order. Pure.

Times are of the monotonic clock, in seconds.
"""

from collections.abc import Mapping

from sitecore_cdp_exporter.api.batch import Batch
from sitecore_cdp_exporter.poll.memory import Record
from sitecore_cdp_exporter.poll.reading import Reading

# A listed batch whose details are refused, with 404 or 403, may refuse them forever.
SECONDS_BETWEEN_REFUSED_DETAILS = 600
# After this long without requests, poll one finished batch again, so that a dead token shows before it matters.
MAX_SILENCE = 300


def plan(
    records: Mapping[str, Record],
    known: Mapping[str, Reading],
    seen_unfinished: Mapping[str, Reading],
    *,
    now: float,
    last_request: float,
    longest_ago_first: bool,
) -> list[str]:
    """Return the batches to request: unfinished, never read, re-checks; in each group those polled longest ago first.

    Args:
        records: The record of each batch that is shown, by ref in lower case.
        known: The last entry of each batch in the list, by ref in lower case.
        seen_unfinished: Those that the list of this poll shows as unfinished.
        now: The current time.
        last_request: When the API last answered a request.
        longest_ago_first: Order by time only, so that the one request sent to a failing API is not always for the same
            batch.

    """

    def listed(key: str) -> Batch | None:
        return known[key].batch if key in known else None

    due = [
        key
        for key, record in records.items()
        # If the batch itself was finished but the list shows it as unfinished, poll the batch to decide.
        if (record.finished if key in seen_unfinished else is_due(record, listed(key), now))
    ]
    if not due and records and now - last_request >= MAX_SILENCE:
        due = [min(records, key=lambda key: records[key].asked)]
    if longest_ago_first:
        return sorted(due, key=lambda key: records[key].asked)
    return sorted(due, key=lambda key: _rank(records[key].last_known(listed(key)), records[key]))


def is_due(record: Record, listed: Batch | None, now: float) -> bool:
    """Return whether to poll a batch. `listed` is its entry in the list."""
    if listed is not None and listed.status.finished:
        is_refused = record.refused == listed and now < record.asked + SECONDS_BETWEEN_REFUSED_DETAILS
        return not record.is_read(listed) and not is_refused
    return not record.finished or record.recheck <= now


def _rank(batch: Batch | None, record: Record) -> tuple[bool, bool, float, float]:
    """Return the sort key of a due batch. Among batches never polled, the newest comes first."""
    unfinished = batch is not None and not batch.status.finished
    newest_first = 0.0 if batch is None or batch.created is None else -batch.created
    return not unfinished, record.finished, record.asked, newest_first
