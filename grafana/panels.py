"""The kinds of panels, and how each looks everywhere."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import common, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphDrawStyle,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DynamicConfigValue,
    FieldColorModeId,
    MatcherConfig,
    Panel,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import QueryEditorMode

from grafana.colors import GREY, Meanings
from grafana.expressions import NO_DATA, UNKNOWN

DATA_SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
# Enough for what can be seen, and a fraction of the work and of the bytes where there are 500 batches.
MAX_POINTS: Final = 200
MAX_BARS: Final = 100
_UNKNOWN: Final[Meanings] = {UNKNOWN: ("?", GREY), NO_DATA: ("no data", GREY)}
# Colour a number from its limit on.
Steps = Sequence[tuple[float, str]]

AnyPanel = TypeVar("AnyPanel", stat.Panel, table.Panel, timeseries.Panel, statetimeline.Panel)


@dataclass(frozen=True, kw_only=True)
class About:
    """What every panel says of itself.

    `number` is its id in links and must never change. `no_value` stands in place of data where there is none. `width`
    is of 24, and `height` in rows of 30 pixels.
    """

    number: int
    title: str
    description: str
    unit: str = "none"
    no_value: str = "no data"
    width: int = 12
    height: int = 8


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One number or word of this moment, from an expression that always has a value, and the URL of what it counts.

    Below 0, where nothing is known, it is grey.
    """

    name: str
    expression: str
    steps: Steps
    words: Meanings | None = None
    unit: str = "none"
    link: str = ""


def steps(limits: Steps, below: str) -> ThresholdsConfig:
    """Colour values from each limit on, and with `below` what is under all of them, and where there is no value."""
    first = Threshold(color=below)
    return (
        ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([first, *(Threshold(value=value, color=color) for value, color in limits)])
    )


def value_map(meanings: Meanings) -> ValueMap:
    """Show text and colour in place of numbers."""
    return ValueMap(
        options={
            str(value): ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(meanings.items())
        }
    )


def tiles_panel(about: About, tiles: Sequence[Tile], *, size: int = 26) -> Builder[Panel]:
    """Make one panel of coloured numbers, `size` pixels high, with their names inside.

    Titles of panels of their own would be cut.
    """
    panel = (
        introduced(stat.Panel(), about)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False))
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.BACKGROUND_SOLID)
        .text_mode(BigValueTextMode.VALUE_AND_NAME)
        .orientation(VizOrientation.VERTICAL)
        .text(common.VizTextDisplayOptions().title_size(11).value_size(size))
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .thresholds(steps([], GREY))
    )
    for name, tile in _named(tiles):
        panel.with_target(query(name, tile.expression).instant().legend_format(tile.name))
        properties = {
            "displayName": tile.name,
            "unit": tile.unit,
            "thresholds": steps(tile.steps, GREY).build(),
            "mappings": [value_map(tile.words or {}), value_map(_UNKNOWN)],
            "links": [link("What this counts", tile.link)] if tile.link else [],
        }
        panel.with_override(MatcherConfig(id_val="byFrameRefID", options=name), values(properties))
    return panel


def graph_panel(
    about: About,
    expressions: Mapping[str, str],
    *,
    colors: Mapping[str, str] | None = None,
    by_name: bool = True,
    style: GraphDrawStyle = GraphDrawStyle.LINE,
    stacked: bool = False,
    total: bool = False,
) -> Builder[Panel]:
    """Make a graph over time. The keys of `expressions` are the legends of their series, which `colors` gives colours.

    Bars are for what happened in each interval. Names without a colour have one by their letters, which stays, but may
    be that of another; or, unless `by_name`, by their place, for graphs that always have the same series.

    Raises:
        ValueError: There are more expressions than letters to name them by.

    """
    # A bar is of one series, and nobody needs a list of those that have none.
    tooltip = TooltipDisplayMode.SINGLE if style is GraphDrawStyle.BARS else TooltipDisplayMode.MULTI
    palette = FieldColorModeId.PALETTE_CLASSIC_BY_NAME if by_name else FieldColorModeId.PALETTE_CLASSIC
    legend = common.VizLegendOptions().show_legend(show_legend=True)
    if total:
        legend.display_mode(LegendDisplayMode.TABLE).placement(LegendPlacement.RIGHT).calcs(["sum"])
    else:
        legend.display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = (
        introduced(timeseries.Panel(), about)
        .legend(legend)
        .tooltip(common.VizTooltipOptions().mode(tooltip).sort(SortOrder.DESCENDING))
        .color_scheme(FieldColor().mode(palette))
        .min(0)
        .draw_style(style)
        .max_data_points(MAX_POINTS)
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A")).fill_opacity(30)
    if style is GraphDrawStyle.BARS:
        panel.fill_opacity(90).line_width(0).interval("1m").max_data_points(MAX_BARS)
    if style is GraphDrawStyle.POINTS:
        panel.show_points(VisibilityMode.ALWAYS).point_size(7).interval("1m")
    for name, (text, expression) in _named(list(expressions.items())):
        panel.with_target(query(name, expression).range().legend_format(text))
    for text, color in (colors or {}).items():
        panel.override_by_name(text, values({"color": {"mode": "fixed", "fixedColor": color}}))
    return panel


def timeline_panel(about: About, legend: str, expression: str, meanings: Meanings, *, url: str = "") -> Builder[Panel]:
    """Make a panel with a row for each series, in which colours change over time."""
    panel = (
        introduced(statetimeline.Panel(), about)
        .with_target(query("A", expression).range().legend_format(legend))
        .show_value(VisibilityMode.NEVER)
        .merge_values(merge_values=True)
        .row_height(0.8)
        .line_width(0)
        .fill_opacity(85)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.SINGLE).sort(SortOrder.NONE))
        # With the mode `thresholds`, Grafana ignores the mappings of values that it merges: all is grey. The same with
        # words for no value.
        .color_scheme(FieldColor().mode(FieldColorModeId.FIXED).fixed_color(GREY))
        .mappings([value_map(meanings)])
        .max_data_points(MAX_POINTS)
    )
    panel.build().field_config.defaults.no_value = None
    if url:
        panel.override_by_regexp("/.*/", values({"links": [link("This batch", url)]}))
    return panel


def introduced(panel: AnyPanel, about: About) -> AnyPanel:
    """Let a panel say what every panel says of itself."""
    return (
        panel.id(about.number)
        .title(about.title)
        .description(about.description)
        .datasource(DATA_SOURCE)
        .unit(about.unit)
        .no_value(about.no_value)
        .span(about.width)
        .height(about.height)
    )


AnyItem = TypeVar("AnyItem")


def _named(items: Sequence[AnyItem]) -> Iterator[tuple[str, AnyItem]]:
    return zip(ascii_uppercase[: len(items)], items, strict=True)


def values(properties: Mapping[str, object]) -> list[DynamicConfigValue]:
    """Return properties as overrides have them."""
    return [DynamicConfigValue(id_val=name, value=value) for name, value in properties.items()]


def link(title: str, url: str) -> Mapping[str, object]:
    """Return a link, which opens a window of its own outside Grafana."""
    return {"title": title, "url": url, "targetBlank": url.startswith("https:")}


def query(name: str, expression: str) -> prometheus.Dataquery:
    """Ask Prometheus that was chosen."""
    return (
        prometheus.Dataquery().ref_id(name).expr(expression).datasource(DATA_SOURCE).editor_mode(QueryEditorMode.CODE)
    )
