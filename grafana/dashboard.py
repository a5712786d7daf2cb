"""The two dashboards, as classic JSON for Grafana 10 and later.

    python -m grafana.dashboard

This writes the files in grafana/dashboards/. Each panel has a number of its own, so that new panels do not change the
ids of the others.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.builders.dashboard import (
    CustomVariable,
    Dashboard,
    DashboardLink,
    DatasourceVariable,
    QueryVariable,
    Row,
    TextBoxVariable,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    Panel,
    RowPanel,
    VariableHide,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from grafana import expressions, first_screen, links, one_batch, over_time
from grafana.expressions import JOB, THIS
from grafana.panels import DATA_SOURCE
from sitecore_cdp_exporter.api.batch import BatchStatus

DASHBOARDS: Final = Path(__file__).parent / "dashboards"
# The schema that the models of grafana-foundation-sdk are made from.
SCHEMA_OF: Final = "10.1.0"
SCHEMA_VERSION: Final = 38
_EVERYTHING: Final = VariableOption(text=["All"], value=["$__all"])


def all_batches() -> Mapping[str, Any]:
    """Build the dashboard of all batches."""
    builder = _new(
        "Sitecore CDP batches", links.BATCHES_UID, "The outcome of the batch files uploaded to Sitecore CDP."
    )
    for panel in first_screen.first_screen():
        builder.with_panel(panel)
    for number, title, panels in (
        (102, "Are the feeds fresh?", over_time.feeds),
        (103, "What happened to batches and records?", over_time.batches),
    ):
        builder.with_row(Row(title).id(number))
        for panel in panels():
            builder.with_panel(panel)
    # Without queries until somebody opens it.
    exporter_row = Row("Is the exporter itself well?").id(105)
    for panel in over_time.itself():
        exporter_row.with_panel(panel)
    builder.with_row(exporter_row)
    return _json(builder, _variables_of_all()) | {"annotations": {"list": [_failures()]}}


def one() -> Mapping[str, Any]:
    """Build the dashboard of one batch."""
    builder = _new("Sitecore CDP batch", links.BATCH_UID, "What became of one batch of Sitecore CDP.")
    builder.link(
        DashboardLink("All batches")
        .type(DashboardLinkType.LINK)
        .url(f"/d/{links.BATCHES_UID}?${{datasource:queryparam}}")
        .icon("dashboard")
        .keep_time(keep_time=True)
    )
    for panel in one_batch.panels():
        builder.with_panel(panel)
    return _json(builder, _variables_of_one()) | {"annotations": {"list": []}}


def _new(title: str, uid: str, description: str) -> Dashboard:
    return (
        Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["sitecore-cdp"])
        .readonly()
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-24h", "now")
        .timezone("browser")
        .refresh("1m")
    )


def _json(builder: Dashboard, variables: Sequence[VariableModel]) -> dict[str, Any]:
    model = builder.build()
    model.schema_version = SCHEMA_VERSION
    model.templating.list_val = list(variables)
    for variable in variables:
        # Grafana 10 keeps variables by id. The one that the models give to all would leave only the last of them.
        variable.id_val = variable.name
    for panel in model.panels or []:
        for each in panel.panels if isinstance(panel, RowPanel) else [panel]:
            if isinstance(each, Panel):
                # Otherwise Grafana takes a panel for one of before 7 and migrates it.
                each.plugin_version = SCHEMA_OF
    plain: dict[str, Any] = json.loads(json.dumps(model, cls=JSONEncoder))
    return plain


def _failures() -> Mapping[str, Any]:
    """Mark in the graphs where a batch failed. The models of Grafana lack what Prometheus' annotations have."""
    return {
        "name": "Failed batches",
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "enable": True,
        "hide": True,
        "iconColor": "rgba(224, 47, 68, 0.6)",
        "filter": {"exclude": False, "ids": list(over_time.MARKED)},
        "expr": expressions.FAILURES,
        "step": f"{expressions.ANNOTATION_STEP}s",
        "useValueForTime": "on",
        "titleFormat": "{{feed}}: a batch failed",
        "textFormat": "{{ref}}",
        "tagKeys": "feed",
    }


def _data_source() -> VariableModel:
    # The default data source of a Grafana that has one for Prometheus; otherwise the first one there.
    return (
        DatasourceVariable("datasource")
        .label("Data source")
        .hide(VariableHide.HIDE_LABEL)
        .type("prometheus")
        .current(VariableOption(text="default", value="default"))
        .build()
    )


def _variables_of_all() -> Sequence[VariableModel]:
    """Return what the user can choose, those first on which others depend, and the refs that tables show."""
    of_exporters = '{__name__=~"sitecore_cdp_(exporter_build_info|batch_poll_success)"'
    of_feeds = '{__name__=~"sitecore_cdp_(feed_max_failed_ratio|batch_poll_success)"'
    return [
        _data_source(),
        # Without an `all_value`, all means the jobs that are jobs of the exporter.
        _query("job", f"label_values({of_exporters}}}, job)").label("Job").current(_EVERYTHING).build(),
        # All includes the batches that have no feed.
        _query("feed", f"label_values({of_feeds}, {JOB}}}, feed)")
        .label("Feed")
        .current(_EVERYTHING)
        .all_value(".*")
        .build(),
        CustomVariable("status")
        .label("Status")
        .values(",".join([*BatchStatus, first_screen.ONLY_UNREAD]))
        .options([VariableOption(text=status, value=status) for status in [*BatchStatus, first_screen.ONLY_UNREAD]])
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .current(_EVERYTHING)
        .build(),
        _refs("worst", expressions.WORST_REFS),
        _refs("newest", expressions.NEWEST_REFS),
    ]


def _variables_of_one() -> Sequence[VariableModel]:
    feed = _query("feed", f"label_values(sitecore_cdp_batch_poll_success{{{THIS}}}, feed)", many=False)
    return [
        _data_source(),
        TextBoxVariable("ref").label("Ref").default_value("").current(VariableOption(text="", value="")).build(),
        _hidden(feed.current(VariableOption(text="", value="")).build()),
    ]


def _query(name: str, query: str, *, many: bool = True) -> QueryVariable:
    return (
        QueryVariable(name)
        .datasource(DATA_SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(multi=many)
        .include_all(include_all=many)
    )


def _refs(name: str, expression: str) -> VariableModel:
    """Let Grafana look up which refs are shown, once for all queries; it does so at each refresh."""
    query = _query(name, f"query_result({expression})").regex('/ref="([^"]+)"/').current(_EVERYTHING)
    return _hidden(query.build())


def _hidden(variable: VariableModel) -> VariableModel:
    variable.hide = VariableHide.HIDE_VARIABLE
    variable.skip_url_sync = True
    return variable


def files() -> Mapping[Path, str]:
    """Return the content of each file in grafana/dashboards/."""
    dashboards = {links.BATCHES_UID: all_batches(), links.BATCH_UID: one()}
    return {
        DASHBOARDS / f"{uid}.json": json.dumps(content, indent=2, sort_keys=True) + "\n"
        for uid, content in dashboards.items()
    }


def main() -> None:
    """Write the files."""
    for path, content in files().items():
        path.write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
