"""The JSON of the dashboards is complete, stable, and what its code makes. The tests in e2e/ run its queries."""

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import evaluation, expressions
from grafana.dashboard import DASHBOARDS as FOLDER
from grafana.dashboard import files
from grafana.evaluation import any_of, fill_in
from grafana.panels import About, graph_panel
from tests.alert_files import RULES
from tests.dashboards import BATCH, BATCHES, DASHBOARDS, PANELS, named, of_type, queries, variables
from tests.metrics.test_documentation import documented_rows
from tools.exporter_program import ROOT

GRAFANA = ROOT / "grafana"
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Prometheus itself makes them, of its scrapes and of alerts, so docs/metrics.md has nothing of them.
OF_PROMETHEUS = {"up", "ALERTS", "ALERTS_FOR_STATE"}

each_dashboard = pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard["uid"])
each_panel = pytest.mark.parametrize("panel", [panel for _, panel in PANELS], ids=named)
each_table = pytest.mark.parametrize("panel", of_type("table"), ids=named)


def test_the_json_is_what_the_code_writes() -> None:
    written = {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
    assert files() == written, "run: make dashboard"


@each_dashboard
def test_the_models_of_grafana_read_it_without_loss(dashboard: dict[str, Any]) -> None:
    register_default_plugins()
    # They lack what annotations from Prometheus have.
    known = dashboard | {"annotations": {"list": []}}
    assert json.loads(json.dumps(Dashboard.from_json(known), cls=JSONEncoder)) == known


def test_addresses_are_stable_and_nothing_can_be_edited_by_accident() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == {dashboard["uid"] for dashboard in DASHBOARDS}
    assert {dashboard["uid"] for dashboard in DASHBOARDS} == {"sitecore-cdp-batches", "sitecore-cdp-batch"}
    for dashboard in DASHBOARDS:
        assert dashboard["editable"] is False
        assert "id" not in dashboard
        assert "${DS_" not in json.dumps(dashboard)


def test_the_panels_keep_their_order_and_ids() -> None:
    assert [(panel["id"], panel["title"]) for panel in BATCHES["panels"]] == [
        (12, ""),
        (10, "Batches: the worst, and the 30 newest"),
        (9, "Alerts that fire"),
        (20, "Feeds"),
        (102, "Are the feeds fresh?"),
        (22, "Feeds: fresh, late, stale"),
        (23, "How the feeds did"),
        (103, "What happened to batches and records?"),
        (33, "Finished batches by status"),
        (44, "Rejected records by cause"),
        (40, "Records by feed"),
        (42, "Time to process"),
        (45, "Time to process, by the feed's own median"),
        (31, "Watched batches by status"),
        (30, "States of the 30 newest batches"),
        (105, "Is the exporter itself well?"),
    ]
    assert [(panel["id"], panel["title"]) for panel in BATCHES["panels"][-1]["panels"]] == [
        (63, ""),
        (56, "Exporters"),
        (57, "Batch API over time"),
        (58, "Requests by code"),
        (59, "Duration of requests"),
        (60, "Duration of polls"),
        (61, "Failing polls by reason"),
        (62, "Watched batches by source"),
        (32, "All batches of the past 30 days by status"),
    ]
    assert [(panel["id"], panel["title"]) for panel in BATCH["panels"]] == [
        (1, ""),
        (2, "Why it failed"),
        (3, "Why records were rejected"),
        (4, "Alerts that fire"),
        (5, "States"),
        (6, "Times and file"),
        (7, "The 30 newest batches of its feed"),
    ]


@each_dashboard
def test_panels_do_not_overlap_and_fit_the_grid(dashboard: dict[str, Any]) -> None:
    placed = [panel for panel in dashboard["panels"] if not panel.get("collapsed")]
    placed += [panel for row in dashboard["panels"] for panel in row.get("panels", [])]
    assert len({panel["id"] for panel in placed}) == len(placed)
    for panel in placed:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, named(panel)
    for one, other in combinations(placed, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (named(one), named(other))


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[length] and other[start] < one[start] + one[length]
        for start, length in [("x", "w"), ("y", "h")]
    )


@each_panel
def test_every_panel_explains_itself(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert re.fullmatch(r"[A-Z].*\.", panel["description"])
    assert defaults["unit"]
    assert defaults.get("noValue") or panel["type"] == "state-timeline"


@each_panel
def test_every_panel_and_query_takes_the_data_source_that_was_chosen(panel: dict[str, Any]) -> None:
    assert panel["datasource"] == DATA_SOURCE
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == DATA_SOURCE
        assert target["instant"] is not target["range"]
    assert "repeat" not in panel


def test_only_columns_of_numbers_have_the_unit_of_a_time() -> None:
    # Grafana would take the text of the other columns for a time, and show NaN.
    units = {named(panel): panel["fieldConfig"]["defaults"]["unit"] for panel in of_type("table")}
    assert not [title for title, unit in units.items() if unit.startswith("dateTime")]


def test_nothing_is_asked_twice() -> None:
    for dashboard in DASHBOARDS:
        targets = [target for of, panel in PANELS for target in panel["targets"] if of is dashboard]
        asked = [(target["expr"], target["instant"]) for target in targets]
        assert len(asked) == len(set(asked))


def test_rates_are_over_the_interval_that_grafana_chooses() -> None:
    everything = " ".join(query for _, query in queries())
    rates = re.findall(r"\b(?:rate|changes)\(\w+{[^}]*}\[(.*?)\]", everything)
    assert len(rates) == 5
    assert set(rates) == {"$__rate_interval"}
    assert not re.search(r"\b(irate|delta)\(", everything)


def test_every_metric_is_documented() -> None:
    everything = [query for _, query in queries()]
    everything += [str(variable["query"]) for dashboard in DASHBOARDS for variable in variables(dashboard).values()]
    found = {name for query in everything for name in re.findall(r"\b([A-Za-z_][\w:]*){", query)}
    for query in everything:
        for prefix, ends in re.findall(r'__name__=~"(\w+)\(([\w|]+)\)"', query):
            found |= {prefix + end for end in ends.split("|")}
    assert len(found) > 40
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    assert {name.removesuffix("_bucket") for name in found} - OF_PROMETHEUS - recorded <= documented_rows().keys()


def test_the_tile_of_reloads_is_red_when_the_alert_fires() -> None:
    (rule,) = (rule for rule in RULES if rule.get("alert") == "SitecoreCdpConfigReloadFailed")
    (of_rule,) = re.findall(r'__name__=~"(.+?)"', rule["expr"])
    (prefix, ends), *_ = re.findall(r'__name__=~"(\w+)\((.+?)\)"', expressions.CONFIG_RELOADS)
    assert {prefix + end for end in ends.split("|")} == set(of_rule.split("|"))


def test_every_selector_obeys_the_variables() -> None:
    for dashboard, panel in PANELS:
        for target in panel["targets"]:
            # When feeds are due was chosen before it is compared with what was seen.
            chosen = target["expr"].replace(f"ignoring(of) ({expressions.SEEN})", "")
            for name, matchers in re.findall(r"\b([A-Za-z_]\w*){(.*?)}(?=\)| |\[|,|$)", chosen):
                place = f"{named(panel)} {target['refId']} {name}"
                if dashboard is BATCH:
                    assert re.search(r'\bref="\$ref"|^feed="\$feed"', matchers), place
                elif name.startswith("ALERTS"):
                    # Some alerts have no job or feed.
                    assert matchers.startswith('alertname=~"SitecoreCdp.*", job=~"$job|", feed=~"$feed|"'), place
                else:
                    assert matchers.startswith('job=~"$job"'), place
                    if re.match(r"sitecore_cdp_(batch|feed)_", name):
                        assert re.search(r'feed=~"\$feed"|ref=~"(\$worst\|)?\$newest"', matchers), place


@pytest.mark.parametrize(
    ("limit", "comparison"),
    [
        (expressions.FAILED_SHARE, ">="),
        (expressions.STUCK_AFTER, ">"),
        (expressions.FAILURES_COUNT_FOR, "[<>]"),
    ],
)
def test_limits_are_those_of_the_alerts(limit: float, comparison: str) -> None:
    rules = " ".join(rule["expr"] for rule in RULES)
    assert re.search(rf"(?:{comparison}|time\(\) -) {re.escape(str(limit))}\b", rules)
    everything = " ".join(query for _, query in queries())
    assert re.search(rf"{comparison} {re.escape(str(limit))}\b", everything)


@each_table
def test_columns_are_fields_of_the_queries(panel: dict[str, Any]) -> None:
    keep, *between, organize = panel["transformations"]
    assert (keep["id"], organize["id"]) == ("filterFieldsByName", "organize")
    hidden = organize["options"]["excludeByName"]
    kept = keep["options"]["include"]["names"]
    sources = [source for source in kept if source not in hidden]
    assert organize["options"]["indexByName"] == {source: index for index, source in enumerate(sources)}
    if len(panel["targets"]) == 1:
        # Grafana names the result of the only query so, and there is nothing to join.
        values = {"Value"}
    else:
        values = {f"Value #{target['refId']}" for target in panel["targets"]}
        join, *between = between
        assert join["id"] == "joinByField"
        assert join["options"]["byField"] in kept
    for each in between:
        if each["id"] == "filterByValue":
            [condition] = each["options"]["filters"]
            assert condition["fieldName"] in kept
        else:
            [sort] = each["options"]["sort"]
            assert sort["field"] in kept
    assert {source for source in kept if source.startswith("Value")} <= values
    # `why` and `version` are what two others are for, and a cause is its own name.
    assert values - set(kept) <= {"Value #why", "Value #version", "Value"}
    renamed = organize["options"]["renameByName"]
    titles = {renamed.get(source, source) for source in sources}
    by_name = [override for override in panel["fieldConfig"]["overrides"] if override["matcher"]["id"] == "byName"]
    assert {override["matcher"]["options"] for override in by_name} == titles
    # That would change the order.
    assert panel["options"].get("sortBy", []) == []
    for target in panel["targets"]:
        assert (target["format"], target["instant"]) == ("table", True)


def test_the_variables_are_those_of_the_documentation_and_have_ids_of_their_own() -> None:
    documentation = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8")
    for dashboard, names in (
        (BATCHES, ["datasource", "job", "feed", "status", "worst", "newest"]),
        (BATCH, ["datasource", "ref", "feed"]),
    ):
        assert {name: variable["id"] for name, variable in variables(dashboard).items()} == {
            name: name for name in names
        }
        for name, variable in variables(dashboard).items():
            if variable["hide"] == 2:
                # Nobody chooses it, so it must not be in links either.
                assert variable["skipUrlSync"] is True, name
            else:
                assert f"| {variable['label']} |" in documentation
    # An absent feed matches `.*`, but no list of feeds.
    assert variables(BATCHES)["feed"]["allValue"] == ".*"
    # `up` of any other job must not count.
    assert "allValue" not in variables(BATCHES)["job"]


def test_every_question_is_in_the_documentation() -> None:
    documentation = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8")
    for panel in BATCHES["panels"]:
        if panel["type"] == "row":
            assert f"| {panel['title']} |" in documentation


def test_the_provisioned_data_source_is_the_one_that_the_dashboard_begins_with() -> None:
    [source] = provisioned("datasources/prometheus.yaml")["datasources"]
    assert source["uid"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    for dashboard in DASHBOARDS:
        variable = variables(dashboard)["datasource"]
        assert (source["type"], source["isDefault"]) == (variable["query"], True)
        assert variable["current"] == {"text": "default", "value": "default"}
    prometheus = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]


def test_the_provisioned_dashboards_cannot_be_changed_or_deleted_in_the_browser() -> None:
    [provider] = provisioned("dashboards/sitecore-cdp.yaml")["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
    assert (provider["type"], provider["allowUiUpdates"], provider["disableDeletion"]) == ("file", False, True)


def test_the_documented_commands_copy_what_grafana_needs(tmp_path: Path) -> None:
    copying = documented_commands()[0]
    assert "/etc/grafana" in copying
    subprocess.run(["sh", "-ec", copying.replace("/etc/grafana", f"{tmp_path}")], cwd=ROOT, check=True)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == [
        "dashboards/sitecore-cdp-batch.json",
        "dashboards/sitecore-cdp-batches.json",
        "provisioning/dashboards/sitecore-cdp.yaml",
        "provisioning/datasources/prometheus.yaml",
    ]


def test_a_url_that_is_not_of_prometheus_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["evaluation", "--prometheus-url=http://127.0.0.1:1"])
    with pytest.raises(SystemExit, match=r"^http://127\.0\.0\.1:1 does not answer as Prometheus does: [^\n]+$"):
        evaluation.main()
    assert capsys.readouterr().out == ""


def test_the_other_documented_commands_are_those_that_are_tested() -> None:
    assert documented_commands()[1:] == [
        "make dashboard\n",
        # tests/e2e/test_dashboard.py runs it.
        ".venv/bin/python -m grafana.evaluation --prometheus-url=http://localhost:9090\n",
    ]
    recipe = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "VENV=.venv", "dashboard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "'.venv/bin/python' -m grafana.dashboard" in recipe.stdout.splitlines()


def documented_commands() -> list[str]:
    documentation = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8")
    return re.findall(r"(?s)```sh\n(.*?)```", documentation)


def provisioned(file: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((GRAFANA / "provisioning" / file).read_text(encoding="utf-8"))
    assert content["apiVersion"] == 1
    return content


def graph_of(number_of_queries: int) -> Panel:
    expressions_by_legend = {f"legend {each}": f"metric_{each}" for each in range(number_of_queries)}
    return graph_panel(About(number=1, title="A", description="B."), expressions_by_legend).build()


def test_a_graph_has_all_its_queries_under_names_of_their_own() -> None:
    targets = json.loads(json.dumps(graph_of(26).targets, cls=JSONEncoder))
    assert [target["expr"] for target in targets] == [f"metric_{each}" for each in range(26)]
    assert len({target["refId"] for target in targets}) == 26


def test_a_graph_with_more_queries_than_names_is_an_error_and_not_cut() -> None:
    with pytest.raises(ValueError, match="longer"):
        graph_of(27)


@pytest.mark.parametrize(
    ("values", "written"),
    [
        (["guests"], "guests"),
        (["guests", "orders"], "(guests|orders)"),
        (["guests (EU)+"], r"guests \\(EU\\)\\+"),
        (["127.0.0.1:9090"], r"127\\.0\\.0\\.1:9090"),
        (["back\\slash"], r"back\\\\slash"),
        ([], "()"),
    ],
)
def test_values_are_escaped_as_grafana_does(values: list[str], written: str) -> None:
    assert any_of(values) == written


def test_a_variable_that_does_not_exist_is_an_error() -> None:
    query = 'label_replace(up{job=~"$job", ref=~"${ref}.*"}, "a", "$1", "b", "(.*)")'
    assert fill_in(query, {"job": "a", "ref": "b"}) == query.replace("$job", "a").replace("${ref}", "b")
    with pytest.raises(KeyError, match="jobs"):
        fill_in('up{job=~"$jobs"}', {"job": "a"})
