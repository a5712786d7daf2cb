"""The page of one batch: its status and counts, why it failed and what to do. HTML, no script."""

from collections.abc import Iterable, Mapping
from html import escape

from sitecore_cdp_exporter.poll.advice import RUNBOOK_URL, WHY_BATCHES, WHY_RECORDS, Advice, silence_command
from sitecore_cdp_exporter.poll.reading import Reading
from sitecore_cdp_exporter.poll.snapshot import BatchState, Snapshot
from sitecore_cdp_exporter.watch.watchlist import Watched
from sitecore_cdp_exporter.web.html import badge, count, outcome, page, utc

_BODY = """<h1>Batch <code>{ref}</code></h1>
<nav><a href="/">All batches</a></nav>
<div class="table">
<table class="facts">
<tbody>
{facts}
</tbody>
</table>
</div>
{why}
{silence}"""

_CAUSES = """<h2>Why</h2>
<div class="table">
<table class="causes">
<thead><tr><th>Cause</th><th class="number">Records</th><th>What it means</th><th>What to do</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
{notes}"""

_SILENCE = """<h2>Silence its alerts</h2>
<p>Do this once you have dealt with the batch. Replace the address with that of your Alertmanager.</p>
<pre><code>{command}</code></pre>"""

_NOT_WATCHED = """<h1>Not watched</h1>
<nav><a href="/">All batches</a></nav>
<p>No batch with this ref is watched. It may have been removed from its list, or be older than its retention.</p>"""


def state_of(ref: str, snapshot: Snapshot | None, watched: Mapping[str, Watched]) -> BatchState | None:
    """Return what is known about a batch; None if it is not watched.

    Args:
        ref: The ref of the batch, in either case.
        snapshot: What the last poll found; None before the first.
        watched: The watch list, by ref in lower case, used until there is a snapshot.

    """
    key = ref.lower()
    if snapshot is None:
        return BatchState(watched=watched[key]) if key in watched else None
    return next((state for state in snapshot.batches if state.watched.ref.lower() == key), None)


def render_batch_page(state: BatchState) -> str:
    """Return the page of a watched batch."""
    watched = state.watched
    facts = [*_status(state), *_membership(watched), *_values(state.reading)]
    body = _BODY.format(ref=escape(watched.ref), facts=_rows(facts), why=_why(state), silence=_silence(state))
    return page(f"Batch {watched.ref}", body)


def render_not_watched_page() -> str:
    """Return the page of a ref that is not watched."""
    return page("Not watched", _NOT_WATCHED)


def _status(state: BatchState) -> Iterable[tuple[str, str]]:
    """Yield the status, and how the last poll went."""
    if state.reading is not None:
        since = _since(state.reading)
        yield "Status", outcome(state) + ("" if since is None else f" since {utc(since)} UTC")
    if state.failure is not None:
        yield "Last poll", badge("bad", state.failure)
    else:
        yield "Last poll", "not polled yet" if state.reading is None else "ok"


def _since(reading: Reading) -> float | None:
    batch = reading.batch
    return batch.created if batch.modified is None else batch.modified


def _membership(watched: Watched) -> Iterable[tuple[str, str]]:
    if watched.feed is not None:
        yield "Feed", escape(watched.feed)
    if watched.labels:
        yield "Labels", escape(", ".join(f"{name}={value}" for name, value in watched.labels.items()))
    yield "Listed in", escape(watched.source)


def _values(reading: Reading | None) -> Iterable[tuple[str, str]]:
    """Yield what the API reports about the batch, and when it was read."""
    if reading is None:
        return
    batch = reading.batch
    seconds = batch.time_to_process_seconds
    values = {
        "Records": count(batch.total_records),
        "Succeeded": count(batch.succeeded_records),
        "Failed": count(batch.failed_records),
        "Time to process": "" if seconds is None else f"{seconds:,.1f} s",
        "Size": "" if batch.size_bytes is None else f"{batch.size_bytes:,} bytes",
        "Created": _moment(batch.created),
        "Modified": _moment(batch.modified),
        "Upload URL expires": _moment(batch.upload_expiry),
        "Error log": {True: "yes", False: "no", None: ""}[batch.error_log_available],
        "Read": _moment(reading.polled),
    }
    yield from ((name, value) for name, value in values.items() if value)


def _moment(timestamp: float | None) -> str:
    return "" if timestamp is None else f"{utc(timestamp)} UTC"


def _rows(facts: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in facts)


def _why(state: BatchState) -> str:
    """Return the causes and their remedies, the most frequent first, or an empty string."""
    rows = [] if state.cause is None else [_cause(state.cause, "", WHY_BATCHES[state.cause])]
    records = {} if state.error_log is None else state.error_log.records
    for cause, number in sorted(records.items(), key=lambda item: -item[1]):
        rows.append(_cause(cause, count(number), WHY_RECORDS[cause]))
    if not rows:
        return ""
    return _CAUSES.format(rows="\n".join(rows), notes="\n".join(f"<p>{note}</p>" for note in _notes(state)))


def _cause(cause: str, number: str, advice: Advice) -> str:
    link = f'<a href="{RUNBOOK_URL}#{cause}"><code>{cause}</code></a>'
    return (
        f'<tr><td>{link}</td><td class="number">{number}</td>'
        f"<td>{escape(advice.meaning)}</td><td>{escape(advice.action)}</td></tr>"
    )


def _notes(state: BatchState) -> Iterable[str]:
    """Yield what limits the counts by cause."""
    if state.error_log_failure is not None:
        yield f"The error log was not read: {badge('bad', state.error_log_failure)}"
    elif state.error_log is not None and state.error_log.truncated:
        yield "The error log was counted only in part."
    elif state.error_log is None and state.reading is not None and state.reading.batch.error_log_available:
        yield "The error log has not been read yet."


def _silence(state: BatchState) -> str:
    """Return how to silence the alerts of a batch that failed or never came; empty for others."""
    failed = state.accepted is False or state.cause is not None
    return _SILENCE.format(command=escape(silence_command([state.watched.ref]), quote=False)) if failed else ""
