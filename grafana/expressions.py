"""The PromQL of the dashboards. None has more than 400 characters, so that one can be read in Grafana's editor.

Two exporters that watch one batch make each of its series twice. So everything is aggregated over the ref or the feed,
and nothing counts twice. `$job` and the like are the variables of the dashboards. No recording rule is needed, save
for the shares of 30 days.
"""

from typing import Final

from grafana.colors import NOT_READ

# These are the limits of prometheus/alerts.yml, in seconds where they are times.
FAILED_SHARE: Final = 0.05
STUCK_AFTER: Final = 2 * 3600
FAILURES_COUNT_FOR: Final = 7 * 86400
URL_VALID_FOR: Final = 3600
# While not everything watched was answered for in this time, in seconds, nothing is known to be well.
KNOWN_FOR: Final = 180

JOB: Final = 'job=~"$job"'
FEED: Final = f'{JOB}, feed=~"$feed"'
# What the table of batches shows, and the timeline: hidden variables hold the refs, which keeps 500 batches small.
SHOWN: Final = f'{JOB}, ref=~"$worst|$newest"'
NEWEST: Final = f'{JOB}, ref=~"$newest"'
# The dashboard of one batch.
THIS: Final = 'ref="$ref"'

# What a tile shows that cannot show a number: scraped, but not known; and nothing at all.
UNKNOWN: Final = -1
NO_DATA: Final = -2


def batch(name: str, where: str = FEED, *, by: str = "ref") -> str:
    """Return the gauge `sitecore_cdp_batch_<name>` once for each ref."""
    return f"max by ({by}) (sitecore_cdp_batch_{name}{{{where}}})"


def feed(name: str, where: str = FEED) -> str:
    """Return the gauge `sitecore_cdp_feed_<name>` once for each feed."""
    return f"max by (feed) (sitecore_cdp_feed_{name}{{{where}}})"


def exporter(name: str, *, by: str = "") -> str:
    """Return the largest value of a gauge that an exporter has of itself."""
    return f"max {by and f'by ({by}) '}(sitecore_cdp_{name}{{{JOB}}})"


def with_feed_name(expression: str) -> str:
    """Say so in the legend where batches have no feed."""
    return f'label_replace({expression}, "feed", "no feed", "feed", "")'


_SCRAPED: Final = f"-min(up{{{JOB}}} == 1)"
# Of each job, a replica that knows is enough. The targets of /probe have the label `ref`.
_COMPLETE: Final = f'sitecore_cdp_complete_poll_timestamp_seconds{{{JOB}}} or 0 * up{{{JOB}, ref=""}}'
_KNOWN: Final = f"time() - min(max by (job) ({_COMPLETE})) < {KNOWN_FOR}"


def tile(value: str) -> str:
    """Return one number whatever happens: what is unknown must neither look healthy nor vanish."""
    return f"{value} or {_SCRAPED} or vector({NO_DATA})"


def count(condition: str) -> str:
    """Count for a tile. It is 0 only while everything watched is known."""
    return tile(f"count({condition}) or 0 * ({_KNOWN})")


def _open(kind: str) -> str:
    return batch("open_failure_ratio", f'{FEED}, kind=~"{kind}"')


def _has(statuses: str, where: str = FEED) -> str:
    return f'sitecore_cdp_batch_status{{{where}, status=~"{statuses}"}} == 1'


