"""The report of `--once`: its exit status, and its text for people or as JSON. Pure.

Everything in it is a status, a count, a time, or what the config names. No message and no ref of a record, and no URL
of Sitecore CDP gets this far.
"""

import enum
import json
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from sitecore_cdp_exporter.api.batch import Batch
from sitecore_cdp_exporter.api.error_log import RecordCause
from sitecore_cdp_exporter.api.errors import Reason, api_state
from sitecore_cdp_exporter.config.errors import one_line
from sitecore_cdp_exporter.poll.advice import WHY_BATCHES, WHY_RECORDS, Advice, silence_command
from sitecore_cdp_exporter.poll.cause import FailureCause
from sitecore_cdp_exporter.poll.snapshot import BatchState, Snapshot

HEADINGS = ("FEED", "REF", "STATUS", "RECORDS", "FAILED", "AGE", "WHY")
RIGHT_ALIGNED = {"RECORDS", "FAILED", "AGE"}
WIDTH = 100


class Outcome(enum.StrEnum):
    """What became of a batch. The values are stable: they are in the JSON."""

    FAILED = "failed"  # finished and not accepted, or its upload has expired
    UNREADABLE = "unreadable"  # it, or its details, could not be read
    UNFINISHED = "unfinished"
    SUPERSEDED = "superseded"  # failed, and another batch has made up for it
    ACCEPTED = "accepted"


class ExitStatus(enum.IntEnum):
    """How `--once` ends."""

    GOOD = 0  # everything shown is finished, and accepted or superseded
    UNUSABLE = 1  # the config, a batch file, the credentials or the API
    USAGE = 2
    FAILED = 3  # a batch has failed
    OPEN = 4  # a batch is unfinished or unreadable


def outcome_of(state: BatchState) -> Outcome:
    """Return what became of a batch."""
    if state.reading is None:
        return Outcome.UNREADABLE
    if state.cause is FailureCause.UPLOAD_EXPIRED:
        return Outcome.FAILED
    if not state.reading.batch.status.finished:
        return Outcome.UNFINISHED
    if state.accepted is None:
        return Outcome.UNREADABLE
    if state.accepted:
        return Outcome.ACCEPTED
    return Outcome.SUPERSEDED if state.superseded else Outcome.FAILED


def exit_status(snapshot: Snapshot, *, are_lists_good: bool = True) -> ExitStatus:
    """Return the exit status. A failed batch comes first, then an API that is down, then a batch that is open.

    Args:
        snapshot: What was found.
        are_lists_good: Whether something is watched, and the batch files have no mistake. Otherwise not everything is
            shown.

    """
    outcomes = {outcome_of(state) for state in snapshot.batches}
    is_list_read = snapshot.discovery is None or snapshot.discovery.failure is None
    if Outcome.FAILED in outcomes:
        return ExitStatus.FAILED
    if snapshot.api_up is False and outcomes <= {Outcome.UNREADABLE}:
        return ExitStatus.UNUSABLE
    if outcomes & {Outcome.UNREADABLE, Outcome.UNFINISHED}:
        return ExitStatus.OPEN
    return ExitStatus.GOOD if is_list_read and are_lists_good else ExitStatus.UNUSABLE


def summary(snapshot: Snapshot) -> str:
    """Return how many batches have which outcome, in a line."""
    counts = Counter(map(outcome_of, snapshot.batches))
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]) or "no batches"


def render_table(snapshot: Snapshot, now: float) -> str:
    """Return the report for people. `now` is in seconds since the Unix epoch."""
    parts = [_table(snapshot.batches, now), *_notes(snapshot), *_advice(snapshot.batches)]
    if failed := _failed_refs(snapshot):
        parts.append(f"Once you have dealt with it, silence the alerts:\n{silence_command(failed)}")
    return "\n\n".join(part for part in parts if part)


def render_json(snapshot: Snapshot, status: ExitStatus) -> str:
    """Return the report as one JSON object. Its keys are stable; docs/once.md lists them."""
    failed = _failed_refs(snapshot)
    report = {
        "exit_status": int(status),
        "api_up": snapshot.api_up,
        "api_failure": snapshot.api_failure,
        "discovery_failure": None if snapshot.discovery is None else snapshot.discovery.failure,
        "dropped_batches": None if snapshot.discovery is None else snapshot.discovery.dropped,
        "retired_batches": snapshot.retired,
        "batches": [_json_of(state) for state in _sorted(snapshot.batches)],
        "silence_command": silence_command(failed) if failed else None,
    }
    return json.dumps(report, indent=2)


def _json_of(state: BatchState) -> Mapping[str, object]:
    batch = None if state.reading is None else state.reading.batch
    log = state.error_log
    return {
        "ref": state.watched.ref,
        "feed": state.watched.feed,
        "labels": dict(state.watched.labels),
        "outcome": outcome_of(state),
        "status": batch and batch.status,
        "total_records": batch and batch.total_records,
        "succeeded_records": batch and batch.succeeded_records,
        "failed_records": batch and batch.failed_records,
        "failure_cause": state.cause,
        "error_log_records": None if log is None else dict(log.records),
        "error_log_truncated": None if log is None else log.truncated,
        "error_log_read_failure": state.error_log_failure,
        "poll_failure": state.failure,
        "created_timestamp_seconds": batch and batch.created,
        "modified_timestamp_seconds": batch and batch.modified,
        "time_to_process_seconds": batch and batch.time_to_process_seconds,
    }


