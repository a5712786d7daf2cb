"""What a person sees on the dashboards, as far as their JSON says it. Each was seen wrong in a real Grafana."""

import re
from collections import defaultdict
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from grafana import colors
from grafana.first_screen import BATCHES as TABLE_OF_BATCHES
from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.api.error_log import RecordCause
from sitecore_cdp_exporter.api.errors import Reason
from sitecore_cdp_exporter.poll.cause import FailureCause
from tests.alert_files import ALERTS
from tests.dashboards import (
    BATCH,
    BATCHES,
    DASHBOARDS,
    PANELS,
    links,
    named,
    of_type,
    overrides,
    panel_of,
    queries,
    variables,
)
from tools.exporter_program import ROOT

# Of a Grafana of 1280 pixels with its menu docked, and what is left of it inside a panel that is as wide as that.
WIDTH_OF_PAGE = 918
HEIGHT_OF_A_SCREEN = 21
REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"

each_timeline = pytest.mark.parametrize("panel", of_type("state-timeline"), ids=named)
each_table = pytest.mark.parametrize("panel", of_type("table"), ids=named)
each_stat = pytest.mark.parametrize("panel", of_type("stat"), ids=named)
ALL_LINKS = [(dashboard, named(panel), of, url) for dashboard, panel in PANELS for of, url in links(panel)]