_UPLOAD_EXPIRED: Final = 'cause="upload_expired"'
# The number of targets that cannot be scraped needs no exporter.
FAILING_SCRAPES: Final = f"sum(1 - up{{{JOB}}}) or vector({NO_DATA})"
API_UP: Final = (
    f"topk(1, 0 * {exporter('api_failure', by='reason')}) or on () ({tile(f'min(sitecore_cdp_up{{{JOB}}})')})"
)
FAILED: Final = f"{_open('rejected|unreadable')} >= {FAILED_SHARE}"
PARTLY_FAILED: Final = f"{_open('rejected')} < {FAILED_SHARE} or {_open('rejected_few')}"
CORRUPTED: Final = _open("corrupted")
TOO_FEW: Final = _open("too_few_records")
# Where the API cannot distinguish files that have arrived, the exporter names no cause, but the alert fires.
EXPIRED: Final = (
    f"max by (ref) (sitecore_cdp_batch_status_code{{{FEED}}} == 0"
    f" and time() - sitecore_cdp_batch_created_timestamp_seconds{{{FEED}}} > {URL_VALID_FOR} < {FAILURES_COUNT_FOR})"
)
STUCK: Final = (
    f"time() - {batch('modified_timestamp_seconds')} > {STUCK_AFTER} and on (ref) {_has('file_uploaded|processing')}"
)
UNREAD: Final = f"{batch('poll_success')} == 0"
UNDER_WAY: Final = f"max by (ref) ({_has('uploading|file_uploaded|processing')})"
# As FeedStale does, this compares with what was seen: in an outage nobody knows what was uploaded.
OVERDUE: Final = (
    f'max by (job, feed) (sitecore_cdp_feed_due_timestamp_seconds{{{FEED}, of="accepted"}})'
    f" < on (job) group_left () {exporter('complete_poll_timestamp_seconds', by='job')}"
)

# The refs of the batches that somebody has to look at: not read, failed, under way. Of these, and of the newest that
# have a chosen status, the table has the details.
WORST_REFS: Final = (
    f"topk(50, 8 - {batch('poll_success')} > 7 or 3 + {batch('open_failure_ratio')}"
    f" or 3 * {batch('failure_cause', f'{FEED}, {_UPLOAD_EXPIRED}')} or {batch('status_code')} < 3)"
)
NEWEST_ROWS: Final = 30
NEWEST_REFS: Final = f"topk({NEWEST_ROWS}, {batch('created_timestamp_seconds')} and on (ref) {_has('$status')})"

# From the worst: 5 not read, 4 failed, 2 under way or of an unknown status, 1 finished.
CONCERN: Final = (
    f"{batch('poll_success', SHOWN)} + 5 == 5 or 0 * max by (ref) (sitecore_cdp_batch_open_failure_ratio{{{SHOWN}}}"
    f" or sitecore_cdp_batch_failure_cause{{{SHOWN}, {_UPLOAD_EXPIRED}}}) + 4"
    f" or 2 - ({batch('status_code', SHOWN)} >= bool 3)"
)
# A batch that could not be read has no status, so no choice of statuses hides it.
STATUS: Final = (
    f"{batch('status_code', SHOWN, by='feed, ref')} and on (ref) {_has('$status', SHOWN)}"
    f" or ({batch('poll_success', SHOWN, by='feed, ref')} == 0) + {NOT_READ}"
)


# What follows the address of the runbook in a link, so that a reason such as `not_found` does not lead to the cause of
# rejected records that has the same name. Columns show only the first word of it.
_CAUSE: Final = "#$1"
_REASON: Final = "?$1#sitecorecdpbatchunreadable"


def why(where: str) -> str:
    """Return what most records were rejected for, or else why the batch failed or was not read, as the label `why`."""
    causes = f"9 * sitecore_cdp_batch_error_log_records{{{where}}} or sitecore_cdp_batch_failure_cause{{{where}}}"
    return (
        f'topk by (ref) (1, max by (ref, why) (label_replace({causes}, "why", "{_CAUSE}", "cause", "(.+)")'
        f' or label_replace(sitecore_cdp_batch_poll_failure{{{where}}}, "why", "{_REASON}", "reason", "(.+)")))'
    )


def outcome(where: str) -> str:
    """Return 0 for what was not accepted, 1 for what was, 2 for superseded, 3 for accepted with too few records."""
    too_few = batch("open_failure_ratio", f'{where}, kind="too_few_records"')
    return f"0 * {too_few} + 3 or 2 * ({batch('superseded', where)} == 1) or {batch('accepted', where)}"


def failed_share(where: str) -> str:
    """Return the share of records that failed."""
    return f"{batch('failed_records', where)} / ({batch('total_records', where)} > 0)"


def status_over_time(where: str) -> str:
    """Return the status of batches over time, and what could not be read."""
    unread = f"({batch('poll_success', where, by='feed, ref')} == 0) + {NOT_READ}"
    return f"{batch('status_code', where, by='feed, ref')} or {unread}"


