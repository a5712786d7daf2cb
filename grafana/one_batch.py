"""The dashboard of one batch: what became of it, why, and what else its feed uploaded."""

from collections.abc import Sequence
from typing import Final

from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import Panel

from grafana import expressions, links
from grafana.colors import BLUE, GREEN, GREY, ORANGE, OUTCOMES, RED, STATUSES, Meanings
from grafana.expressions import NO_DATA, OF_ITS_FEED, THIS, batch
from grafana.first_screen import FAILED_SHARE, alerts_that_fire, feed_column, ref_column, why_column
from grafana.panels import About, Steps, Tile, tiles_panel, timeline_panel
from grafana.tables import Column, table_panel

_PLAIN: Final[Steps] = ((0, BLUE),)
_THIS_FEED: Final = links.one_feed("${__value.raw}")


def panels() -> Sequence[Builder[Panel]]:
    """Return everything about one batch."""
    return [
        _what_became_of_it(),
        _causes(2, "Why it failed", "Why the batch failed, or could not be read", expressions.WHY_IT_FAILED, []),
        _causes(
            3,
            "Why records were rejected",
            "Rejected records by cause, counted in the error log",
            expressions.WHY_RECORDS,
            [Column(source="Value", title="Records", width=110, unit="locale")],
        ),
        alerts_that_fire(4, THIS, width=24, height=5, feed_link=_THIS_FEED),
        timeline_panel(
            About(
                number=5,
                title="States",
                description="The status of the batch in the chosen time. Not read: a scrape could not read it. No "
                "data: the batch was not watched, or nothing was scraped.",
                width=24,
                height=5,
            ),
            "status",
            # Without a single value Grafana would say that the data has no time field.
            f"max({expressions.status_over_time(THIS)}) or vector({NO_DATA})",
            {**STATUSES, NO_DATA: ("no data", GREY)},
        ),
        _times(),
        _others(),
    ]


def _what_became_of_it() -> Builder[Panel]:
    def of_batch(
        name: str, expression: str, steps: Steps = _PLAIN, *, words: Meanings | None = None, unit: str = "none"
    ) -> Tile:
        return Tile(
            name=name, expression=f"max({expression}) or vector({NO_DATA})", steps=steps, words=words, unit=unit
        )

    duration = batch("time_to_process_seconds", THIS)
    return tiles_panel(
        About(
            number=1,
            title="",
            description="The status of the batch; whether it counts as loaded; its records; how long Sitecore CDP "
            "took, and how many times the median of the watched batches of its feed that is; when it last changed.",
            width=24,
            height=4,
        ),
        [
            of_batch("Status", expressions.status_over_time(THIS), words=STATUSES),
            of_batch("Outcome", expressions.outcome(THIS), words=OUTCOMES),
            of_batch("Records", batch("total_records", THIS), unit="locale"),
            of_batch("Failed", batch("failed_records", THIS), ((0, GREEN), (1, ORANGE)), unit="locale"),
            of_batch("Failed share", expressions.failed_share(THIS), FAILED_SHARE, unit="percentunit"),
            of_batch("Took", duration, unit="dthms"),
            of_batch(
                "Times the median",
                f"{duration} / on () group_left () ({expressions.MEDIAN_OF_ITS_FEED} > 0)",
                ((0, GREEN), (3, ORANGE), (10, RED)),
            ),
            of_batch("Changed, ago", f"time() - {batch('modified_timestamp_seconds', THIS)}", unit="s"),
        ],
        # There are words among them.
        size=18,
    )


def _causes(number: int, title: str, description: str, expression: str, more: Sequence[Column]) -> Builder[Panel]:
    return table_panel(
        About(
            number=number,
            title=title,
            description=f"{description}; click a cause for what to do.",
            unit="locale",
            no_value="nothing is known of a cause",
            height=5,
        ),
        None,
        {"causes": expression},
        [
            why_column("Cause", grows=True),
            *more,
        ],
        sort_by=[("Value", True)],
    )


def _times() -> Builder[Panel]:
    times = ("created", "modified", "upload_expiry", "polled")
    return table_panel(
        About(
            number=6,
            title="Times and file",
            description="When the API says that the batch was allocated and last changed, when its upload URL "
            "expires, and when its values were read; how large the file is, and whether there is an error log.",
            width=24,
            height=4,
        ),
        "ref",
        {
            time: f"1000 * {batch(f'{time}_timestamp_seconds', THIS, by='feed, ref' if time == 'created' else 'ref')}"
            for time in times
        }
        | {"size": batch("size_bytes", THIS), "log": batch("error_log_available", THIS)},
        [
            feed_column(width=100, link=_THIS_FEED),
            *(
                Column(source=f"Value #{time}", title=title, width=150, unit="dateTimeAsIso")
                for time, title in zip(times, ("Allocated", "Changed", "URL expires", "Read"), strict=True)
            ),
            Column(source="Value #size", title="Size", width=75, unit="bytes"),
            Column(source="Value #log", title="Error log", width=75, words={0: ("none", GREY), 1: ("yes", ORANGE)}),
        ],
    )


def _others() -> Builder[Panel]:
    newest = expressions.NEWEST_OF_ITS_FEED

    def of_newest(expression: str) -> str:
        return f"{expression} and on (ref) ({newest})"

    return table_panel(
        About(
            number=7,
            title=f"The {expressions.OTHERS} newest batches of its feed",
            description="Or of none, if the batch has no feed. Click a ref for its batch.",
            width=24,
            height=10,
        ),
        "ref",
        {
            "age": f"time() - ({newest})",
            "status": of_newest(batch("status_code", OF_ITS_FEED)),
            "outcome": of_newest(f"({expressions.outcome(OF_ITS_FEED)})"),
            "records": of_newest(batch("total_records", OF_ITS_FEED)),
            "share": of_newest(f"({expressions.failed_share(OF_ITS_FEED)})"),
            "time": of_newest(batch("time_to_process_seconds", OF_ITS_FEED)),
        },
        [
            ref_column(grows=True),
            Column(source="Value #status", title="Status", width=110, words=STATUSES),
            Column(source="Value #outcome", title="Outcome", width=110, words=OUTCOMES),
            Column(source="Value #records", title="Records", width=90, unit="locale"),
            Column(source="Value #share", title="Share", width=80, unit="percentunit", decimals=1, steps=FAILED_SHARE),
            Column(source="Value #time", title="Took", width=90, unit="dthms"),
            Column(source="Value #age", title="Age", width=90, unit="s", decimals=1),
        ],
        sort_by=[("Value #age", False)],
    )
