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
    DashboardRegexMapOptions,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    MatcherConfig,
    Panel,
    RegexMap,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMapping,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

from grafana.colors import GREY, NO_COLOR, Meanings
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


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: the field of the data that it shows, and how.

    `width` is in pixels; a column that may grow has it as its minimum. `words` replaces numbers, and colours the cell.
    `shorten` is a regular expression whose group is what is shown. `hidden` columns are there for links.
    """

    source: str
    title: str
    width: int
    grows: bool = False
    unit: str = ""
    decimals: int | None = None
    words: Meanings | None = None
    steps: Steps = ()
    shorten: str = ""
    link: str = ""
    link_title: str = ""
    hidden: bool = False


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
        _introduced(stat.Panel(), about)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False))
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.BACKGROUND_SOLID)
        .text_mode(BigValueTextMode.VALUE_AND_NAME)
        .orientation(VizOrientation.VERTICAL)
        .text(common.VizTextDisplayOptions().title_size(11.5).value_size(size))
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .thresholds(steps([], GREY))
    )
    for name, tile in _named(tiles):
        panel.with_target(_query(name, tile.expression).instant().legend_format(tile.name))
        properties = {
            "displayName": tile.name,
            "unit": tile.unit,
            "thresholds": steps(tile.steps, GREY).build(),
            "mappings": [value_map(tile.words or {}), value_map(_UNKNOWN)],
            "links": [_link("What this counts", tile.link)] if tile.link else [],
        }
        panel.with_override(MatcherConfig(id_val="byFrameRefID", options=name), _values(properties))
    return panel


def table_panel(
    about: About,
    key: str | None,
    expressions: Mapping[str, str],
    columns: Sequence[Column],
    *,
    sort_by: Sequence[tuple[str, bool]] = (),
    required: str = "",
) -> Builder[Panel]:
    """Make a table with one row for each value of the label `key`, or for each series of the only expression.

    The result of an expression is the field `Value #<its name>`, and of the only one `Value`, beside its labels. Apart
    from `key`, no label may be in two results. `sort_by` has fields, the most important last, and whether they descend;
    they need no column. Rows without the field `required` are left out.
    """
    panel = (
        _introduced(table.Panel(), about)
        .transformations(list(_rows(key, columns, sort_by, required)))
        .footer(common.TableFooterOptions().show(show=False).enable_pagination(enable_pagination=False))
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .thresholds(steps([], NO_COLOR))
    )
    for name, expression in expressions.items():
        panel.with_target(_query(name, expression).instant().format(PromQueryFormat.TABLE))
    # The words of `no_value` are for an empty table. A cell without a value has a dash.
    panel.override_by_regexp("/.*/", _values({"noValue": "-"}))
    for column in columns:
        panel.override_by_name(column.title, _values(_properties(column)))
    # The builder has no method for what is special to the columns of a table.
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": False, "minWidth": 50}
    panel.build().field_config.defaults.custom = custom
    return panel


def _properties(column: Column) -> Mapping[str, object]:
    properties: dict[str, object] = {"custom.minWidth" if column.grows else "custom.width": column.width}
    mappings: list[ValueMapping] = []
    if column.unit:
        properties["unit"] = column.unit
    if column.decimals is not None:
        properties["decimals"] = column.decimals
    if column.words is not None:
        mappings.append(value_map(column.words))
        properties["custom.align"] = "left"
        if not column.hidden:
            properties["custom.cellOptions"] = {"type": "color-background", "mode": "basic"}
    if column.steps:
        properties["thresholds"] = steps(column.steps, NO_COLOR).build()
        properties["custom.cellOptions"] = {"type": "color-text"}
    if column.shorten:
        result = ValueMappingResult(text="$1", index=0)
        mappings.append(RegexMap(options=DashboardRegexMapOptions(pattern=column.shorten, result=result)))
    if mappings:
        properties["mappings"] = mappings
    if column.link:
        properties["links"] = [_link(column.link_title, column.link)]
    if column.hidden:
        properties["custom.hidden"] = True
    return properties


def _rows(
    key: str | None, columns: Sequence[Column], sort_by: Sequence[tuple[str, bool]], required: str
) -> Iterator[DataTransformerConfig]:
    sources = [column.source for column in columns]
    hidden = [name for name in (key, *(name for name, _ in sort_by)) if name is not None and name not in sources]
    # This drops the times, too, which would otherwise be a column for each query.
    yield DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": [*sources, *hidden]}})
    if key is not None:
        yield DataTransformerConfig(id_val="joinByField", options={"byField": key, "mode": "outer"})
    if required:
        without = {"fieldName": required, "config": {"id": "isNull", "options": {}}}
        yield DataTransformerConfig(
            id_val="filterByValue", options={"type": "exclude", "match": "any", "filters": [without]}
        )
    for name, descends in sort_by:
        # The sorting of Grafana is stable. The table itself cannot sort by a column that it does not show.
        yield DataTransformerConfig(
            id_val="sortBy", options={"fields": {}, "sort": [{"field": name, "desc": descends}]}
        )
    yield DataTransformerConfig(
        id_val="organize",
        options={
            "excludeByName": dict.fromkeys(hidden, True),
            "indexByName": {source: index for index, source in enumerate(sources)},
            "renameByName": {column.source: column.title for column in columns if column.title != column.source},
        },
    )


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
        _introduced(timeseries.Panel(), about)
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
        panel.with_target(_query(name, expression).range().legend_format(text))
    for text, color in (colors or {}).items():
        panel.override_by_name(text, _values({"color": {"mode": "fixed", "fixedColor": color}}))
    return panel


def timeline_panel(about: About, legend: str, expression: str, meanings: Meanings, *, link: str = "") -> Builder[Panel]:
    """Make a panel with a row for each series, in which colours change over time."""
    panel = (
        _introduced(statetimeline.Panel(), about)
        .with_target(_query("A", expression).range().legend_format(legend))
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
    if link:
        panel.override_by_regexp("/.*/", _values({"links": [_link("This batch", link)]}))
    return panel


def _introduced(panel: AnyPanel, about: About) -> AnyPanel:
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


def _values(properties: Mapping[str, object]) -> list[DynamicConfigValue]:
    return [DynamicConfigValue(id_val=name, value=value) for name, value in properties.items()]


def _link(title: str, url: str) -> Mapping[str, object]:
    return {"title": title, "url": url, "targetBlank": url.startswith("https:")}


def _query(name: str, expression: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery().ref_id(name).expr(expression).datasource(DATA_SOURCE).editor_mode(QueryEditorMode.CODE)
    )
