"""The first screen of the dashboard of all batches: is anything broken, which, and why."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from grafana import expressions, links
from grafana.colors import BLUE, FRESHNESS, GREEN, GREY, ORANGE, OUTCOMES, RED, SEVERITIES, STATUSES, UP
from grafana.expressions import SHOWN, batch, count
from grafana.panels import About, Steps, Tile, tiles_panel
from grafana.tables import Column, table_panel
from sitecore_cdp_exporter.api.batch import BatchStatus

RULES: Final = Path(__file__).parents[1] / "prometheus" / "alerts.yml"
# Numbers of panels that tiles lead to.
BATCHES, FEEDS, EXPORTERS, API = 10, 20, 56, 57

CRITICAL: Final[Steps] = ((0, GREEN), (1, RED))
WARNING: Final[Steps] = ((0, GREEN), (1, ORANGE))
FAILED_SHARE: Final[Steps] = ((0, GREEN), (1e-9, ORANGE), (expressions.FAILED_SHARE, RED))
# One status that no batch has: what could not be read is shown for any choice.
ONLY_UNREAD: Final = "not_read"
_FAILED: Final = (BatchStatus.ERROR,)
_UNFINISHED: Final = (BatchStatus.UPLOADING, BatchStatus.FILE_UPLOADED, BatchStatus.PROCESSING)


def first_screen() -> Sequence[Builder[Panel]]:
    """Return what has to be seen in five seconds."""
    return [_what_is_broken(), _which_and_why(), alerts_that_fire(9, expressions.OF_CHOSEN), _feeds()]


def _what_is_broken() -> Builder[Panel]:
    def batches(*status: str) -> str:
        return links.here(status=status, panel=BATCHES)

    return tiles_panel(
        About(
            number=12,
            title="",
            description="What the alerts are about, now, for the chosen jobs and feeds; click a tile for what it "
            "counts. Green: all is well, and everything watched was answered for in the past three minutes. Grey: "
            "nobody knows. Failures count for seven days, unless they are superseded. Failed: 5 % of the records or "
            "more, or nothing was loaded. In part: less than 5 %, or fewer than 20 records. Expired: no file came. Too "
            "few: accepted, with fewer records than the feed's min_records. Stuck: waiting or processing, unchanged "
            "for two hours.",
            width=24,
            height=4,
        ),
        [
            Tile(
                name="Failing scrapes",
                expression=expressions.FAILING_SCRAPES,
                steps=CRITICAL,
                link=links.here(panel=EXPORTERS),
            ),
            Tile(
                name="Batch API ${__field.labels.reason}",
                expression=expressions.API_UP,
                steps=((0, RED), (1, GREEN)),
                words=UP,
                link=links.here(panel=API),
            ),
            Tile(name="Failed", expression=count(expressions.FAILED), steps=CRITICAL, link=batches(*_FAILED)),
            Tile(
                name="Corrupted",
                expression=count(expressions.CORRUPTED),
                steps=CRITICAL,
                link=batches(BatchStatus.CORRUPTED),
            ),
            Tile(
                name="Upload expired",
                expression=count(expressions.EXPIRED),
                steps=CRITICAL,
                link=batches(BatchStatus.UPLOADING),
            ),
            Tile(
                name="Too few records",
                expression=count(expressions.TOO_FEW),
                steps=CRITICAL,
                link=batches(BatchStatus.SUCCESS, BatchStatus.ERROR),
            ),
            Tile(
                name="Overdue feeds",
                expression=count(expressions.OVERDUE),
                steps=CRITICAL,
                link=links.here(panel=FEEDS),
            ),
            Tile(
                name="Failed in part",
                expression=count(expressions.PARTLY_FAILED),
                steps=WARNING,
                link=batches(*_FAILED),
            ),
            Tile(name="Stuck", expression=count(expressions.STUCK), steps=WARNING, link=batches(*_UNFINISHED[1:])),
            Tile(name="Not read", expression=count(expressions.UNREAD), steps=WARNING, link=batches(ONLY_UNREAD)),
            Tile(
                name="Under way",
                expression=count(expressions.UNDER_WAY),
                steps=((0, BLUE),),
                link=batches(*_UNFINISHED),
            ),
        ],
    )


THIS_FEED: Final = links.here(feed="var-feed=${__value.raw}")


def ref_column(*, grows: bool = False) -> Column:
    """Show the end of a ref, by which the batches of a feed differ; click it for the batch."""
    link = links.one_batch("${__value.raw}")
    return Column(
        source="ref", title="Ref", width=80, grows=grows, shorten=".*(.{8})", link=link, link_title="This batch"
    )


def feed_column(*, width: int, link: str = THIS_FEED) -> Column:
    """Show the feed; click it for the feed alone, whatever its batches' status."""
    return Column(source="feed", title="Feed", width=width, grows=True, link=link, link_title="This feed")


