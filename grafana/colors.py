"""One colour for each name, wherever it appears: in tiles, tables, timelines and graphs.

Grafana's own palettes go by the order of series, so that `success` would be red today and green tomorrow.
"""

from collections.abc import Mapping
from typing import Final

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.api.error_log import RecordCause
from sitecore_cdp_exporter.api.errors import Reason
from sitecore_cdp_exporter.metrics.definitions import STATUS_CODES

# White text can be read on all of them, in the dark theme and in the light one.
GREEN, ORANGE, RED, BLUE = "dark-green", "dark-orange", "semi-dark-red", "dark-blue"
GREY, NO_COLOR = "#6e6e6e", "transparent"

# Numbers or labels in words, each with its colour.
Meanings = Mapping[int, tuple[str, str]] | Mapping[str, tuple[str, str]]

# Above all status codes, so that what could not be read comes first when the worst does.
NOT_READ: Final = max(STATUS_CODES.values()) + 1

STATUS_COLORS: Final[Mapping[str, str]] = {
    BatchStatus.UPLOADING: "#5b7fd6",
    BatchStatus.FILE_UPLOADED: "#1b8a9a",
    BatchStatus.PROCESSING: BLUE,
    BatchStatus.SUCCESS: GREEN,
    BatchStatus.CORRUPTED: "dark-red",
    BatchStatus.ERROR: RED,
    BatchStatus.UNKNOWN: "dark-purple",
    "not read": ORANGE,
}
OUTCOME_COLORS: Final[Mapping[str, str]] = {
    "not accepted": RED,
    "accepted": GREEN,
    "superseded": GREY,
    "too few": RED,
}
SEVERITY_COLORS: Final[Mapping[str, str]] = {"critical": RED, "warning": ORANGE, "info": GREY}
SOURCE_COLORS: Final[Mapping[str, str]] = {"config": BLUE, "file": "dark-purple", "discovery": "semi-dark-green"}
# Green is for what is well. The colour between dark and light has no word before it.
_SHADES: Final = ("dark-", "semi-dark-", "", "light-", "super-light-")
_HUES: Final = ("red", "orange", "yellow", "purple", "blue")
# A few words are both, and have one colour.
_CAUSES_AND_REASONS: Final = dict(
    zip(
        dict.fromkeys([*RecordCause, *Reason]),
        [f"{shade}{hue}" for shade in _SHADES for hue in _HUES],
        strict=False,
    )
)
CAUSE_COLORS: Final[Mapping[str, str]] = {cause: _CAUSES_AND_REASONS[cause] for cause in RecordCause}
# Of a batch, and of the list.
REASON_COLORS: Final[Mapping[str, str]] = {
    f"{whose}{reason}": _CAUSES_AND_REASONS[reason] for whose in ("", "list: ") for reason in Reason
}
CODE_COLORS: Final[Mapping[str, str]] = {
    "200": GREEN,
    "401": "light-red",
    "403": "dark-red",
    "404": "dark-purple",
    "429": "dark-yellow",
    "500": ORANGE,
    "502": "light-orange",
    "503": "super-light-orange",
    "504": "dark-blue",
    "error": RED,
}

STATUSES: Final = {code: (status.value, STATUS_COLORS[status]) for status, code in STATUS_CODES.items()} | {
    NOT_READ: ("not read", STATUS_COLORS["not read"])
}
OUTCOMES: Final = dict(enumerate(OUTCOME_COLORS.items()))
SEVERITIES: Final = {severity: (severity, color) for severity, color in SEVERITY_COLORS.items()}
FRESHNESS: Final = {
    0: ("fresh", GREEN),
    1: ("late", ORANGE),
    2: ("?", GREY),
    3: ("stale", RED),
    **dict.fromkeys(range(4, 8), ("never", "dark-purple")),
}
UP: Final = {0: ("down", RED), 1: ("up", GREEN)}
WELL: Final = {0: ("failing", RED), 1: ("ok", GREEN)}
