"""What the JSON of the dashboards holds, read once for all tests of it."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from grafana.evaluation import BATCH_FILE, DASHBOARD_FILE, panels

BATCHES: dict[str, Any] = json.loads(DASHBOARD_FILE.read_text(encoding="utf-8"))
BATCH: dict[str, Any] = json.loads(BATCH_FILE.read_text(encoding="utf-8"))
DASHBOARDS = [BATCHES, BATCH]
PANELS = [(dashboard, panel) for dashboard in DASHBOARDS for panel in panels(dashboard)]


def named(panel: Mapping[str, Any]) -> str:
    """Return what a panel is called in messages: the one of tiles has no title."""
    return panel["title"] or f"{panel['type']} {panel['id']}"


def of_type(kind: str) -> list[dict[str, Any]]:
    """Return the panels of a type, such as `table`."""
    return [panel for _, panel in PANELS if panel["type"] == kind]


def panel_of(dashboard: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Return the panel with this id."""
    [panel] = [panel for panel in panels(dashboard) if panel["id"] == number]
    return panel


def variables(dashboard: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the variables by name."""
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def overrides(panel: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return what each override is for, such as the title of a column, with its properties."""
    for override in panel["fieldConfig"]["overrides"]:
        yield override["matcher"]["options"], {each["id"]: each["value"] for each in override["properties"]}


def links(panel: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Return the URL of each link, with what has it, such as the title of a column."""
    for of, properties in overrides(panel):
        for link in properties.get("links", []):
            yield of, link["url"]


def queries() -> Iterator[tuple[str, str]]:
    """Return every PromQL expression of the dashboards, those of annotations and variables included, with its place."""
    for _, panel in PANELS:
        for target in panel["targets"]:
            yield f"{named(panel)} {target['refId']}", target["expr"]
    for dashboard in DASHBOARDS:
        for annotation in dashboard["annotations"]["list"]:
            yield annotation["name"], annotation["expr"]
        for name, variable in variables(dashboard).items():
            query = str(variable["query"])
            if query.startswith("query_result("):
                yield f"${name}", query.removeprefix("query_result(").removesuffix(")")
