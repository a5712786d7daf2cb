"""The dashboard of all batches below its first screen: what happened over time, and the exporter itself."""

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import GraphDrawStyle
from grafana_foundation_sdk.models.dashboard import Panel

from grafana import expressions, links
from grafana.colors import (
    CAUSE_COLORS,
    CODE_COLORS,
    FRESHNESS,
    GREEN,
    GREY,
    ORANGE,
    REASON_COLORS,
    RED,
    SOURCE_COLORS,
    STATUS_COLORS,
    STATUSES,
    UP,
    WELL,
)
from grafana.expressions import UNKNOWN, batch, exporter, feed, tile, with_feed_name
from grafana.first_screen import API, EXPORTERS, WARNING, feed_column
from grafana.panels import About, Tile, graph_panel, tiles_panel, timeline_panel
from grafana.tables import Column, table_panel

# The graphs where a failed batch is marked.
MARKED: Final = (40, 42, 45)
# Of discovery: there is an exporter, and nothing of a list.
_OFF: Final = {UNKNOWN: ("off", GREY)}


def feeds() -> Sequence[Builder[Panel]]:
    """Show when feeds were late, and how they did."""
    return [
        timeline_panel(
            About(
                number=22,
                title="Feeds: fresh, late, stale",
                description="Whether something was accepted in time. Late: within the grace. Stale: after it. ?: it "
                "became due while not everything watched could be read. Where a row has no colour nothing was scraped.",
                width=10,
            ),
            "{{feed}}",
            expressions.FRESHNESS,
            FRESHNESS,
        ),
        table_panel(
            About(
                number=23,
                title="How the feeds did",
                description="Finished batches of the past 7 days, and the share of them that was accepted; the share "
                "of 30 days, which needs the recorded series of prometheus/alerts.yml; the median of the time to "
                "process of the watched batches; and the time and the records of the newest finished batch.",
                unit="short",
                width=14,
            ),
            "feed",
            {
                "finished": with_feed_name(expressions.FINISHED_7D),
                "week": with_feed_name(expressions.SHARE_7D),
                "month": with_feed_name(expressions.SHARE_30D),
                "median": with_feed_name(expressions.MEDIAN_TIME),
                "time": with_feed_name(feed("last_finished_time_to_process_seconds")),
                "records": with_feed_name(feed("last_finished_total_records")),
            },
            [
                feed_column(width=95),
                Column(source="Value #finished", title="7 d", width=50, unit="locale"),
                Column(source="Value #week", title="Accepted", width=75, unit="percentunit", decimals=0),
                Column(source="Value #month", title="30 d", width=50, unit="percentunit", decimals=0),
                Column(source="Value #median", title="Median", width=80, unit="dthms"),
                Column(source="Value #time", title="Last", width=80, unit="dthms"),
                Column(source="Value #records", title="Records", width=86, unit="locale"),
            ],
            sort_by=[("feed", False)],
        ),
    ]


def batches() -> Sequence[Builder[Panel]]:
    """Show what finished, what was rejected, how much went in and how long it took."""
    finished = "Each bar has the batches that finished in its interval, as the exporter counted them."
    return [
        graph_panel(
            About(number=33, title="Finished batches by status", description=finished, height=7),
            {"{{status}}": expressions.FINISHED_BY_STATUS},
            colors=STATUS_COLORS,
            style=GraphDrawStyle.BARS,
            stacked=True,
            total=True,
        ),
        graph_panel(
            About(
                number=44,
                title="Rejected records by cause",
                description=f"Counted in the error logs; the runbook says what each cause means. {finished}",
                unit="short",
                no_value="no record was rejected",
                height=7,
            ),
            {"{{cause}}": expressions.REJECTED_BY_CAUSE},
            colors=CAUSE_COLORS,
            style=GraphDrawStyle.BARS,
            stacked=True,
            total=True,
        ),
        graph_panel(
            About(number=40, title="Records by feed", description=finished, unit="short", height=7),
            {"{{feed}}": expressions.RECORDS},
            by_name=False,
            style=GraphDrawStyle.BARS,
            stacked=True,
            total=True,
        ),
        graph_panel(
            About(
                number=42,
                title="Time to process",
                description="How long Sitecore CDP took: a point for each interval in which a batch finished, for the "
                "newest of the feed.",
                unit="dthms",
                height=7,
            ),
            {"{{feed}}": expressions.TIME_TO_PROCESS},
            by_name=False,
            style=GraphDrawStyle.POINTS,
        ),
        graph_panel(
            About(
                number=45,
                title="Time to process, by the feed's own median",
                description="The time of the feed's newest finished batch, divided by the median of its watched "
                "batches: 1 is as usual, 3 is three times as long.",
                height=7,
            ),
            {"{{feed}}": expressions.TIME_BY_MEDIAN},
            by_name=False,
        ),
        graph_panel(
            About(
                number=31,
                title="Watched batches by status",
                description="How many of the watched batches were in each status, and how many could not be read.",
                height=7,
            ),
            {"{{status}}": expressions.COUNT_BY_STATUS, "not read": f"count({expressions.UNREAD})"},
            colors=STATUS_COLORS,
            stacked=True,
        ),
        timeline_panel(
            About(
                number=30,
                title=f"States of the {expressions.NEWEST_ROWS} newest batches",
                description="The newest first, by feed and the end of the ref; click one for its batch. Where a row "
                "has no colour the batch was not watched, or nothing was scraped.",
                width=24,
                height=14,
            ),
            "{{feed}} {{short}}",
            expressions.NEWEST_OVER_TIME,
            STATUSES,
            url=links.one_batch("${__field.labels.ref}"),
        ),
    ]