def _failed_refs(snapshot: Snapshot) -> list[str]:
    return [state.watched.ref for state in _sorted(snapshot.batches) if outcome_of(state) is Outcome.FAILED]


def _sorted(states: Iterable[BatchState]) -> list[BatchState]:
    """Sort by outcome, the worst first, then by age, the newest first."""
    order = list(Outcome)
    return sorted(states, key=lambda state: (order.index(outcome_of(state)), -(_created(state) or 0.0)))


def _created(state: BatchState) -> float | None:
    return None if state.reading is None else state.reading.batch.created


def _table(states: Sequence[BatchState], now: float) -> str:
    if not states:
        return "No batches."
    rows = [HEADINGS, *(_cells(state, now) for state in _sorted(states))]
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    aligned = [
        [
            _align(cell, width, is_right=heading in RIGHT_ALIGNED)
            for cell, width, heading in zip(row, widths, HEADINGS, strict=True)
        ]
        for row in rows
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in aligned)


def _align(cell: str, width: int, *, is_right: bool) -> str:
    blanks = " " * (width - _width(cell))
    return blanks + cell if is_right else cell + blanks


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes: a Chinese character takes two, an accent by itself none."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in {"W", "F"})
        for character in text
    )


def _cells(state: BatchState, now: float) -> tuple[str, ...]:
    feed, why = one_line(state.watched.feed or "-"), ", ".join(_why(state)) or "-"
    if state.reading is None:
        return feed, state.watched.ref, "-", "-", "-", "-", why
    batch, outcome = state.reading.batch, outcome_of(state)
    status = f"{batch.status}"
    if outcome is Outcome.SUPERSEDED or (outcome is Outcome.ACCEPTED and batch.status != "success"):
        status += f" ({outcome})"
    counts = (_count(batch.total_records), _count(batch.failed_records))
    return feed, state.watched.ref, status, *counts, _age(batch, now), why


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _age(batch: Batch, now: float) -> str:
    """Return how long the batch has had its status, in the two largest units."""
    since = batch.created if batch.modified is None else batch.modified
    if since is None:
        return "-"
    minutes, seconds = divmod(max(round(now - since), 0), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [
        f"{number}{unit}" for number, unit in ((days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s")) if number
    ]
    return "".join(parts[:2]) or "0s"


def _why(state: BatchState) -> Iterator[str]:
    """Yield why a batch failed or could not be read."""
    if outcome_of(state) is Outcome.UNREADABLE:
        yield f"{state.failure or 'its details were not read'}"
        return
    for cause, number in _causes(state):
        yield f"{cause} {number:,}" if number else f"{cause}"
    if state.error_log_failure is not None:
        yield f"error log not read: {state.error_log_failure}"
    elif state.error_log is not None and state.error_log.truncated:
        yield "and more, not counted"
    elif state.error_log is None and state.reading is not None and state.reading.batch.error_log_available:
        yield "error log not read"


def _causes(state: BatchState) -> list[tuple[RecordCause | FailureCause, int]]:
    """Return why records were rejected and how many, the most frequent first; else why the batch failed, and 0."""
    if state.error_log is not None and state.error_log.records:
        return sorted(state.error_log.records.items(), key=lambda item: -item[1])
    return [] if state.cause is None else [(state.cause, 0)]


def _notes(snapshot: Snapshot) -> Iterator[str]:
    """Yield what limits the table."""
    if snapshot.api_up is False:
        yield f"The Batch API {api_state(snapshot.api_failure)}. Run with --log.level=warn for details."
    elif snapshot.batches and all(state.failure is Reason.FORBIDDEN for state in snapshot.batches):
        yield "The Batch API refuses every batch: forbidden. Are the credentials those of another organisation?"
    discovery = snapshot.discovery
    if discovery is not None and discovery.failure is not None:
        yield f"The list of batches could not be read, so there may be more: {discovery.failure}."
    if discovery is not None and discovery.dropped:
        yield f"Left out because of discovery.max_batches: {discovery.dropped:,}."
    if snapshot.retired:
        yield f"Left out because they are past their retention: {snapshot.retired:,}."


def _advice(states: Iterable[BatchState]) -> Iterator[str]:
    """Yield, for each cause of the failures, what it means and what to do."""
    failed = [state for state in _sorted(states) if outcome_of(state) is Outcome.FAILED]
    for cause in dict.fromkeys(cause for state in failed for cause, _ in _causes(state)):
        meaning, action = _advice_for(cause)
        yield textwrap.fill(f"{cause}: {meaning} {action}", WIDTH, subsequent_indent="    ")


def _advice_for(cause: RecordCause | FailureCause) -> Advice:
    return WHY_RECORDS[cause] if isinstance(cause, RecordCause) else WHY_BATCHES[cause]
