"""Tables, whose columns come from several queries."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common, table
from grafana_foundation_sdk.builders.dashboard import FieldColor
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    DashboardRegexMapOptions,
    DataTransformerConfig,
    FieldColorModeId,
    Panel,
    RegexMap,
    ValueMapping,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from grafana.colors import NO_COLOR, Meanings
from grafana.panels import About, Steps, introduced, link, query, steps, value_map, values


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
        introduced(table.Panel(), about)
        .transformations(list(_rows(key, columns, sort_by, required)))
        .footer(common.TableFooterOptions().show(show=False).enable_pagination(enable_pagination=False))
        .color_scheme(FieldColor().mode(FieldColorModeId.THRESHOLDS))
        .thresholds(steps([], NO_COLOR))
    )
    for name, expression in expressions.items():
        panel.with_target(query(name, expression).instant().format(PromQueryFormat.TABLE))
    # The words of `no_value` are for an empty table. A cell without a value has a dash.
    panel.override_by_regexp("/.*/", values({"noValue": "-"}))
    for column in columns:
        panel.override_by_name(column.title, values(_properties(column)))
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
        properties["links"] = [link(column.link_title, column.link)]
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