_NEWEST_CREATED: Final = batch("created_timestamp_seconds", NEWEST)
# Series are sorted by their labels, the label `age` first: so the newest comes first.
NEWEST_OVER_TIME: Final = (
    f"label_replace(({status_over_time(NEWEST)}) * on (ref) group_left (age) count_values by (ref)"
    f' ("age", 1e10 - {_NEWEST_CREATED}), "short", "$1", "ref", ".*(.{{8}})")'
)
COUNT_BY_STATUS: Final = f"count by (status) (max by (ref, status) ({_has('.*')}))"

_DUE: Final = f'sitecore_cdp_feed_due_timestamp_seconds{{{FEED}, of="accepted"}}'
_LATENESS: Final = f"(time() - {_DUE}) / ignoring(of) sitecore_cdp_feed_grace_seconds"
SEEN: Final = (
    'sitecore_cdp_feed_due_timestamp_seconds{of="accepted"}'
    " < bool on(job, instance) group_left sitecore_cdp_complete_poll_timestamp_seconds"
)
_NEVER: Final = "sitecore_cdp_feed_last_accepted_timestamp_seconds == bool 0"
# 0 fresh, 1 late but within its grace, 2 due since the last time that everything was answered for, so nobody knows,
# 3 stale, 4 and more: nothing was ever accepted. Nothing is due before the first complete poll, so that a restart in an
# outage does not say `never`. Only what is due needs the choice of feeds: the rest is joined with it.
FRESHNESS: Final = f"max by (feed) (clamp(ceil({_LATENESS}) + 1, 0, 2) + ignoring(of) ({SEEN}) + 4 * ({_NEVER}))"
ACCEPTED_AGO: Final = f"time() - ({feed('last_accepted_timestamp_seconds')} > 0)"
DUE: Final = f"1000 * max by (feed) ({_DUE})"
_FINISHED_7D: Final = (
    f"sum by (feed) (max by (feed, status) (increase(sitecore_cdp_feed_finished_batches_total{{{FEED}}}[7d])))"
)
FINISHED_7D: Final = f"round({_FINISHED_7D})"
SHARE_7D: Final = (
    f"max by (feed) (increase(sitecore_cdp_feed_accepted_batches_total{{{FEED}}}[7d])) / ({_FINISHED_7D} > 0)"
)
_HOURS_OF_30_DAYS: Final = f"{{{FEED}}}[30d:1h]"
_ACCEPTED_30D: Final = f"sum_over_time(job_feed:sitecore_cdp_feed_accepted_batches:increase1h{_HOURS_OF_30_DAYS})"
_FINISHED_30D: Final = f"sum_over_time(job_feed:sitecore_cdp_feed_finished_batches:increase1h{_HOURS_OF_30_DAYS})"
SHARE_30D: Final = f"sum by (feed) ({_ACCEPTED_30D}) / (sum by (feed) ({_FINISHED_30D}) > 0)"
# Each watched batch counts once, however long it is watched.
MEDIAN_TIME: Final = f"quantile by (feed) (0.5, sitecore_cdp_batch_time_to_process_seconds{{{FEED}}})"

# A point for each batch that finished in an interval of the graph, and the newest where there were several. All feeds
# are there, with points or without, so that each has the same colour in every graph.
_TIME: Final = feed("last_finished_time_to_process_seconds")
_NEW: Final = f"changes(sitecore_cdp_feed_last_finished_modified_timestamp_seconds{{{FEED}}}[$__rate_interval]) > 0"
_NO_POINTS: Final = f"NaN * {feed('accepted_batches_total')}"
TIME_TO_PROCESS: Final = with_feed_name(f"{_TIME} and on (feed) {_NEW} or {_NO_POINTS}")
TIME_BY_MEDIAN: Final = with_feed_name(f"{_TIME} / ({MEDIAN_TIME} > 0) or {_NO_POINTS}")


