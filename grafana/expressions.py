"""The PromQL of the dashboard.

Two exporters that watch one batch make each of its series twice. So everything about batches is aggregated over the
ref, which is unique, and nothing is counted twice. `$job` and the like are the variables of the dashboard.
"""

from typing import Final

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.metrics.definitions import STATUS_CODES

# These are the limits of prometheus/alerts.yml, in seconds where they are times.
FAILED_SHARE: Final = 0.05
MIN_RECORDS: Final = 20
STUCK_AFTER: Final = 2 * 3600
LATE_AFTER_EXPIRY: Final = 1800
LATE_AFTER_CREATION: Final = 5400
FAILURES_COUNT_FOR: Final = 7 * 86400

# Stands beside the status codes, above them all, so that what could not be read comes first when the worst does.
NOT_READ: Final = max(STATUS_CODES.values()) + 1
# More rows cannot be distinguished on a screen.
TIMELINE_ROWS: Final = 30
# After a restart the exporter has to read everything again. Until then Prometheus remembers.
FEED_MEMORY: Final = "7d"
# A batch that finished counts in the graphs even if it was read only this much later.
READ_WITHIN: Final = "5m"

EXPORTER: Final = 'job=~"$job", instance=~"$instance"'
FEED: Final = f'{EXPORTER}, feed=~"$feed"'
BATCH: Final = f'{FEED}, ref=~"${{ref}}.*"'
CHOSEN: Final = f'{BATCH}, status=~"$status"'


def exporter_gauge(name: str) -> str:
    """Select a gauge that an exporter has of itself; `name` is without the prefix of all metrics."""
    return f"sitecore_cdp_{name}{{{EXPORTER}}}"


# That of the web config is missing without one.
CONFIG_RELOADS: Final = (
    '{__name__=~"sitecore_cdp_exporter_(config_last_reload_successful|web_config_last_reload_successful)", '
    f"{EXPORTER}}}"
)


def batch(name: str, *, by: str = "ref", where: str = BATCH, at: str = "") -> str:
    """Return the gauge `sitecore_cdp_batch_<name>` once for each ref. `at` is a modifier such as `offset 1h`."""
    return f"max by ({by}) (sitecore_cdp_batch_{name}{{{where}}}{at and ' ' + at})"


def batch_has(*statuses: str) -> str:
    """Select the batches in one of these statuses."""
    matcher = f'{BATCH}, status=~"{"|".join(statuses)}"'
    return f"{batch('status', where=matcher)} == 1"


def feed(name: str) -> str:
    """Return the gauge `sitecore_cdp_feed_<name>`, which comes from the config, once for each feed."""
    return f"max by (feed) (sitecore_cdp_feed_{name}{{{FEED}}})"


def count(condition: str, *, among: str) -> str:
    """Count the series of `condition`: 0 if there are none, and nothing if there is nothing `among` which to count."""
    return f"count({condition}) or 0 * count({among})"


def with_feed_name(expression: str) -> str:
    """Say so in the legend where batches have no feed."""
    return f'label_replace({expression}, "feed", "no feed", "feed", "")'


# Some alerts have no feed, no ref or no job, and concern every choice of these.
_ALERT: Final = 'alertname=~"SitecoreCdp.*", job=~"$job|", feed=~"$feed|", ref=~"${ref}.*|"'
# The time since an alert that fires was first seen, its `for` included.
FIRING_FOR: Final = (
    f'time() - (ALERTS_FOR_STATE{{{_ALERT}}} and ignoring (alertstate) ALERTS{{{_ALERT}, alertstate="firing"}})'
)

WATCHED: Final = batch("poll_success")
UNREAD: Final = f"{WATCHED} == 0"

# What is broken, as the alerts see it: failures that are recent and that no later batch has made up for.
_UNLESS_PAST: Final = (
    f"unless time() - {batch('modified_timestamp_seconds')} > {FAILURES_COUNT_FOR} unless {batch('superseded')} == 1"
)
_NOT_ACCEPTED: Final = f"({batch_has('error')} and {batch('accepted')} == 0)"
FAILED_RATIO: Final = f"{batch('failed_records')} / ({batch('total_records')} > 0)"
_FAILED_LARGELY: Final = (
    f"(({FAILED_RATIO}) >= {FAILED_SHARE} and {batch('total_records')} >= {MIN_RECORDS}"
    f" or ({batch('accepted')} unless ({FAILED_RATIO})))"
)
FAILED: Final = f"{_NOT_ACCEPTED} and {_FAILED_LARGELY} {_UNLESS_PAST}"
PARTLY_FAILED: Final = f"{_NOT_ACCEPTED} unless {_FAILED_LARGELY} {_UNLESS_PAST}"
CORRUPTED: Final = f"{batch_has('corrupted')} {_UNLESS_PAST}"
STUCK: Final = (
    f"{batch_has('file_uploaded', 'processing')} and time() - {batch('modified_timestamp_seconds')} > {STUCK_AFTER}"
)
UPLOAD_EXPIRED: Final = (
    f"{batch_has('uploading')} and (time() - {batch('upload_expiry_timestamp_seconds')} > {LATE_AFTER_EXPIRY}"
    f" or (time() - {batch('created_timestamp_seconds')} > {LATE_AFTER_CREATION}"
    f" unless {batch('upload_expiry_timestamp_seconds')}))"
)

