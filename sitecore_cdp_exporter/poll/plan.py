"""Which batches a poll asks for, and in which order. Pure.

Moments are of the monotonic clock, in seconds.
"""

from collections.abc import Mapping

from sitecore_cdp_exporter.api.batch import Batch
from sitecore_cdp_exporter.poll.memory import Record
from sitecore_cdp_exporter.poll.reading import Reading

# A batch that the list shows and that refuses its details, by a 404 or 403, may do so for good.
SECONDS_BETWEEN_REFUSED_DETAILS = 600
# After this much silence one finished batch is asked again, so that a dead token shows before it matters.
MAX_SILENCE = 300


def plan(
    records: Mapping[str, Record],
    known: Mapping[str, Reading],
    seen_unfinished: Mapping[str, Reading],
    *,
    now: float,
    last_request: float,
    longest_ago_first: bool = False,
) -> list[str]:
    """Return the batches to ask for: unfinished, then never read, then re-checks; in each the one asked longest ago.

    Args:
        records: What is remembered of each batch that is shown, by ref in lower case.
        known: What the list last showed, by ref in lower case.
        seen_unfinished: What the list of this very poll showed to be unfinished.
        now: This moment.
        last_request: When the API last answered a request.
        longest_ago_first: Whether only the time decides, so that the one request that an API in trouble gets is not
            always for the same batch.

    """

    def listed(key: str) -> Batch | None:
        return known[key].batch if key in known else None

    due = [
        key
        for key, record in records.items()
        # A batch that itself said that it is finished, and that the list shows to be unfinished, has the last word.
        if (record.finished if key in seen_unfinished else is_due(record, listed(key), now))
    ]
    if not due and records and now - last_request >= MAX_SILENCE:
        due = [min(records, key=lambda key: records[key].asked)]
    if longest_ago_first:
        return sorted(due, key=lambda key: records[key].asked)
    return sorted(due, key=lambda key: _rank(records[key].last_known(listed(key)), records[key]))


def is_due(record: Record, listed: Batch | None, now: float) -> bool:
    """Return whether a batch is to be asked; `listed` is what the list says of it."""
    if listed is not None and listed.status.finished:
        is_refused = record.refused == listed and now < record.asked + SECONDS_BETWEEN_REFUSED_DETAILS
        return not record.is_read(listed) and not is_refused
    return not record.finished or record.recheck <= now


def _rank(batch: Batch | None, record: Record) -> tuple[bool, bool, float, float]:
    """Rank what is due; of the batches that were never asked, the newest leads."""
    unfinished = batch is not None and not batch.status.finished
    newest_first = 0.0 if batch is None or batch.created is None else -batch.created
    return not unfinished, record.finished, record.asked, newest_first