@each_timeline
def test_timelines_have_the_colours_of_their_mappings(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    # With `thresholds` Grafana ignores the mappings of values that it merges: all bars are grey, the legend is `-inf+`.
    assert (panel["options"]["mergeValues"], defaults["color"]["mode"]) == (True, "fixed")
    assert "noValue" not in defaults
    [mapping] = defaults["mappings"]
    assert all(result["text"] and result["color"] for result in mapping["options"].values())


def test_the_states_of_a_batch_that_nobody_watched_are_no_data_in_words_that_are_not_those_of_grafana() -> None:
    panel = panel_of(BATCH, 5)
    [target] = panel["targets"]
    # One series, whatever its labels, which always has a value.
    assert re.fullmatch(r"max\(.*\) or vector\(-2\)", target["expr"])
    assert panel["fieldConfig"]["defaults"]["mappings"][0]["options"]["-2"]["text"] == "no data"


@pytest.mark.parametrize(("dashboard", "panel", "of", "url"), ALL_LINKS)
def test_links_set_every_variable(dashboard: dict[str, Any], panel: str, of: str, url: str) -> None:
    if url.startswith("https:"):
        assert re.fullmatch(
            r"https://github\.com/[^#]+/docs/runbook\.md(\$\{__value\.raw\}|#\$\{__data\.fields\.Section\})", url
        )
        return
    parts = urlsplit(as_grafana_writes(url, dashboard))
    leads_to = {f"/d/{each['uid']}": each for each in DASHBOARDS}[parts.path]
    if leads_to is dashboard and dashboard is BATCHES:
        assert url.startswith("/d/${__dashboard.uid}?")
    given = parse_qs(parts.query, strict_parsing=True)
    chosen = {name for name, variable in variables(leads_to).items() if variable["hide"] != 2}
    assert {name.removeprefix("var-") for name in given if name.startswith("var-")} == chosen
    assert {"from", "to"} <= given.keys()
    if leads_to is BATCH:
        assert given["var-ref"] == [REF]
    elif of == "Feed":
        # Whatever was chosen before, its batches of every status are there.
        assert (given["var-feed"], given["var-status"]) == ([REF], ["$__all"])
    if "viewPanel" in given:
        assert given["viewPanel"][0] in {f"{each['id']}" for whole, each in PANELS if whole is leads_to}, panel


def as_grafana_writes(url: str, dashboard: dict[str, Any]) -> str:
    """Fill in what Grafana fills in."""
    return (
        url.replace("${__dashboard.uid}", dashboard["uid"])
        .replace("${datasource:queryparam}", "var-datasource=prometheus")
        .replace("${job:queryparam}", "var-job=sitecore-cdp&var-job=sitecore-cdp-probe")
        .replace("${feed:queryparam}", "var-feed=$__all")
        .replace("${__value.raw}", REF)
        .replace("${__field.labels.ref}", REF)
        .replace("${__url_time_range}", "from=now-24h&to=now")
    )


def test_one_name_has_one_colour_everywhere_and_no_palette_decides() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for graph in of_type("timeseries"):
        mode = graph["fieldConfig"]["defaults"]["color"]["mode"]
        if "{{feed}}" in graph["targets"][0]["legendFormat"]:
            # The colours go by the order of the series: all graphs have all feeds, whatever the range.
            assert mode == "palette-classic"
            assert "accepted_batches_total" in graph["targets"][0]["expr"] or "clamp_min" in graph["targets"][0]["expr"]
        else:
            assert mode == "palette-classic-by-name"
        for name, properties in overrides(graph):
            assert properties["color"]["mode"] == "fixed"
            found[name].add(properties["color"]["fixedColor"])
    for _, panel in PANELS:
        mappings = [*panel["fieldConfig"]["defaults"].get("mappings", [])]
        mappings += [each for _, properties in overrides(panel) for each in properties.get("mappings", [])]
        for mapping in mappings:
            for result in mapping["options"].values() if mapping["type"] == "value" else []:
                found[result["text"]].add(result["color"])
    # What is asked and not known is grey; a status that the exporter does not know is another thing.
    assert found["unknown"] == {colors.STATUS_COLORS[BatchStatus.UNKNOWN]}
    assert {name: which for name, which in found.items() if len(which) > 1} == {}


@pytest.mark.parametrize(
    ("title", "names"),
    [
        ("Finished batches by status", set(BatchStatus)),
        ("Watched batches by status", {*BatchStatus, "not read"}),
        ("All batches of the past 30 days by status", set(BatchStatus)),
        ("Rejected records by cause", set(RecordCause)),
        ("Failing polls by reason", {*Reason, *(f"list: {reason}" for reason in Reason)}),
        ("Requests by code", {"200", "401", "403", "404", "429", "500", "503", "error"}),
        ("Watched batches by source", {"config", "file", "discovery"}),
    ],
)
def test_every_status_code_reason_cause_and_source_has_a_colour_of_its_own(title: str, names: set[str]) -> None:
    [panel] = [panel for panel in of_type("timeseries") if panel["title"] == title]
    given = {name: properties["color"]["fixedColor"] for name, properties in overrides(panel)}
    assert names <= given.keys()
    assert len({given[name] for name in names if not name.startswith("list: ")}) == len(
        [name for name in names if not name.startswith("list: ")]
    )


def test_success_is_green_and_failures_are_not() -> None:
    assert colors.STATUS_COLORS[BatchStatus.SUCCESS] == colors.GREEN
    bad = {colors.STATUS_COLORS[status] for status in (BatchStatus.ERROR, BatchStatus.CORRUPTED, "not read")}
    assert len(bad) == 3
    assert not [color for color in bad if "green" in color]


@each_stat
def test_tiles_are_one_panel_with_their_names_inside(panel: dict[str, Any]) -> None:
    assert panel["options"]["textMode"] == "value_and_name"
    # A title would be cut; there is one only above a whole row of tiles.
    assert (panel["gridPos"]["w"], panel["title"]) == (24, "")
    names = [properties["displayName"] for _, properties in overrides(panel)]
    assert len(names) == len(panel["targets"]) <= 11
    # Two lines of eleven letters are what a tile has room for.
    assert all(len(word) <= 9 for name in names for word in re.sub(r"\$\{.*?\}", "", name).split())


def test_every_tile_of_the_first_screen_leads_to_what_it_counts() -> None:
    tiles = dict(overrides(panel_of(BATCHES, 12)))
    assert len(tiles) == 11
    for tile in tiles.values():
        [link] = tile["links"]
        given = parse_qs(urlsplit(link["url"]).query)
        if given["viewPanel"] == [f"{TABLE_OF_BATCHES}"]:
            assert set(given["var-status"]) <= {*BatchStatus, "not_read"}


def test_there_is_a_tile_for_every_critical_alert() -> None:
    tile_of = {
        "ExporterDown": "Failing scrapes",
        "ApiDown": "Batch API",
        "ApiUnauthorized": "Batch API",
        "AllNotFound": "Not read",
        "BatchFailed": "Failed",
        "BatchCorrupted": "Corrupted",
        "BatchUploadExpired": "Upload expired",
        "FeedTooFewRecords": "Too few records",
        "FeedStale": "Overdue feeds",
    }
    critical = {rule["alert"] for rule in ALERTS if rule["labels"]["severity"] == "critical"}
    assert {name.removeprefix("SitecoreCdp") for name in critical} <= tile_of.keys()
    names = {properties["displayName"].partition(" ${")[0] for _, properties in overrides(panel_of(BATCHES, 12))}
    assert set(tile_of.values()) | {"Under way"} <= names


def test_alerts_have_no_pages_and_the_severest_come_first() -> None:
    for number, dashboard in ((9, BATCHES), (4, BATCH)):
        panel = panel_of(dashboard, number)
        [target] = panel["targets"]
        # Newest first within the same severity, since Grafana's sorting is stable.
        assert target["expr"].startswith("sort(bottomk by (severity) (50, ")
        pattern = r'"order", "\$1", "severity", "(.+?)"'
        [order] = re.findall(pattern, target["expr"])
        severities = ["critical", "warning", "info"]
        assert sorted(severities, key=lambda each: re.fullmatch(order, each)[1]) == severities  # type: ignore[index]
        [sort] = [each for each in panel["transformations"] if each["id"] == "sortBy"]
        assert sort["options"]["sort"] == [{"field": "order", "desc": False}]
        assert set(severities) == set(dict(overrides(panel))["Severity"]["mappings"][0]["options"])
        assert "the rules" in panel["fieldConfig"]["defaults"]["noValue"]


@each_table
def test_no_table_has_pages(panel: dict[str, Any]) -> None:
    assert panel["options"]["footer"]["enablePagination"] is False


@each_table
def test_the_columns_fit_a_page_of_1280_pixels(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["custom"]["minWidth"] <= 50
    widths: list[int] = [
        properties.get("custom.width") or properties["custom.minWidth"]
        for of, properties in overrides(panel)
        if of != "/.*/" and not properties.get("custom.hidden")
    ]
    # It takes what is left over. Of two, each would have the same, and the one that needs more would push the last
    # columns out of sight.
    growing = [title for title, properties in overrides(panel) if "custom.minWidth" in properties]
    assert len(growing) == 1
    padding = 18
    assert sum(widths) <= WIDTH_OF_PAGE * panel["gridPos"]["w"] // 24 - padding


# The longest text of each column, and its width in pixels as Grafana 12.4 draws it.
LONGEST_TEXTS = {
    "Accepted": ("23.9 hours", 73),
    "Age": ("52.0 weeks", 78),
    "Alert": ("BatchErrorWithoutLog", 150),
    "Cause": ("checksum_not_lowercase_hex", 205),
    "Due": ("a few seconds ago", 127),
    "Last": ("156:00:29", 67),
    "Median": ("156:00:29", 67),
    "Records": ("12,345,678", 74),
    "Running": ("52.0 weeks", 78),
    "Since": ("23.9 hours", 73),
    "Took": ("311:59:59", 64),
    "Version": ("0.2.0.dev12+g1234567", 154),
    "Why": ("checksum_not_lowercase_hex", 205),
}


@each_table
def test_no_column_cuts_its_longest_text(panel: dict[str, Any]) -> None:
    padding = 12
    for title, properties in overrides(panel):
        width = properties.get("custom.width") or properties.get("custom.minWidth", 0)
        if title in LONGEST_TEXTS and properties.get("unit") != "percentunit":
            text, pixels = LONGEST_TEXTS[title]
            assert width >= pixels + padding, (title, text)
        if "custom.width" in properties:
            # Grafana draws none narrower, and the last columns would be out of sight.
            assert width >= panel["fieldConfig"]["defaults"]["custom"]["minWidth"], title
        if title == "Feed":
            # Nobody knows how long the names of feeds are, so they have what is left over.
            assert "custom.minWidth" in properties


def test_no_failure_has_a_longer_name_than_the_columns_of_causes_have_room_for() -> None:
    assert max(map(len, [*FailureCause, *RecordCause, *Reason])) <= len(LONGEST_TEXTS["Why"][0])


def test_no_alert_has_a_longer_name_than_the_column_of_alerts_has_room_for() -> None:
    assert max(len(rule["alert"].removeprefix("SitecoreCdp")) for rule in ALERTS) <= len(LONGEST_TEXTS["Alert"][0])


def test_refs_are_shown_by_their_end() -> None:
    shown = [properties for panel in of_type("table") for of, properties in overrides(panel) if of == "Ref"]
    for properties in shown:
        [mapping] = properties["mappings"]
        assert re.sub(mapping["options"]["pattern"], r"\1", REF) == "2b1f8a11"
    assert len(shown) == 4


def test_the_first_screen_has_tiles_batches_alerts_and_feeds_and_nothing_else() -> None:
    first = [panel for panel in BATCHES["panels"] if panel["gridPos"]["y"] < HEIGHT_OF_A_SCREEN]
    assert [(panel["type"], panel["id"]) for panel in first if panel["type"] != "row"] == [
        ("stat", 12),
        ("table", 10),
        ("table", 9),
        ("table", 20),
    ]


def test_the_exporter_itself_is_collapsed_and_asks_nothing_until_it_is_opened() -> None:
    [*_, last] = BATCHES["panels"]
    assert (last["type"], last["collapsed"]) == ("row", True)
    assert last["panels"]


def test_an_alert_leads_to_its_section_of_the_runbook() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    anchors = {heading.lower() for heading in re.findall(r"(?m)^#+ (\w+)$", runbook)}
    for dashboard, number in ((BATCHES, 9), (BATCH, 4)):
        columns = dict(overrides(panel_of(dashboard, number)))
        [mapping] = columns["Section"]["mappings"]
        sections = {alert: result["text"] for alert, result in mapping["options"].items()}
        assert sections.keys() == {rule["alert"] for rule in ALERTS}
        assert set(sections.values()) <= anchors
        [link] = columns["Alert"]["links"]
        assert link["url"].endswith("/runbook.md#${__data.fields.Section}")
        of_alerts = {rule["annotations"]["runbook_url"].partition("#")[0] for rule in ALERTS}
        assert of_alerts == {link["url"].partition("#")[0]}


def test_no_expression_is_too_long_to_be_read_in_the_editor() -> None:
    assert {place: len(query) for place, query in queries() if len(query) > 400} == {}


def test_only_the_lists_of_alerts_and_the_shares_of_30_days_need_the_rules() -> None:
    need = {place for place, query in queries() if re.search(r"\bALERTS|\b\w+:\w+:?", query)}
    assert need == {"Alerts that fire age", "How the feeds did month"}
    assert "which needs the recorded series" in panel_of(BATCHES, 23)["description"]


def test_unknown_is_grey_and_never_zero() -> None:
    for panel in of_type("stat"):
        for (_, properties), target in zip(overrides(panel), panel["targets"], strict=True):
            first, *rest = properties["thresholds"]["steps"]
            assert first["color"] == colors.GREY
            assert all(step["value"] >= 0 for step in rest)
            assert target["expr"].endswith(("or vector(-2)", "or vector(-2))"))
            *_, unknown = properties["mappings"]
            assert {value: result["text"] for value, result in unknown["options"].items()} == {
                "-1": "?",
                "-2": "no data",
            }
    for target in panel_of(BATCHES, 12)["targets"][2:]:
        assert "complete_poll_timestamp_seconds" in target["expr"], target["legendFormat"]


def test_a_cause_leads_to_its_section_of_the_runbook_and_a_reason_to_that_of_unreadable_batches() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
    anchors = {heading.lower() for heading in re.findall(r"(?m)^#+ (\w+)$", runbook)}
    assert {*FailureCause, *RecordCause} <= anchors
    asked = dict(queries())
    table = panel_of(BATCHES, 10)["title"]
    for place in (f"{table} why", "Why it failed causes", "Why records were rejected causes"):
        written = re.findall(r'"why", "(.+?)", "(cause|reason)"', asked[place])
        assert {label: value for value, label in written}.items() <= {
            "cause": "#$1",
            "reason": "?$1#sitecorecdpbatchunreadable",
        }.items()
        assert written
    for dashboard, number, title in ((BATCHES, 10, "Why"), (BATCH, 2, "Cause"), (BATCH, 3, "Cause")):
        column = dict(overrides(panel_of(dashboard, number)))[title]
        assert column["links"][0]["url"].endswith("/docs/runbook.md${__value.raw}")
        [shown] = column["mappings"]
        for raw in ("#not_found", "?not_found#sitecorecdpbatchunreadable"):
            assert re.sub(shown["options"]["pattern"], r"\1", raw) == "not_found"
