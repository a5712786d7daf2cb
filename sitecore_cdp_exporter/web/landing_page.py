"""The landing page: the API, the feeds, and the watched batches, those that need attention first. HTML, no script."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from sitecore_cdp_exporter import __version__
from sitecore_cdp_exporter.api.errors import api_state
from sitecore_cdp_exporter.config.model import ApiConfig
from sitecore_cdp_exporter.poll.advice import RUNBOOK_URL
from sitecore_cdp_exporter.poll.cause import FailureCause
from sitecore_cdp_exporter.poll.snapshot import BatchState, DiscoveryState, FeedState, Snapshot
from sitecore_cdp_exporter.watch.watchlist import Watched
from sitecore_cdp_exporter.web.html import badge, count, outcome, page, utc

# Nobody reads a longer page, and /metrics has all batches.
MAX_ROWS = 1000

_BODY = """<h1>Sitecore CDP batch exporter <small>{version}</small></h1>
<nav><a href="{telemetry_path}">Metrics</a> <a href="/-/healthy">Healthy</a> <a href="/-/ready">Ready</a>
<a href="{runbook}">Runbook</a></nav>
<p>Batch API: <code>{base_url}</code>, endpoint <code>{endpoint}</code>. {summary}</p>
{feeds}
<div class="table">
<table>
<caption>{caption}</caption>
<thead><tr><th>Feed</th><th>Ref</th><th>Status</th><th class="number">Records</th><th class="number">Failed</th>
<th class="number">Time to process</th><th>Modified (UTC)</th><th>Last poll (UTC)</th><th>Labels</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>
<p>Metrics of one batch alone: <code>/probe?target=&lt;ref&gt;</code></p>"""

_FEEDS = """<div class="table">
<table>
<caption>Feeds</caption>
<thead><tr><th>Feed</th><th>State</th><th>Last accepted (UTC)</th><th>Newest batch</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</div>"""


def render_landing_page(
    snapshot: Snapshot | None, watched: Sequence[Watched], api: ApiConfig, telemetry_path: str, now: float
) -> str:
    """Return the page.

    Args:
        snapshot: What the last poll found; None before the first.
        watched: The watch list, shown until there is a snapshot.
        api: Where the API is.
        telemetry_path: Where the metrics are.
        now: Seconds since the Unix epoch.

    """
    if snapshot is None:
        amount, rows = len(watched), [_watched_row(batch) for batch in watched[:MAX_ROWS]]
    else:
        amount = len(snapshot.batches)
        rows = [_row(state) for state in sorted(snapshot.batches, key=_order)[:MAX_ROWS]]
    body = _BODY.format(
        version=escape(__version__),
        telemetry_path=escape(telemetry_path),
        runbook=RUNBOOK_URL,
        base_url=escape(api.base_url),
        endpoint=escape(api.endpoint),
        summary=_summary(snapshot),
        feeds="" if snapshot is None else _feeds(snapshot, now),
        caption=_caption(amount),
        rows="\n".join(rows),
    )
    return page("Sitecore CDP batch exporter", body)


def _order(state: BatchState) -> tuple[int, float]:
    """Sort key: failed batches and uploads, then unfinished or unread ones, then the rest; the newest of each first."""
    batch = None if state.reading is None else state.reading.batch
    created = 0.0 if batch is None else batch.created or batch.modified or 0.0
    if state.cause is FailureCause.UPLOAD_EXPIRED:
        return 0, -created
    if batch is None or not batch.status.finished:
        return 1, -created
    is_open = not state.accepted and not state.superseded and batch.status != "success"
    return 0 if is_open else 2, -created


def _summary(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return "Nothing was polled yet: the API is asked when Prometheus scrapes."
    last_success = "never" if snapshot.api_last_success is None else f"{utc(snapshot.api_last_success)} UTC"
    return (
        f"{_api(snapshot)} {_discovery(snapshot.discovery)}Last successful answer: {last_success}. "
        f"Last poll took {snapshot.poll_duration:.3f} s."
    )


def _api(snapshot: Snapshot) -> str:
    if snapshot.api_up is None:
        return "It was not asked yet."
    if snapshot.api_up:
        return badge("good", "up")
    return f"It {badge('bad', api_state(snapshot.api_failure))}. The log has more."


def _discovery(discovery: DiscoveryState | None) -> str:
    if discovery is None:
        return ""
    return "List of batches: " + ("read. " if discovery.failure is None else f"not read ({discovery.failure}). ")


def _feeds(snapshot: Snapshot, now: float) -> str:
    newest = _newest_by_feed(snapshot.batches)
    rows = [_feed_row(state, newest.get(state.feed.name), now) for state in snapshot.feeds]
    return _FEEDS.format(rows="\n".join(rows)) if rows else ""


def _newest_by_feed(states: Iterable[BatchState]) -> Mapping[str, BatchState]:
    newest: dict[str, BatchState] = {}
    for state in sorted(states, key=_created):
        if state.watched.feed is not None and state.reading is not None:
            newest[state.watched.feed] = state
    return newest


def _created(state: BatchState) -> float:
    return 0.0 if state.reading is None else state.reading.batch.created or 0.0


def _feed_row(state: FeedState, newest: BatchState | None, now: float) -> str:
    accepted = utc(state.last_accepted) if state.last_accepted else "never seen"
    batch = "none watched" if newest is None else f"{outcome(newest)} {_records(newest)}"
    cells = (escape(state.feed.name), _feed_state(state, now), accepted, batch)
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _feed_state(state: FeedState, now: float) -> str:
    if not state.feed.expects:
        return "nothing expected"
    if state.due is None:
        return "not everything was read yet"
    due = state.due.accepted
    return badge("bad", f"overdue since {utc(due)} UTC") if due < now else badge("good", f"due by {utc(due)} UTC")


def _records(state: BatchState) -> str:
    batch = None if state.reading is None else state.reading.batch
    if batch is None or batch.total_records is None:
        return ""
    if not batch.failed_records:
        return f"{batch.total_records:,} records"
    return f"{batch.failed_records:,} of {batch.total_records:,} records failed"


def _caption(amount: int) -> str:
    shown = f", of which {MAX_ROWS} are shown" if amount > MAX_ROWS else ""
    return f"Watched batches: {amount}{shown}"


def _watched_row(watched: Watched) -> str:
    return _cells(watched, ["", "", "", "", ""], "not polled yet")


def _row(state: BatchState) -> str:
    last_poll = "ok" if state.failure is None else badge("bad", state.failure)
    if state.reading is None:
        return _cells(state.watched, ["", "", "", "", ""], last_poll)
    batch = state.reading.batch
    seconds = batch.time_to_process_seconds
    return _cells(
        state.watched,
        [
            outcome(state),
            count(batch.total_records),
            count(batch.failed_records),
            "" if seconds is None else f"{seconds:,.1f} s",
            "" if batch.modified is None else utc(batch.modified),
        ],
        f"{last_poll}, {utc(state.reading.polled)}",
    )


def _cells(watched: Watched, values: Iterable[str], last_poll: str) -> str:
    status, total, failed, seconds, modified = values
    labels = ", ".join(f"{name}={value}" for name, value in watched.labels.items())
    return (
        f"<tr><td>{escape(watched.feed or '')}</td><td>{_link(watched.ref)}</td><td>{status}</td>"
        f'<td class="number">{total}</td><td class="number">{failed}</td><td class="number">{seconds}</td>'
        f"<td>{modified}</td><td>{last_poll}</td><td>{escape(labels)}</td></tr>"
    )


def _link(ref: str) -> str:
    return f'<a href="/batches/{escape(ref)}"><code>{escape(ref)}</code></a>'
