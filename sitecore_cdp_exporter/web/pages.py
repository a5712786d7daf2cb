"""The landing page: what is watched and how the last poll of each batch went. HTML without script."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from sitecore_cdp_exporter import __version__
from sitecore_cdp_exporter.poll.snapshot import BatchState, DiscoveryState, Snapshot
from sitecore_cdp_exporter.watch.watchlist import Watched

# A page of more rows is of no use to a person, and /metrics has them all.
MOST_ROWS = 1000

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sitecore CDP batch exporter</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; color: #1b1f24; }}
h1 {{ font-size: 1.5rem; }}
h1 small {{ font-weight: normal; color: #59636e; }}
nav a {{ margin-right: 1.5rem; }}
.table {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: .875rem; }}
caption {{ text-align: left; padding: .5rem 0; }}
th, td {{ text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid #d8dee4; white-space: nowrap; }}
td:last-child {{ white-space: normal; }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
code {{ font-family: ui-monospace, monospace; font-size: .8125rem; }}
.status {{ padding: .1rem .5rem; border-radius: 1rem; background: #e7ecf0; }}
.success {{ background: #c8efd2; }}
.error, .corrupted, .failing {{ background: #ffd4d1; }}
.uploading, .file_uploaded, .processing {{ background: #d5e6ff; }}
.unknown {{ background: #ffe9b8; }}
</style>
</head>
<body>
<h1>Sitecore CDP batch exporter <small>{version}</small></h1>
<nav><a href="{telemetry_path}">Metrics</a> <a href="/-/healthy">Healthy</a> <a href="/-/ready">Ready</a></nav>
<p>{summary}</p>
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
<p>One batch alone: <code>/probe?target=&lt;ref&gt;</code></p>
</body>
</html>
"""


def render_landing_page(snapshot: Snapshot | None, watched: Sequence[Watched], telemetry_path: str) -> str:
    """Return the page.

    Args:
        snapshot: What the last poll has found; None before the first.
        watched: The watch list, shown until there is a snapshot.
        telemetry_path: Where the metrics are.

    """
    if snapshot is None:
        count, rows = len(watched), [_watched_row(batch) for batch in watched[:MOST_ROWS]]
    else:
        count, rows = len(snapshot.batches), [_row(state) for state in snapshot.batches[:MOST_ROWS]]
    return _PAGE.format(
        version=escape(__version__),
        telemetry_path=escape(telemetry_path),
        summary=_summary(snapshot),
        caption=_caption(count),
        rows="\n".join(rows),
    )


def _summary(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return "Nothing was polled yet: the Batch API is asked when Prometheus scrapes."
    up = {None: "not asked yet", True: "up", False: "down"}[snapshot.api_up]
    last_success = "never" if snapshot.api_last_success is None else f"{_time(snapshot.api_last_success)} UTC"
    return (
        f"Batch API: {up}. {_discovery(snapshot.discovery)}Last successful answer: {last_success}. "
        f"Last poll took {snapshot.poll_duration:.3f} s."
    )


def _discovery(discovery: DiscoveryState | None) -> str:
    if discovery is None:
        return ""
    return "List of batches: " + ("read. " if discovery.failure is None else f"not read ({discovery.failure}). ")


def _caption(count: int) -> str:
    shown = f", of which {MOST_ROWS} are shown" if count > MOST_ROWS else ""
    return f"Watched batches: {count}{shown}"


def _watched_row(watched: Watched) -> str:
    return _cells(watched, ["", "", "", "", ""], "not polled yet")


def _row(state: BatchState) -> str:
    last_poll = "ok" if state.failure is None else f'<span class="status failing">{escape(state.failure)}</span>'
    if state.reading is None:
        return _cells(state.watched, ["", "", "", "", ""], last_poll)
    batch = state.reading.batch
    seconds = batch.time_to_process_seconds
    return _cells(
        state.watched,
        [
            f'<span class="status {escape(batch.status)}">{escape(batch.status)}</span>',
            _count(batch.total_records),
            _count(batch.failed_records),
            "" if seconds is None else f"{seconds:,.1f} s",
            "" if batch.modified is None else _time(batch.modified),
        ],
        f"{last_poll}, {_time(state.reading.polled)}",
    )


def _cells(watched: Watched, values: Iterable[str], last_poll: str) -> str:
    status, total, failed, seconds, modified = values
    labels = ", ".join(f"{name}={value}" for name, value in watched.labels.items())
    return (
        f"<tr><td>{escape(watched.feed or '')}</td><td><code>{escape(watched.ref)}</code></td><td>{status}</td>"
        f'<td class="number">{total}</td><td class="number">{failed}</td><td class="number">{seconds}</td>'
        f"<td>{modified}</td><td>{last_poll}</td><td>{escape(labels)}</td></tr>"
    )


def _count(count: int | None) -> str:
    return "" if count is None else f"{count:,}"


def _time(timestamp: float) -> str:
    try:
        return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        # At the ends of the calendar an offset from UTC can lead out of it.
        return f"{timestamp:.0f}"