# Of the table. A batch that could not be read has no status, so no choice of statuses hides it.
_IS_CHOSEN: Final = f"and on (ref) sitecore_cdp_batch_status{{{CHOSEN}}} == 1"
STATUS: Final = (
    f"{batch('status_code', by='feed, ref')} {_IS_CHOSEN}"
    f" or ({batch('poll_success', by='feed, ref')} == 0) + {NOT_READ}"
)
# One reason is enough where two exporters fail for two.
WHY_NOT_READ: Final = f"topk by (ref) (1, {batch('poll_failure', by='ref, reason')} and on (ref) {UNREAD})"
# 0 not accepted, 1 accepted, 2 superseded.
OUTCOME: Final = f"(2 * ({batch('superseded')} == 1) or {batch('accepted')}) {_IS_CHOSEN}"


def chosen(expression: str) -> str:
    """Keep the batches whose status is one of those chosen."""
    return f"({expression}) {_IS_CHOSEN}"


def _of_feeds(series: str) -> str:
    """Give one value for each feed. A restarted replica knows less; of two organisations the worse one counts."""
    return f"min by (feed) (max without (instance, pod, endpoint, container) ({series}))"


_LAST_ACCEPTED: Final = f"max_over_time(sitecore_cdp_feed_last_accepted_timestamp_seconds{{{FEED}}}[{FEED_MEMORY}])"
LAST_ACCEPTED: Final = f"({_of_feeds(_LAST_ACCEPTED)} and {feed('max_failed_ratio')})"
# Only a feed of which something is expected has a grace.
GRACE: Final = feed("grace_seconds")
_DUE: Final = f'sitecore_cdp_feed_due_timestamp_seconds{{{FEED}, of="accepted"}}'
DUE: Final = f"(({_of_feeds(_DUE)} or {_of_feeds(f'last_over_time({_DUE}[{FEED_MEMORY}])')}) and {GRACE})"
OVERDUE: Final = f"{DUE} < time() and {LAST_ACCEPTED} > 0"
# 0 fresh, 1 late but within its grace, 2 stale, 3 nothing was ever accepted.
FRESHNESS: Final = (
    f"3 + 0 * ({LAST_ACCEPTED} == 0) and {GRACE} or (({DUE} - {GRACE}) < bool time()) + ({DUE} < bool time())"
)
SHARE_OF_ALLOWED_TIME: Final = f"(time() - ({LAST_ACCEPTED} > 0)) / ({DUE} - {LAST_ACCEPTED})"
TOO_SMALL: Final = (
    f"count by (feed) (({batch('total_records', by='feed, ref', where=FEED)}"
    f" < on (feed) group_left () {feed('min_records')})"
    f" and on (ref) sitecore_cdp_batch_accepted{{{FEED}}} == 1) or 0 * {feed('min_records')}"
)

# From the worst: 5 not read, 4 failed, 3 stuck or of an unknown status, 2 under way, 1 loaded, 0 superseded.
_CODE: Final = batch("status_code")
_SUPERSEDED: Final = f"0 * ({batch('superseded')} == 1)"
_LOADED: Final = f"{batch('accepted')} == 1 or 0 * ({_CODE} == {STATUS_CODES[BatchStatus.SUCCESS]}) + 1"
_OPEN: Final = f"0 * ({_CODE} > {STATUS_CODES[BatchStatus.SUCCESS]}) + 4"
_DOUBTFUL: Final = f"0 * ({_CODE} == {STATUS_CODES[BatchStatus.UNKNOWN]} or {STUCK} or {UPLOAD_EXPIRED}) + 3"
_CONCERN: Final = (
    f"({UNREAD}) + 5 or {chosen(f'{_SUPERSEDED} or {_LOADED} or {_OPEN} or {_DOUBTFUL} or 0 * {_CODE} + 2')}"
)
# A table is sorted by one number. No time of a batch, in seconds, is as large as the factor.
WORST_THEN_NEWEST: Final = f"1e10 * ({_CONCERN}) + ({batch('created_timestamp_seconds')} or 0 * {WATCHED})"

# The newest batches at the end of the time range, and before them those that were never read.
_SHOWN_IN_TIMELINE: Final = (
    f"topk({TIMELINE_ROWS}, {batch('created_timestamp_seconds', at='@ end()')}"
    f" and on (ref) sitecore_cdp_batch_status{{{CHOSEN}}} @ end() == 1"
    f" or ({batch('poll_success', at='@ end()')} == 0) + 1e11)"
)
STATUS_OVER_TIME: Final = (
    f"({batch('status_code', by='feed, ref')} or ({batch('poll_success', by='feed, ref')} == 0) + {NOT_READ})"
    f" and on (ref) {_SHOWN_IN_TIMELINE}"
)
COUNT_BY_STATUS: Final = f"count by (status) ({batch('status', by='ref, status', where=CHOSEN)} == 1)"

# The batches that finished in an interval of the graph. They are looked up a while later, when they have been read.
_LATER: Final = f"offset -{READ_WITHIN}"
_FINISHED: Final = (
    f"time() - {batch('modified_timestamp_seconds', by='feed, ref', at=_LATER)} >= 0 < $__interval_ms / 1000"
    f" and on (ref) sitecore_cdp_batch_accepted{{{BATCH}}} {_LATER}"
)


def of_finished(name: str) -> str:
    """Return the gauge of the batches that finished in the interval."""
    return f"({batch(name, by='feed, ref', at=_LATER)} and {_FINISHED})"
