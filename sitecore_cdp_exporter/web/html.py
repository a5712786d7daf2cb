"""Shared parts of the pages: their frame, and how to format a status, a count and a time. HTML, no script."""

from datetime import UTC, datetime
from html import escape

from sitecore_cdp_exporter.poll.cause import FailureCause
from sitecore_cdp_exporter.poll.snapshot import BatchState

SECONDS_BETWEEN_REFRESHES = 10

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{refresh}">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 84rem; padding: 0 1rem; color: #1b1f24; }}
h1 {{ font-size: 1.5rem; }}
h1 small {{ font-weight: normal; color: #59636e; }}
h2 {{ font-size: 1.125rem; margin-top: 2rem; }}
nav a {{ margin-right: 1.5rem; }}
.table {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: .875rem; }}
caption {{ text-align: left; padding: .5rem 0; font-weight: bold; }}
th, td {{ text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid #d8dee4; white-space: nowrap; }}
td:last-child {{ white-space: normal; }}
td.number, th.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
code {{ font-family: ui-monospace, monospace; font-size: .8125rem; }}
pre {{ background: #f3f5f7; overflow-x: auto; padding: .75rem; }}
.facts th {{ width: 12rem; }}
.causes td {{ vertical-align: top; white-space: normal; }}
.status {{ padding: .1rem .5rem; border-radius: 1rem; background: #e7ecf0; }}
.success, .good {{ background: #c8efd2; }}
.error, .corrupted, .bad {{ background: #ffd4d1; }}
.uploading, .file_uploaded, .processing {{ background: #d5e6ff; }}
.unknown {{ background: #ffe9b8; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""


def page(title: str, body: str) -> str:
    """Return a page that refreshes itself; `body` is HTML."""
    return _PAGE.format(refresh=SECONDS_BETWEEN_REFRESHES, title=escape(title), body=body)


def badge(kind: str, text: str) -> str:
    """Return a text on a coloured background; `kind` is `good`, `bad` or a status."""
    return f'<span class="status {escape(kind)}">{escape(text)}</span>'


def outcome(state: BatchState) -> str:
    """Return the status, that an upload has expired, and why a failure no longer matters, if so."""
    if state.reading is None:
        return ""
    status = state.reading.batch.status
    if status == "error" and state.accepted:
        return f"{badge('good', status)} accepted"
    if state.cause is FailureCause.UPLOAD_EXPIRED:
        return f"{badge(status, status)} expired"
    return badge(status, status) + (" superseded" if state.superseded else "")


def count(number: int | None) -> str:
    """Return a count with thousands separators; empty if unknown."""
    return "" if number is None else f"{number:,}"


def utc(timestamp: float) -> str:
    """Return a time in UTC, or as a Unix timestamp if the calendar cannot represent it."""
    try:
        return f"{datetime.fromtimestamp(timestamp, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        # Outside the years 1 to 9999.
        return f"{timestamp:.0f}"