def why_column(title: str = "Why", *, grows: bool = False) -> Column:
    """Show why a batch failed or was not read; click it for what to do about it."""
    link = links.RUNBOOK + "${__value.raw}"
    return Column(
        source="why", title=title, width=218, grows=grows, shorten=".(\\w+).*", link=link, link_title="What to do"
    )


def _which_and_why() -> Builder[Panel]:
    return table_panel(
        About(
            number=BATCHES,
            title=f"Batches: the worst, and the {expressions.NEWEST_ROWS} newest",
            description="The worst first: not read, failed, under way, finished; within each, the newest first. Why: "
            "what most of its records were rejected for, or why the batch failed or could not be read; click it for "
            "the runbook. Click a ref for its batch, a feed for its feed. Choose a status for the newest of that "
            "status. What could not be read is always shown.",
            width=24,
            height=9,
        ),
        "ref",
        {
            "rank": expressions.CONCERN,
            "status": expressions.STATUS,
            "why": expressions.why(SHOWN),
            "outcome": expressions.outcome(SHOWN),
            "records": batch("total_records", SHOWN),
            "share": expressions.failed_share(SHOWN),
            "time": batch("time_to_process_seconds", SHOWN),
            "age": f"time() - {batch('created_timestamp_seconds', SHOWN)}",
        },
        [
            feed_column(width=90),
            ref_column(),
            Column(source="Value #status", title="Status", width=100, words=STATUSES),
            Column(source="Value #outcome", title="Outcome", width=98, words=OUTCOMES),
            why_column(),
            Column(source="Value #records", title="Records", width=86, unit="locale"),
            Column(source="Value #share", title="Failed", width=62, unit="percentunit", decimals=1, steps=FAILED_SHARE),
            Column(source="Value #time", title="Took", width=76, unit="dthms"),
            Column(source="Value #age", title="Age", width=90, unit="s", decimals=1),
        ],
        sort_by=[("Value #age", False), ("Value #rank", True)],
        required="Value #status",
    )


def alerts_that_fire(
    number: int, where: str, *, width: int = 13, height: int = 8, feed_link: str = THIS_FEED
) -> Builder[Panel]:
    """List alerts with the severest first, whatever page a pager would show."""
    return table_panel(
        About(
            number=number,
            title="Alerts that fire",
            description="The severest first, then the newest, at most 50 of each severity, silenced or not. Click an "
            "alert for its section of the runbook. Needs the rules of prometheus/alerts.yml in the same Prometheus.",
            unit="s",
            no_value="no alert fires, or the rules of prometheus/alerts.yml are not loaded",
            width=width,
            height=height,
        ),
        None,
        {"age": expressions.firing(where)},
        [
            Column(source="severity", title="Severity", width=68, words=SEVERITIES),
            Column(
                source="alertname",
                title="Alert",
                width=164,
                shorten="SitecoreCdp(.*)",
                link=links.runbook("${__data.fields.Section}"),
                link_title="What to do",
            ),
            feed_column(width=81, link=feed_link),
            ref_column(),
            Column(source="Value", title="Since", width=86, unit="s", decimals=1),
            # Headings have lower-case anchors, which a link cannot make of a name: that is what this is for.
            Column(source="section", title="Section", width=50, words=_sections(), hidden=True),
        ],
        sort_by=[("order", False)],
    )


def _sections() -> dict[str, tuple[str, str]]:
    names = re.findall(r"(?m)^ *- alert: (\w+)$", RULES.read_text(encoding="utf-8"))
    return {name: (name.lower(), GREY) for name in dict.fromkeys(names)}


def _feeds() -> Builder[Panel]:
    return table_panel(
        About(
            number=FEEDS,
            title="Feeds",
            description="When a batch of the feed was last accepted, and when the next one is due, grace included. "
            "Late: due, but within its grace. Stale: nothing was accepted by then. ?: it became due while not "
            "everything watched could be read. Never: nothing was ever accepted. A feed of which nothing is expected "
            "has no state.",
            unit="s",
            width=11,
            height=8,
        ),
        "feed",
        {"state": expressions.FRESHNESS, "accepted": expressions.ACCEPTED_AGO, "due": expressions.DUE},
        [
            feed_column(width=115),
            Column(source="Value #state", title="State", width=60, words=FRESHNESS),
            Column(source="Value #accepted", title="Accepted", width=86, unit="s", decimals=1),
            Column(source="Value #due", title="Due", width=140, unit="dateTimeFromNow"),
        ],
        sort_by=[("feed", False), ("Value #state", True)],
    )
