"""What the dashboard shows, in the order of the questions that it answers.

    python -m grafana.dashboard > grafana/dashboards/sitecore-cdp-batches.json

This writes classic JSON for Grafana 10 and later. Each panel has a number of its own, so that new panels do not change
the ids of the others.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from grafana_foundation_sdk.builders.dashboard import (
    CustomVariable,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
    TextBoxVariable,
)
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard as DashboardModel
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    Panel,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from grafana import expressions
from grafana.expressions import (
    CONFIG_RELOADS,
    EXPORTER,
    batch,
    chosen,
    count,
    exporter_gauge,
    feed,
    of_finished,
    with_feed_name,
)
from grafana.panels import (
    DATA_SOURCE,
    GREEN,
    GREY,
    NO_COLOR,
    ORANGE,
    RED,
    About,
    Column,
    graph_panel,
    stat_panel,
    steps,
    table_panel,
    timeline_panel,
    value_map,
)
from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.metrics.definitions import STATUS_CODES

UID: Final = "sitecore-cdp-batches"
# The schema that the models of grafana-foundation-sdk are made from.
SCHEMA_OF: Final = "10.1.0"
SCHEMA_VERSION: Final = 38

# The alerts in prometheus/alerts.yml link to its sections.
RUNBOOK: Final = "https://github.com/sitecore-cdp-batch-exporter/sitecore-cdp-batch-exporter/blob/main/docs/runbook.md"
DISCOVERY_OFF: Final = "discovery is off"
# Either nothing is watched, or no exporter was scraped.
NO_BATCHES: Final = "no batches"

STATUS_COLORS: Final[Mapping[BatchStatus, str]] = {
    BatchStatus.UPLOADING: "light-blue",
    BatchStatus.FILE_UPLOADED: "blue",
    BatchStatus.PROCESSING: "dark-blue",
    BatchStatus.SUCCESS: GREEN,
    BatchStatus.CORRUPTED: "dark-red",
    BatchStatus.ERROR: RED,
    BatchStatus.UNKNOWN: "purple",
}
STATUSES: Final = {code: (status.value, STATUS_COLORS[status]) for status, code in STATUS_CODES.items()} | {
    expressions.NOT_READ: ("not read", ORANGE)
}
OUTCOMES: Final = {0: ("not accepted", RED), 1: ("accepted", GREEN), 2: ("superseded", GREY)}
SEVERITIES: Final = {
    severity: (severity, color) for severity, color in (("critical", RED), ("warning", ORANGE), ("info", GREY))
}
FRESHNESS: Final = {
    0: ("fresh", GREEN),
    1: ("late, within grace", ORANGE),
    2: ("stale", RED),
    3: ("nothing accepted yet", ORANGE),
}

# For any feed and status, or a batch would vanish from its own view when it finishes.
BATCH_VIEW: Final = (
    f"/d/{UID}?${{datasource:queryparam}}&${{job:queryparam}}&${{instance:queryparam}}"
    "&var-ref=${__value.raw}&${__url_time_range}"
)

_BATCH_LINK: Final = {"title": "This batch alone", "url": BATCH_VIEW, "targetBlank": False}


def is_anything_broken_now() -> list[Builder[Panel]]:
    """Count what the alerts are about. Everything is green when all is well."""
    return [
        _broken(
            About(
                number=1,
                title="Failing scrapes",
                description="Targets that Prometheus cannot scrape: an exporter is down, or with /probe a batch "
                "cannot be asked for. Alert: ExporterDown.",
                unit="none",
                no_value="no exporter",
            ),
            f"sum(1 - up{{{EXPORTER}}})",
        ),
        stat_panel(
            _small(
                About(
                    number=2,
                    title="Batch API",
                    description="Whether the Batch API answers and accepts the credentials. While it does not, the "
                    "state of unfinished batches is unknown. Alerts: ApiDown, ApiUnauthorized.",
                    unit="none",
                    no_value="unknown",
                )
            ),
            f"min({exporter_gauge('up')})",
            thresholds=steps((0, RED), (1, GREEN), below=GREY),
            meanings={0: ("down", RED), 1: ("up", GREEN)},
        ),
        _broken(
            About(
                number=3,
                title="Failed",
                description="Batches with the status error that were not accepted, where 5 % or more of at least 20 "
                "records failed, or nothing is known of the records; for seven days, unless superseded. Alert: "
                "BatchFailed.",
                unit="none",
                no_value=NO_BATCHES,
            ),
            count(expressions.FAILED, among=expressions.WATCHED),
        ),
        _broken(
            About(
                number=4,
                title="Failed in part",
                description="Batches with the status error that were not accepted, where less than 5 % of the records "
                "failed, or there are fewer than 20; for seven days, unless superseded. Alert: BatchPartlyFailed.",
                unit="none",
                no_value=NO_BATCHES,
            ),
            count(expressions.PARTLY_FAILED, among=expressions.WATCHED),
            color=ORANGE,
        ),
        _broken(
            About(
                number=5,
                title="Corrupted",
                description="Batches whose file is not the one that the uploader declared; for seven days, unless "
                "superseded. Alert: BatchCorrupted.",
                unit="none",
                no_value=NO_BATCHES,
            ),
            count(expressions.CORRUPTED, among=expressions.WATCHED),
        ),
        _broken(
            About(
                number=6,
                title="Stuck",
                description="Batches that are waiting or processing and have not changed for two hours, and files that "
                "never arrived: half an hour after the upload URL expired, or 90 minutes after the batch was allocated "
                "where no expiry is known. Alerts: BatchStuck, BatchUploadExpired.",
                unit="none",
                no_value=NO_BATCHES,
            ),
            count(f"{expressions.STUCK} or {expressions.UPLOAD_EXPIRED}", among=expressions.WATCHED),
            color=ORANGE,
        ),
        _broken(
            About(
                number=7,
                title="Not read",
                description="Watched batches that could not be read in the last scrape; the table shows why. "
                "Alerts: BatchNotFound after 15 minutes, BatchUnreadable after 30.",
                unit="none",
                no_value=NO_BATCHES,
            ),
            count(expressions.UNREAD, among=expressions.WATCHED),
            color=ORANGE,
        ),
        _broken(
            About(
                number=8,
                title="Overdue feeds",
                description="Feeds without an accepted batch by the time that it was due, grace included. Alert: "
                "FeedStale.",
                unit="none",
                no_value="nothing is expected",
            ),
            count(expressions.OVERDUE, among=expressions.GRACE),
        ),
        table_panel(
            About(
                number=9,
                title="Alerts that fire",
                description="Firing alerts, newest first, whether or not Alertmanager silences or inhibits them: those "
                "of the chosen jobs, feeds and ref, and those that concern all. Needs the rules of "
                "prometheus/alerts.yml in the same Prometheus. The runbook, linked at the top, has a section for each "
                "alert.",
                unit="s",
                no_value="no alert fires, or the rules of prometheus/alerts.yml are not loaded",
                width=24,
                height=6,
            ),
            None,
            {"age": expressions.FIRING_FOR},
            [
                Column(source="severity", title="Severity", properties=_in_words(SEVERITIES)),
                Column(source="alertname", title="Alert"),
                Column(source="feed", title="Feed"),
                Column(source="ref", title="Ref", properties={"links": [_BATCH_LINK], "custom.width": 320}),
                Column(source="job", title="Job"),
                Column(source="Value", title="Since", properties={"decimals": 1}),
            ],
            sort_by={"Since": False},
        ),
    ]


def which_batches() -> list[Builder[Panel]]:
    """List every watched batch, and what happened to it."""
    return [
        table_panel(
            About(
                number=10,
                title="Batches",
                description="All watched batches, the worst first: not read, failed, stuck or of an unknown "
                "status, under way, loaded, superseded; within each, the newest first. Click a ref to show that batch "
                "alone, for any feed and status; the browser's Back button restores the selection. A batch that could "
                "not be read is shown for any choice of statuses, with the reason. Failed share: red from "
                "5 %, where the alert is critical for batches of at least 20 records.",
                unit="short",
                no_value=NO_BATCHES,
                width=24,
                height=12,
            ),
            "ref",
            {
                "rank": expressions.WORST_THEN_NEWEST,
                "status": expressions.STATUS,
                "why": expressions.WHY_NOT_READ,
                "outcome": expressions.OUTCOME,
                "records": chosen(batch("total_records")),
                "failed": chosen(batch("failed_records")),
                "share": chosen(expressions.FAILED_RATIO),
                "duration": chosen(batch("time_to_process_seconds")),
                "age": chosen(f"time() - {batch('created_timestamp_seconds')}"),
            },
            [
                Column(source="feed", title="Feed"),
                Column(source="ref", title="Ref", properties={"links": [_BATCH_LINK], "custom.width": 320}),
                Column(source="Value #status", title="Status", properties=_in_words(STATUSES)),
                Column(source="reason", title="Why not read"),
                Column(source="Value #outcome", title="Outcome", properties=_in_words(OUTCOMES)),
                Column(source="Value #records", title="Records", properties={"unit": "locale"}),
                Column(source="Value #failed", title="Failed", properties={"unit": "locale"}),
                Column(
                    source="Value #share",
                    title="Failed share",
                    properties={
                        "unit": "percentunit",
                        "decimals": 2,
                        "thresholds": steps(
                            (0, GREEN), (1e-9, ORANGE), (expressions.FAILED_SHARE, RED), below=NO_COLOR
                        ).build(),
                        "custom.cellOptions": {"type": "color-text"},
                    },
                ),
                Column(source="Value #duration", title="Time to process", properties={"unit": "s"}),
                Column(source="Value #age", title="Age", properties={"unit": "s", "decimals": 1}),
            ],
            largest_first="Value #rank",
        ),
        table_panel(
            About(
                number=11,
                title="Times and files",
                description="When the API says that the batches of the table above were allocated and changed, when "
                "their upload URL expires, how old the values shown are, how large the file is, and whether there is "
                "an error log. An error without a log is usually a file that is not gzip.",
                unit="short",
                no_value="no batch was read",
                width=24,
                height=8,
            ),
            "ref",
            {
                "created": chosen(f"1000 * {batch('created_timestamp_seconds')}"),
                "modified": chosen(f"1000 * {batch('modified_timestamp_seconds')}"),
                "expiry": chosen(f"1000 * {batch('upload_expiry_timestamp_seconds')}"),
                "polled": chosen(f"time() - {batch('polled_timestamp_seconds')}"),
                "size": chosen(batch("size_bytes")),
                "log": chosen(batch("error_log_available")),
            },
            [
                Column(source="ref", title="Ref", properties={"links": [_BATCH_LINK], "custom.width": 320}),
                Column(source="Value #created", title="Allocated", properties={"unit": "dateTimeAsIso"}),
                Column(source="Value #modified", title="Changed", properties={"unit": "dateTimeAsIso"}),
                Column(source="Value #expiry", title="Upload URL expires", properties={"unit": "dateTimeAsIso"}),
                Column(source="Value #polled", title="Read", properties={"unit": "s", "decimals": 0}),
                Column(source="Value #size", title="Size", properties={"unit": "bytes"}),
                Column(
                    source="Value #log",
                    title="Error log",
                    properties={"unit": "none", "mappings": [value_map({0: ("none", GREY), 1: ("available", ORANGE)})]},
                ),
            ],
            sort_by={"Allocated": True},
        ),
    ]


def are_the_feeds_fresh() -> list[Builder[Panel]]:
    """Compare when a batch of each feed was last accepted with what is expected."""
    return [
        table_panel(
            About(
                number=20,
                title="Feeds",
                description="When a batch of the feed was last accepted, and when the next one is due, grace included. "
                "Stale: nothing was accepted by then, which is the alert FeedStale. Too "
                "small: accepted batches with fewer records than min_records, which is the alert FeedTooFewRecords. "
                "Nothing accepted yet is the alert FeedNeverAccepted, once the first batch is overdue.",
                unit="s",
                no_value="no feed is configured",
                width=14,
            ),
            "feed",
            {
                "state": expressions.FRESHNESS,
                "accepted": f"time() - ({expressions.LAST_ACCEPTED} > 0)",
                "due": f"1000 * {expressions.DUE}",
                "grace": expressions.GRACE,
                "small": expressions.TOO_SMALL,
                "least": feed("min_records"),
                "tolerated": feed("max_failed_ratio"),
            },
            [
                Column(source="feed", title="Feed"),
                Column(source="Value #state", title="State", properties=_in_words(FRESHNESS)),
                Column(source="Value #accepted", title="Last accepted, ago", properties={"decimals": 1}),
                Column(source="Value #due", title="Due", properties={"unit": "dateTimeFromNow"}),
                Column(source="Value #grace", title="Grace"),
                Column(
                    source="Value #small",
                    title="Too small",
                    properties={
                        "unit": "none",
                        "thresholds": steps((1, RED)).build(),
                        "custom.cellOptions": {"type": "color-text"},
                    },
                ),
                Column(source="Value #least", title="Least records", properties={"unit": "locale"}),
                Column(source="Value #tolerated", title="Tolerated share", properties={"unit": "percentunit"}),
            ],
            sort_by={"State": True, "Feed": False},
        ),
        graph_panel(
            About(
                number=21,
                title="Share of the allowed time that has passed",
                description="Time since the feed's last accepted batch, as a share of the time that the next one has, "
                "grace included. It falls when a batch is accepted. Above 100 % the feed is stale.",
                unit="percentunit",
                no_value="nothing is expected of a feed, or nothing was accepted yet",
                width=10,
            ),
            {"{{feed}}": expressions.SHARE_OF_ALLOWED_TIME},
            limit=1,
        ),
    ]


def how_batches_moved() -> list[Builder[Panel]]:
    """Show the states of batches over time."""
    return [
        timeline_panel(
            About(
                number=30,
                title=f"States of the {expressions.TIMELINE_ROWS} newest batches",
                description="One row for each batch that is watched at the end of the time range: those that could not "
                "be read, then the newest. Choose feeds, statuses or a ref for others. Where a row has no colour the "
                "batch was not watched, or nothing was scraped.",
                unit="none",
                no_value=NO_BATCHES,
                width=24,
                height=14,
            ),
            "{{feed}} {{ref}}",
            expressions.STATUS_OVER_TIME,
            STATUSES,
        ),
        graph_panel(
            About(
                number=31,
                title="Watched batches by status",
                description="How many of the watched batches were in each status, and how many could not be read.",
                unit="none",
                no_value=NO_BATCHES,
            ),
            {
                "{{status}}": expressions.COUNT_BY_STATUS,
                "not read": f"count({expressions.UNREAD})",
            },
            stacked=True,
        ),
        graph_panel(
            About(
                number=32,
                title="All batches of the past 30 days by status",
                description="What the list of the Batch API counts, watched or not. Needs discovery.",
                unit="none",
                no_value=DISCOVERY_OFF,
            ),
            {"{{status}}": f"max by (status) (sitecore_cdp_batches{{{EXPORTER}}})"},
            stacked=True,
        ),
    ]


def how_much_goes_in() -> list[Builder[Panel]]:
    """Show volumes and speed by the time at which batches finished."""
    late = "A bar has the batches that finished in its interval; those of the last five minutes are still missing."
    records, failed, seconds = map(of_finished, ("total_records", "failed_records", "time_to_process_seconds"))
    speed = f"sum by (feed) ({records} and {seconds}) / (sum by (feed) ({seconds}) > 0)"
    quotient = "Records of finished batches, divided by the time that Sitecore CDP took for them."
    volumes = [
        (40, "Records", "Records in finished batches.", "short", f"sum by (feed) ({records})"),
        (41, "Failed records", "Records that were not processed.", "short", f"sum by (feed) ({failed})"),
        (
            42,
            "Time to process",
            "The longest time that Sitecore CDP took for a batch.",
            "s",
            f"max by (feed) ({seconds})",
        ),
        (43, "Records a second", quotient, "cps", speed),
    ]
    return [
        graph_panel(
            About(
                number=number,
                title=title,
                description=f"{description} {late}",
                unit=unit,
                no_value="no batch has finished",
            ),
            {"{{feed}}": with_feed_name(value)},
            # Records of several feeds add up, times and speeds do not.
            stacked=unit == "short",
            interval="1m",
        )
        for number, title, description, unit, value in volumes
    ]


def is_the_exporter_well() -> list[Builder[Panel]]:
    """Show the exporter, its requests and what it watches."""
    requests = f"sitecore_cdp_api_requests_total{{{EXPORTER}}}"
    buckets = f"sitecore_cdp_api_request_duration_seconds_bucket{{{EXPORTER}}}"
    rate_of_buckets = f"sum by (le) (rate({buckets}[$__rate_interval]))"
    well = {0: ("failing", RED), 1: ("ok", GREEN)}
    return [
        stat_panel(
            _small(
                About(
                    number=50,
                    title="Discovery",
                    description="Whether the list of batches was read in the last poll. Alert: DiscoveryFailing.",
                    unit="none",
                    no_value=DISCOVERY_OFF,
                ),
                width=4,
            ),
            f"min({exporter_gauge('discovery_success')})",
            thresholds=steps((0, RED), (1, GREEN), below=GREY),
            meanings=well,
        ),
        stat_panel(
            _small(
                About(
                    number=51,
                    title="Dropped by max_batches",
                    description="Discovered batches that are not watched because there are more than "
                    "discovery.max_batches. Alert: DiscoveryDropped.",
                    unit="none",
                    no_value=DISCOVERY_OFF,
                ),
                width=4,
            ),
            f"max({exporter_gauge('discovery_dropped_batches')})",
            thresholds=steps((0, GREEN), (1, ORANGE), below=GREY),
        ),
        stat_panel(
            _small(
                About(
                    number=52,
                    title="Config reload",
                    description="Whether the last attempts to load the config and the web config succeeded. "
                    "Alert: ConfigReloadFailed.",
                    unit="none",
                    no_value="no exporter",
                ),
                width=4,
            ),
            f"min({CONFIG_RELOADS})",
            thresholds=steps((0, RED), (1, GREEN), below=GREY),
            meanings=well,
        ),
        stat_panel(
            _small(
                About(
                    number=53,
                    title="Bad batch files",
                    description="Batch files that cannot be used, in whole or in part; the log of the exporter has "
                    "the lines. Alert: BatchFileError.",
                    unit="none",
                    no_value="no batch files",
                ),
                width=4,
            ),
            f"sum(max by (file) ({exporter_gauge('exporter_batch_file_error')}))",
            thresholds=steps((0, GREEN), (1, ORANGE), below=GREY),
        ),
        stat_panel(
            _small(
                About(
                    number=54,
                    title="Since the API last answered",
                    description="Time since a batch or the list was last read. A quiet exporter asks every five "
                    "minutes.",
                    unit="s",
                    no_value="never",
                ),
                width=4,
            ),
            f"time() - max({exporter_gauge('api_last_success_timestamp_seconds')})",
            thresholds=steps((0, GREEN), (900, ORANGE), (3600, RED), below=GREY),
        ),
        stat_panel(
            _small(
                About(
                    number=55,
                    title="Details to be read",
                    description="Finished batches whose details are still to be read; not zero for long means that the "
                    "scrapes are too short or the API is slow.",
                    unit="none",
                    no_value="no exporter",
                ),
                width=4,
            ),
            f"max({exporter_gauge('unread_batches')})",
            thresholds=steps((0, GREEN), below=GREY),
        ),
        table_panel(
            About(
                number=56,
                title="Exporters",
                description="Each exporter, its version, the share of its scrapes that succeed now, how many batches "
                "it watches, how many are past their retention, and its memory and age.",
                unit="short",
                no_value="no exporter",
            ),
            "instance",
            {
                "up": f"avg by (instance) (up{{{EXPORTER}}})",
                "version": f"max by (instance, version) ({exporter_gauge('exporter_build_info')})",
                "watched": f"sum by (instance) ({exporter_gauge('watched_batches')})",
                "retired": f"max by (instance) ({exporter_gauge('retired_batches')})",
                "memory": f"max by (instance) (process_resident_memory_bytes{{{EXPORTER}}} and on (job, instance) "
                f"{exporter_gauge('exporter_build_info')})",
                "age": f"time() - min by (instance) (process_start_time_seconds{{{EXPORTER}}} and on (job, instance) "
                f"{exporter_gauge('exporter_build_info')})",
            },
            [
                Column(source="instance", title="Instance"),
                Column(
                    source="Value #up",
                    title="Scraped",
                    properties={
                        "unit": "percentunit",
                        "thresholds": steps((1, GREEN), below=RED).build(),
                        "custom.cellOptions": {"type": "color-text"},
                    },
                ),
                Column(source="version", title="Version"),
                Column(source="Value #watched", title="Watched"),
                Column(source="Value #retired", title="Retired"),
                Column(source="Value #memory", title="Memory", properties={"unit": "bytes"}),
                Column(source="Value #age", title="Running for", properties={"unit": "s", "decimals": 1}),
            ],
            sort_by={"Instance": False},
        ),
        timeline_panel(
            About(
                number=57,
                title="Batch API over time",
                description="Whether the Batch API answered each exporter and accepted its credentials.",
                unit="none",
                no_value="unknown",
            ),
            "{{instance}}",
            f"min by (instance) ({exporter_gauge('up')})",
            {0: ("down", RED), 1: ("up", GREEN)},
        ),
        graph_panel(
            About(
                number=58,
                title="Requests by code",
                description="Requests to the Batch API. The code is the HTTP status, or error if no complete answer "
                "arrived.",
                unit="reqps",
                no_value="no request was made",
            ),
            {"{{code}}": f"sum by (code) (rate({requests}[$__rate_interval]))"},
            stacked=True,
        ),
        graph_panel(
            About(
                number=59,
                title="Duration of requests",
                description="Time from sending a request to the last byte of its answer: 50, 90 and 99 % of the "
                "requests were faster.",
                unit="s",
                no_value="no request was made",
            ),
            {
                "50 %": f"histogram_quantile(0.5, {rate_of_buckets})",
                "90 %": f"histogram_quantile(0.9, {rate_of_buckets})",
                "99 %": f"histogram_quantile(0.99, {rate_of_buckets})",
            },
        ),
        graph_panel(
            About(
                number=60,
                title="Duration of polls",
                description="Time that the poll of a scrape took. It ends half a second before the scrape timeout, "
                "which is 10 s by default.",
                unit="s",
                no_value="no exporter",
            ),
            {"{{instance}}": f"max by (instance) ({exporter_gauge('exporter_poll_duration_seconds')})"},
        ),
        graph_panel(
            About(
                number=61,
                title="Failing polls by reason",
                description="Batches that could not be read, and whether the list could not, by reason. "
                "docs/metrics.md explains the reasons.",
                unit="none",
                no_value="no poll failed",
            ),
            {
                "{{reason}}": f"count by (reason) ({batch('poll_failure', by='ref, reason')})",
                "list: {{reason}}": f"max by (reason) ({exporter_gauge('discovery_failure')})",
            },
            stacked=True,
        ),
        graph_panel(
            About(
                number=62,
                title="Watched batches by source",
                description="How many batches are watched, by where they are listed. Nothing watched is the alert "
                "NothingWatched.",
                unit="none",
                no_value="no exporter",
                width=24,
            ),
            {"{{source}}": f"max by (source) ({exporter_gauge('watched_batches')})"},
            stacked=True,
        ),
    ]


QUESTIONS: Final = (
    (100, "Is anything broken now?", is_anything_broken_now),
    (101, "Which batches, and what happened to them?", which_batches),
    (102, "Are the feeds fresh?", are_the_feeds_fresh),
    (103, "How did batches move through their states?", how_batches_moved),
    (104, "How much goes in, and how fast?", how_much_goes_in),
    (105, "Is the exporter itself well?", is_the_exporter_well),
)


def variables() -> Sequence[VariableModel]:
    """Return what the user can choose. Those of one exporter come first, because the others depend on them."""
    everything = VariableOption(text=["All"], value=["$__all"])
    of_exporters = '{__name__=~"sitecore_cdp_(exporter_build_info|batch_poll_success)"'
    of_feeds = '{__name__=~"sitecore_cdp_(feed_max_failed_ratio|batch_poll_success)"'
    return [
        # The default data source of a Grafana that has one for Prometheus; otherwise the first one there.
        DatasourceVariable("datasource")
        .label("Data source")
        .type("prometheus")
        .current(VariableOption(text="default", value="default"))
        .build(),
        # Without an `all_value`, all means the jobs that are jobs of the exporter.
        _query_variable("job", "Job", f"label_values({of_exporters}}}, job)").current(everything).build(),
        _query_variable("instance", "Instance", f'label_values({of_exporters}, job=~"$job"}}, instance)')
        .current(everything)
        .all_value(".*")
        .build(),
        # All includes the batches that have no feed.
        _query_variable("feed", "Feed", f"label_values({of_feeds}, {EXPORTER}}}, feed)")
        .current(everything)
        .all_value(".*")
        .build(),
        CustomVariable("status")
        .label("Status")
        .values(",".join(status.value for status in BatchStatus))
        .options([VariableOption(text=status.value, value=status.value) for status in BatchStatus])
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .current(everything)
        .build(),
        TextBoxVariable("ref")
        .label("Ref begins with")
        .default_value("")
        .current(VariableOption(text="", value=""))
        .build(),
    ]


def _query_variable(name: str, label: str, query: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .label(label)
        .datasource(DATA_SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
    )


def _small(about: About, *, width: int = 3) -> About:
    return replace(about, width=width, height=4)


def _broken(about: About, expression: str, *, color: str = RED) -> Builder[Panel]:
    """Make a panel that is green at 0 and grey where nothing is known."""
    return stat_panel(_small(about), expression, thresholds=steps((0, GREEN), (1, color), below=GREY))


def _in_words(meanings: Mapping[int, tuple[str, str]] | Mapping[str, tuple[str, str]]) -> Mapping[str, object]:
    return {
        "unit": "none",
        "mappings": [value_map(meanings)],
        # Otherwise a cell without a value is green.
        "thresholds": steps(below=NO_COLOR).build(),
        "custom.cellOptions": {"type": "color-background", "mode": "basic"},
    }


def dashboard() -> DashboardModel:
    """Build the dashboard."""
    builder = (
        Dashboard("Sitecore CDP batches")
        .uid(UID)
        .description("The outcome of the batch files uploaded to Sitecore CDP.")
        .tags(["sitecore-cdp"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-24h", "now")
        .timezone("browser")
        .refresh("1m")
    )
    builder.link(
        DashboardLink("Runbook").type(DashboardLinkType.LINK).url(RUNBOOK).icon("doc").target_blank(target_blank=True)
    )
    for number, question, panels in QUESTIONS:
        builder.with_row(Row(question).id(number))
        for panel in panels():
            builder.with_panel(panel)
    model = builder.annotations([]).build()
    model.schema_version = SCHEMA_VERSION
    model.templating.list_val = list(variables())
    for variable in model.templating.list_val:
        # Grafana 10 keeps variables by id. The one that the models give to all would leave only the last of them.
        variable.id_val = variable.name
    for built in model.panels or []:
        if isinstance(built, Panel):
            # Otherwise Grafana takes a panel for one of before 7 and migrates it.
            built.plugin_version = SCHEMA_OF
    return model


def main() -> None:
    """Write the JSON to standard output."""
    sys.stdout.write(json.dumps(dashboard(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
