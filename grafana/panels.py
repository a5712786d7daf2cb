"""The kinds of panels, and how each looks everywhere."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Final, TypeVar

from grafana_foundation_sdk.builders import common, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.dashboard import FieldColor, ThresholdsConfig
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphDrawStyle,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    Panel,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat, QueryEditorMode

DATA_SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
# Enough for what can be seen, and a fraction of the work for Prometheus where there are 500 batches.
MAX_POINTS: Final = 300
MAX_BARS: Final = 100
GREEN, ORANGE, RED, GREY, NO_COLOR = "green", "orange", "red", "#8e8e8e", "transparent"

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
    unit: str
    no_value: str = "no data"
    width: int = 12
    height: int = 8


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: the field of the data that it shows, and the properties that differ from the others'."""

    source: str
    title: str
    properties: Mapping[str, object] = field(default_factory=dict)


def steps(*limits: tuple[float, str], below: str = GREEN) -> ThresholdsConfig:
    """Colour values from each limit on, and with `below` what is under all of them, and where there is no value."""
    first = Threshold(color=below)
    return (
        ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([first, *(Threshold(value=value, color=color) for value, color in limits)])
    )


def value_map(meanings: Mapping[int, tuple[str, str]] | Mapping[str, tuple[str, str]]) -> ValueMap:
    """Show text and colour in place of numbers."""
    return ValueMap(
        options={
            str(value): ValueMappingResult(text=text, color=color, index=index)
            for index, (value, (text, color)) in enumerate(meanings.items())
        }
    )


def stat_panel(
    about: About,
    expression: str,
    *,
    thresholds: ThresholdsConfig,
    meanings: Mapping[int, tuple[str, str]] | None = None,
) -> Builder[Panel]:
    """Make a panel that shows one number or word of this moment."""
    panel = (
        _introduced(stat.Panel(), about)
        .with_target(_query("A", expression).instant())
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(values=False))
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.BACKGROUND)
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .thresholds(thresholds)
        .decimals(0)
    )
    if meanings is not None:
        panel.mappings([value_map(meanings)])
    return panel


def table_panel(
    about: About,
    key: str | None,
    expressions: Mapping[str, str],
    columns: Sequence[Column],
    *,
    sort_by: Mapping[str, bool] | None = None,
    largest_first: str | None = None,
) -> Builder[Panel]:
    """Make a table with one row for each value of the label `key`, or for each series of the only expression.

    The result of an expression is the field `Value #<its name>`, and of the only one `Value`, beside its labels. Apart
    from `key`, no label may be in two results. `sort_by` has titles of columns, the most important first, and whether
    they descend. `largest_first` is a field to sort by that is no column.
    """
    panel = (
        _introduced(table.Panel(), about)
        .transformations(list(_rows(key, columns, largest_first)))
        .footer(common.TableFooterOptions().show(show=False).enable_pagination(enable_pagination=True))
        .sort_by(
            [
                common.TableSortByFieldState().display_name(title).desc(desc=descends)
                for title, descends in (sort_by or {}).items()
            ]
        )
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .thresholds(steps())
    )
    for name, expression in expressions.items():
        panel.with_target(_query(name, expression).instant().format(PromQueryFormat.TABLE))
    # The words of `no_value` are for an empty table. A cell without a value has a dash.
    panel.override_by_regexp("/.*/", [DynamicConfigValue(id_val="noValue", value="-")])
    for column in columns:
        if column.properties:
            properties = [DynamicConfigValue(id_val=name, value=value) for name, value in column.properties.items()]
            panel.override_by_name(column.title, properties)
    # The builder has no method for what is special to the columns of a table.
    custom = {"align": "auto", "cellOptions": {"type": "auto"}, "filterable": True}
    panel.build().field_config.defaults.custom = custom
    return panel


def _rows(key: str | None, columns: Sequence[Column], largest_first: str | None) -> Iterator[DataTransformerConfig]:
    sources = [column.source for column in columns]
    hidden = [] if largest_first is None else [largest_first]
    # This drops the times, too, which would otherwise be a column for each query.
    yield DataTransformerConfig(id_val="filterFieldsByName", options={"include": {"names": [*sources, *hidden]}})
    if key is not None:
        yield DataTransformerConfig(id_val="joinByField", options={"byField": key, "mode": "outer"})
    for name in hidden:
        # The table itself cannot sort by a column that it does not show.
        yield DataTransformerConfig(id_val="sortBy", options={"fields": {}, "sort": [{"field": name, "desc": True}]})
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
    stacked: bool = False,
    limit: float | None = None,
    interval: str | None = None,
) -> Builder[Panel]:
    """Make a graph over time. The keys of `expressions` are the legends of their series.

    With an `interval` there is a bar for each, at least that long; without, a line. A dashed line marks the `limit`.

    Raises:
        ValueError: There are more expressions than letters to name them by.

    """
    panel = (
        _introduced(timeseries.Panel(), about)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
        .color_scheme(FieldColor().mode(FieldColorModeId.PALETTE_CLASSIC))
        .min(0)
        .fill_opacity(20 if stacked else 0)
        .max_data_points(MAX_POINTS)
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if limit is not None:
        panel.thresholds(steps((limit, RED)))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED))
    if interval is not None:
        panel.draw_style(GraphDrawStyle.BARS).fill_opacity(80).interval(interval).max_data_points(MAX_BARS)
    names = ascii_uppercase[: len(expressions)]
    for name, (legend, expression) in zip(names, expressions.items(), strict=True):
        panel.with_target(_query(name, expression).range().legend_format(legend))
    return panel


def timeline_panel(
    about: About, legend: str, expression: str, meanings: Mapping[int, tuple[str, str]]
) -> Builder[Panel]:
    """Make a panel with a row for each series, in which colours change over time."""
    return (
        _introduced(statetimeline.Panel(), about)
        .with_target(_query("A", expression).range().legend_format(legend))
        .show_value(VisibilityMode.NEVER)
        .merge_values(merge_values=True)
        .row_height(0.8)
        .line_width(0)
        .fill_opacity(80)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.SINGLE).sort(SortOrder.NONE))
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .thresholds(steps(below=GREY))
        .mappings([value_map(meanings)])
    )


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


def _query(name: str, expression: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery().ref_id(name).expr(expression).datasource(DATA_SOURCE).editor_mode(QueryEditorMode.CODE)
    )