def growth(metric: str, by: str) -> str:
    """Return by how much a counter of feeds grew in each interval.

    `increase` would extrapolate, and show 1.02 batches. A restart of the exporter costs one bar.
    """
    each = f"max by (feed, {by}) (sitecore_cdp_feed_{metric}{{{FEED}}}"
    return f"clamp_min({each}) - {each} offset $__interval), 0)"


FINISHED_BY_STATUS: Final = f"sum by (status) ({growth('finished_batches_total', 'status')} > 0)"
REJECTED_BY_CAUSE: Final = f"sum by (cause) ({growth('error_log_records_total', 'cause')} > 0)"
RECORDS: Final = with_feed_name(f"sum by (feed) ({growth('records_total', 'result')})")

# A mark at the time when the batch changed last. It is looked for in two steps, because it is read some time later.
ANNOTATION_STEP: Final = 300
FAILURES: Final = (
    f"1000 * (max by (feed, ref) (sitecore_cdp_batch_modified_timestamp_seconds{{{FEED}}}"
    f" and on (ref) sitecore_cdp_batch_accepted{{{FEED}}} == 0) > time() - {2 * ANNOTATION_STEP})"
)

# Third from the end, the letters of critical, warning and info are in the order of the alphabet.
_ALERT: Final = 'alertname=~"SitecoreCdp.*"'


def firing(where: str) -> str:
    """Return the time since each alert that fires was first seen, its `for` included; severest, then newest first."""
    since = (
        f"time() - (ALERTS_FOR_STATE{{{_ALERT}, {where}}}"
        f' and ignoring (alertstate) ALERTS{{{_ALERT}, {where}, alertstate="firing"}})'
    )
    ordered = f'label_replace({since}, "order", "$1", "severity", ".*(.).{{2}}")'
    return f'sort(bottomk by (severity) (50, label_replace({ordered}, "section", "$1", "alertname", "(.*)")))'


# Some alerts have no job or no feed, and concern every choice of these.
OF_CHOSEN: Final = 'job=~"$job|", feed=~"$feed|"'

# Of the exporter itself.
CONFIG_RELOADS: Final = (
    f'{{__name__=~"sitecore_cdp_exporter_(config_last_reload_successful|web_config_last_reload_successful)", {JOB}}}'
)
REQUESTS: Final = f"sum by (code) (rate(sitecore_cdp_api_requests_total{{{JOB}}}[$__rate_interval]))"
_BUCKETS: Final = f"sitecore_cdp_api_request_duration_seconds_bucket{{{JOB}}}[$__rate_interval]"


def request_duration(quantile: float) -> str:
    """Return the time in which this share of the requests was answered."""
    return f"histogram_quantile({quantile}, sum by (le) (rate({_BUCKETS})))"


def of_program(metric: str) -> str:
    """Return what Prometheus' client library says of each exporter."""
    return f"max by (instance) ({metric}{{{JOB}}} and on (job, instance) sitecore_cdp_exporter_build_info{{{JOB}}})"


# The dashboard of one batch. `$feed` is there the feed of the batch, or nothing.
OF_ITS_FEED: Final = 'feed="$feed"'
MEDIAN_OF_ITS_FEED: Final = f"quantile(0.5, sitecore_cdp_batch_time_to_process_seconds{{{OF_ITS_FEED}}})"
OTHERS: Final = 30
# None if there is no such batch: then nobody knows its feed.
NEWEST_OF_ITS_FEED: Final = (
    f"topk({OTHERS}, {batch('created_timestamp_seconds', OF_ITS_FEED)})"
    f" and on () sitecore_cdp_batch_poll_success{{{THIS}}}"
)
WHY_IT_FAILED: Final = (
    f'max by (why) (label_replace(sitecore_cdp_batch_failure_cause{{{THIS}}}, "why", "{_CAUSE}", "cause", "(.+)")'
    f' or label_replace(sitecore_cdp_batch_poll_failure{{{THIS}}}, "why", "{_REASON}", "reason", "(.+)"))'
)
WHY_RECORDS: Final = (
    f'max by (why) (label_replace(sitecore_cdp_batch_error_log_records{{{THIS}}}, "why", "{_CAUSE}", "cause", "(.+)"))'
)