def itself() -> Sequence[Builder[Panel]]:
    """Show the exporter, its requests and what it watches."""
    return [
        tiles_panel(
            About(
                number=63,
                title="",
                description="Discovery: whether the list of batches was read. Dropped: discovered, and not watched "
                "because of discovery.max_batches. Reload: whether the last "
                "attempts to load the config and the web config succeeded. Bad files: batch files that cannot be used, "
                "in whole or in part. API silent for: since a batch or the list was read; a quiet exporter asks every "
                "five minutes. Details: finished batches still to be read.",
                width=24,
                height=4,
            ),
            [
                Tile(
                    name="Discovery",
                    expression=tile(f"min(sitecore_cdp_discovery_success{{{expressions.JOB}}})"),
                    steps=((0, RED), (1, GREEN)),
                    words={**WELL, **_OFF},
                ),
                Tile(
                    name="Dropped",
                    expression=tile(exporter("discovery_dropped_batches")),
                    steps=WARNING,
                    words=_OFF,
                ),
                Tile(
                    name="Reload",
                    expression=tile(f"min({expressions.CONFIG_RELOADS})"),
                    steps=((0, RED), (1, GREEN)),
                    words=WELL,
                ),
                Tile(
                    name="Bad files",
                    expression=tile(f"sum({exporter('exporter_batch_file_error', by='file')})"),
                    steps=WARNING,
                    words={UNKNOWN: ("none", GREY)},
                ),
                Tile(
                    name="API silent for",
                    expression=tile(f"time() - {exporter('api_last_success_timestamp_seconds')}"),
                    steps=((0, GREEN), (900, ORANGE), (3600, RED)),
                    unit="s",
                ),
                Tile(name="Details", expression=tile(exporter("unread_batches")), steps=((0, GREEN),)),
            ],
        ),
        _exporters(),
        timeline_panel(
            About(
                number=API,
                title="Batch API over time",
                description="Whether the Batch API answered each exporter and accepted its credentials.",
            ),
            "{{instance}}",
            exporter("up", by="instance"),
            UP,
        ),
        graph_panel(
            About(
                number=58,
                title="Requests by code",
                description="Requests to the Batch API. The code is the HTTP status, or error if no complete answer "
                "arrived.",
                unit="reqps",
            ),
            {"{{code}}": expressions.REQUESTS},
            colors=CODE_COLORS,
            stacked=True,
        ),
        graph_panel(
            About(
                number=59,
                title="Duration of requests",
                description="Time from sending a request to the last byte of its answer: 50, 90 and 99 % of the "
                "requests were faster.",
                unit="s",
            ),
            {f"{share:.0%}": expressions.request_duration(share) for share in (0.5, 0.9, 0.99)},
            colors={"50%": GREEN, "90%": ORANGE, "99%": RED},
        ),
        graph_panel(
            About(
                number=60,
                title="Duration of polls",
                description="Time that the poll of a scrape took. It ends half a second before the scrape timeout, "
                "which is 10 s by default.",
                unit="s",
            ),
            {"{{instance}}": exporter("exporter_poll_duration_seconds", by="instance")},
        ),
        graph_panel(
            About(
                number=61,
                title="Failing polls by reason",
                description="Batches that could not be read, and whether the list could not, by reason. "
                "docs/metrics.md explains the reasons.",
                no_value="no poll failed",
            ),
            {
                "{{reason}}": f"count by (reason) ({batch('poll_failure', by='ref, reason')})",
                "list: {{reason}}": exporter("discovery_failure", by="reason"),
            },
            colors=REASON_COLORS,
            stacked=True,
        ),
        graph_panel(
            About(
                number=62,
                title="Watched batches by source",
                description="How many batches are watched, by where they are listed.",
            ),
            {"{{source}}": exporter("watched_batches", by="source")},
            colors=SOURCE_COLORS,
            stacked=True,
        ),
        graph_panel(
            About(
                number=32,
                title="All batches of the past 30 days by status",
                description="What the list of the Batch API counts, watched or not. Needs discovery.",
                no_value="discovery is off",
            ),
            {"{{status}}": exporter("batches", by="status")},
            colors=STATUS_COLORS,
            stacked=True,
        ),
    ]


def _exporters() -> Builder[Panel]:
    return table_panel(
        About(
            number=EXPORTERS,
            title="Exporters",
            description="Each exporter, the share of its scrapes that succeed now, its version, how many batches it "
            "watches, how many are past their retention, and its memory and age.",
            unit="short",
            width=24,
            height=5,
        ),
        "instance",
        {
            "up": f"avg by (instance) (up{{{expressions.JOB}}})",
            "version": exporter("exporter_build_info", by="instance, version"),
            "watched": f"sum by (instance) (sitecore_cdp_watched_batches{{{expressions.JOB}}})",
            "retired": exporter("retired_batches", by="instance"),
            "memory": expressions.of_program("process_resident_memory_bytes"),
            "age": f"time() - {expressions.of_program('process_start_time_seconds')}",
        },
        [
            Column(source="instance", title="Instance", width=140, grows=True),
            Column(
                source="Value #up",
                title="Scraped",
                width=75,
                unit="percentunit",
                steps=((0, RED), (1, GREEN)),
            ),
            Column(source="version", title="Version", width=166),
            Column(source="Value #watched", title="Watched", width=75),
            Column(source="Value #retired", title="Retired", width=70),
            Column(source="Value #memory", title="Memory", width=80, unit="bytes", decimals=0),
            Column(source="Value #age", title="Running", width=90, unit="s", decimals=1),
        ],
        sort_by=[("instance", False)],
    )
