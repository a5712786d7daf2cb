"""The JSON of the dashboard is complete, stable, and what its code makes. The tests in e2e/ run its queries."""

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard, Panel

from grafana import expressions
from grafana.evaluation import DASHBOARD_FILE, any_of, fill_in
from grafana.panels import About, graph_panel
from tests.alert_files import RULES
from tests.metrics.test_documentation import documented_rows
from tools.exporter_program import ROOT

GRAFANA = ROOT / "grafana"
DASHBOARD: dict[str, Any] = json.loads(DASHBOARD_FILE.read_text(encoding="utf-8"))
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TABLES = [panel for panel in PANELS if panel["type"] == "table"]
VARIABLES: dict[str, dict[str, Any]] = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
# Prometheus itself makes it, so docs/metrics.md has nothing of it.
OF_PROMETHEUS = {"up"}
# Prometheus makes them of the alerts, with their labels.
OF_RULES = {"ALERTS", "ALERTS_FOR_STATE"}

each_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
each_table = pytest.mark.parametrize("panel", TABLES, ids=lambda panel: panel["title"])


def test_the_json_is_what_the_code_writes() -> None:
    command = [sys.executable, "-m", "grafana.dashboard"]
    written = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert written == DASHBOARD_FILE.read_text(encoding="utf-8"), "run: make dashboard"


def test_the_models_of_grafana_read_it_without_loss() -> None:
    register_default_plugins()
    assert json.loads(json.dumps(Dashboard.from_json(DASHBOARD), cls=JSONEncoder)) == DASHBOARD


def test_its_address_is_stable_and_it_cannot_be_edited_by_accident() -> None:
    assert DASHBOARD["uid"] == "sitecore-cdp-batches"
    assert DASHBOARD["editable"] is False
    assert "id" not in DASHBOARD
    assert "${DS_" not in DASHBOARD_FILE.read_text(encoding="utf-8")


def test_the_questions_and_panels_keep_their_order_and_ids() -> None:
    assert [(panel["id"], panel["title"]) for panel in DASHBOARD["panels"]] == [
        (100, "Is anything broken now?"),
        (1, "Failing scrapes"),
        (2, "Batch API"),
        (3, "Failed"),
        (4, "Failed in part"),
        (5, "Corrupted"),
        (6, "Stuck"),
        (7, "Not read"),
        (8, "Overdue feeds"),
        (9, "Alerts that fire"),
        (101, "Which batches, and what happened to them?"),
        (10, "Batches"),
        (11, "Times and files"),
        (102, "Are the feeds fresh?"),
        (20, "Feeds"),
        (21, "Share of the allowed time that has passed"),
        (103, "How did batches move through their states?"),
        (30, "States of the 30 newest batches"),
        (31, "Watched batches by status"),
        (32, "All batches of the past 30 days by status"),
        (104, "How much goes in, and how fast?"),
        (40, "Records"),
        (41, "Failed records"),
        (42, "Time to process"),
        (43, "Records a second"),
        (105, "Is the exporter itself well?"),
        (50, "Discovery"),
        (51, "Dropped by max_batches"),
        (52, "Config reload"),
        (53, "Bad batch files"),
        (54, "Since the API last answered"),
        (55, "Details to be read"),
        (56, "Exporters"),
        (57, "Batch API over time"),
        (58, "Requests by code"),
        (59, "Duration of requests"),
        (60, "Duration of polls"),
        (61, "Failing polls by reason"),
        (62, "Watched batches by source"),
    ]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_panels_do_not_overlap_and_fit_the_grid() -> None:
    for panel in DASHBOARD["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, panel["title"]
    for one, other in combinations(DASHBOARD["panels"], 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[length] and other[start] < one[start] + one[length]
        for start, length in [("x", "w"), ("y", "h")]
    )


@each_panel
def test_every_panel_explains_itself(panel: dict[str, Any]) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    assert panel["title"]
    assert re.fullmatch(r"[A-Z].*\.", panel["description"])
    assert defaults["unit"]
    assert defaults["noValue"]


@each_panel
def test_every_panel_and_query_takes_the_data_source_that_was_chosen(panel: dict[str, Any]) -> None:
    assert panel["datasource"] == DATA_SOURCE
    assert panel["targets"]
    for target in panel["targets"]:
        assert target["datasource"] == DATA_SOURCE
        assert target["instant"] is not target["range"]
    assert "repeat" not in panel


def test_panels_that_need_discovery_say_when_it_is_off() -> None:
    need_it = [
        panel for panel in PANELS if re.search(r"sitecore_cdp_(batches|discovery_[ds]\w+){", str(panel["targets"]))
    ]
    assert [panel["id"] for panel in need_it] == [32, 50, 51]
    assert {panel["fieldConfig"]["defaults"]["noValue"] for panel in need_it} == {"discovery is off"}


def test_what_is_unknown_looks_neither_healthy_nor_broken() -> None:
    for panel in PANELS:
        if panel["type"] == "stat":
            # Grafana takes the first step for a panel or a cell without a value.
            assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"][0]["color"] == "#8e8e8e", panel["title"]
    coloured = {
        override["matcher"]["options"]: properties["thresholds"]["steps"][0]["color"]
        for panel in TABLES
        for override in panel["fieldConfig"]["overrides"]
        if (properties := {each["id"]: each["value"] for each in override["properties"]}).get("custom.cellOptions")
    }
    always_known = {"Too small": "green", "Scraped": "red"}
    assert coloured == always_known | dict.fromkeys(
        ["Severity", "Status", "Outcome", "Failed share", "State"], "transparent"
    )


def test_only_columns_of_numbers_have_the_unit_of_a_time() -> None:
    # Grafana would take the text of the other columns for a time, and show NaN.
    assert not [panel["title"] for panel in TABLES if panel["fieldConfig"]["defaults"]["unit"].startswith("dateTime")]


def test_nothing_is_asked_twice() -> None:
    assert len(EXPRESSIONS) == len(set(EXPRESSIONS))


def test_rates_are_over_the_interval_that_grafana_chooses() -> None:
    rates = [range_ for expression in EXPRESSIONS for range_ in re.findall(r"\brate\(\w+{[^}]*}\[(.*?)\]", expression)]
    assert len(rates) == 4
    assert set(rates) == {"$__rate_interval"}
    assert not re.search(r"\b(irate|increase|delta)\(", " ".join(EXPRESSIONS))


def test_every_metric_is_documented() -> None:
    named = {name for expression in EXPRESSIONS for name in re.findall(r"\b([a-z_:]+){", expression)}
    for query in (*EXPRESSIONS, *(variable["query"] for variable in VARIABLES.values())):
        for prefix, ends in re.findall(r'__name__=~"(\w+)\(([\w|]+)\)"', query):
            named |= {prefix + end for end in ends.split("|")}
    assert len(named) > 30
    assert {name.removesuffix("_bucket") for name in named} - OF_PROMETHEUS <= documented_rows().keys()


def test_the_panel_of_reloads_is_red_when_the_alert_fires() -> None:
    (rule,) = (rule for rule in RULES if rule.get("alert") == "SitecoreCdpConfigReloadFailed")
    (named,) = re.findall(r'__name__=~"(.+?)"', rule["expr"])
    (prefix, ends), *_ = re.findall(r'__name__=~"(\w+)\((.+?)\)"', expressions.CONFIG_RELOADS)
    assert {prefix + end for end in ends.split("|")} == set(named.split("|"))


def test_every_selector_of_a_metric_obeys_the_variables() -> None:
    for name, matchers in re.findall(r"\b(\w+){(.*?)}(?=\)| |\[|$)", " ".join(EXPRESSIONS).replace("${ref}", "$ref")):
        if name in OF_RULES:
            # Some alerts have no job, feed or ref. Their rules take away the instance.
            assert matchers.startswith('alertname=~"SitecoreCdp.*", job=~"$job|", feed=~"$feed|", ref=~"$ref.*|"'), name
            continue
        assert matchers.startswith('job=~"$job", instance=~"$instance"'), name
        if name.startswith("sitecore_cdp_batch_") and name != "sitecore_cdp_batches":
            assert 'feed=~"$feed"' in matchers, name


@pytest.mark.parametrize(
    ("limit", "comparison"),
    [
        (expressions.FAILED_SHARE, ">="),
        (expressions.MIN_RECORDS, ">="),
        (expressions.STUCK_AFTER, ">"),
        (expressions.LATE_AFTER_EXPIRY, ">"),
        (expressions.LATE_AFTER_CREATION, ">"),
        (expressions.FAILURES_COUNT_FOR, ">"),
    ],
)
def test_limits_are_those_of_the_alerts(limit: float, comparison: str) -> None:
    rules = " ".join(rule["expr"] for rule in RULES)
    assert re.search(rf"{comparison} {re.escape(str(limit))}\s", rules)
    assert re.search(rf"{comparison} {re.escape(str(limit))}\b", " ".join(EXPRESSIONS))


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
        assert between == []
    else:
        values = {f"Value #{target['refId']}" for target in panel["targets"]}
        join, *sort = between
        assert join["id"] == "joinByField"
        assert join["options"]["byField"] in sources
        assert [each["id"] for each in sort] == ["sortBy"] * len(hidden)
    assert {source for source in kept if source.startswith("Value")} <= values
    # `reason` and `version` are what the two others are for.
    assert values - set(kept) <= {"Value #why", "Value #version"}
    renamed = organize["options"]["renameByName"]
    titles = {renamed.get(source, source) for source in sources}
    by_name = [override for override in panel["fieldConfig"]["overrides"] if override["matcher"]["id"] == "byName"]
    assert {override["matcher"]["options"] for override in by_name} <= titles
    assert {column["displayName"] for column in panel["options"]["sortBy"]} <= titles
    assert panel["options"]["footer"]["enablePagination"] is True
    for target in panel["targets"]:
        assert (target["format"], target["instant"]) == ("table", True)


def test_the_batches_are_sorted_by_a_number_that_is_not_shown() -> None:
    [panel] = [panel for panel in TABLES if panel["title"] == "Batches"]
    *_, sort, organize = panel["transformations"]
    assert sort["options"]["sort"] == [{"field": "Value #rank", "desc": True}]
    assert organize["options"]["excludeByName"] == {"Value #rank": True}
    # That would change the order.
    assert panel["options"]["sortBy"] == []


def test_the_runbook_is_the_one_that_the_alerts_link_to() -> None:
    [link] = DASHBOARD["links"]
    assert (link["title"], link["type"]) == ("Runbook", "link")
    of_alerts = {rule["annotations"]["runbook_url"].split("#")[0] for rule in RULES if "alert" in rule}
    assert of_alerts == {link["url"]}
    assert (ROOT / link["url"].partition("/blob/main/")[2]).is_file()


def test_every_alert_and_its_severity_is_known_to_the_list_of_those_that_fire() -> None:
    [panel] = [panel for panel in TABLES if panel["title"] == "Alerts that fire"]
    alerts = [rule for rule in RULES if "alert" in rule]
    assert all(rule["alert"].startswith("SitecoreCdp") for rule in alerts)
    [mapping] = [
        property_["value"][0]["options"]
        for override in panel["fieldConfig"]["overrides"]
        for property_ in override["properties"]
        if property_["id"] == "mappings"
    ]
    assert {rule["labels"]["severity"] for rule in alerts} == set(mapping)


def test_a_ref_leads_to_the_view_of_its_batch() -> None:
    ref = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
    links = [
        link
        for panel in TABLES
        for override in panel["fieldConfig"]["overrides"]
        for property_ in override["properties"]
        if override["matcher"]["options"] == "Ref" and property_["id"] == "links"
        for link in property_["value"]
    ]
    assert [link["title"] for link in links] == ["This batch alone"] * 3
    for link in links:
        # As Grafana writes it.
        url = (
            link["url"]
            .replace("${datasource:queryparam}", "var-datasource=prometheus")
            .replace("${job:queryparam}", "var-job=sitecore-cdp&var-job=sitecore-cdp-probe")
            .replace("${instance:queryparam}", "var-instance=$__all")
            .replace("${__value.raw}", ref)
            .replace("${__url_time_range}", "from=now-24h&to=now")
        )
        parts = urlsplit(url)
        assert (parts.scheme, parts.netloc, parts.path) == ("", "", f"/d/{DASHBOARD['uid']}")
        query = parse_qs(parts.query, strict_parsing=True)
        assert query == {
            "var-datasource": ["prometheus"],
            "var-job": ["sitecore-cdp", "sitecore-cdp-probe"],
            "var-instance": ["$__all"],
            "var-ref": [ref],
            "from": ["now-24h"],
            "to": ["now"],
        }
        assert {name.removeprefix("var-") for name in query if name.startswith("var-")} <= VARIABLES.keys()


def test_the_variables_are_those_of_the_documentation_and_have_ids_of_their_own() -> None:
    assert {name: variable["id"] for name, variable in VARIABLES.items()} == {
        name: name for name in ["datasource", "job", "instance", "feed", "status", "ref"]
    }
    documentation = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8")
    for variable in VARIABLES.values():
        assert f"| {variable['label']} |" in documentation
    # An absent feed matches `.*`, but no list of feeds.
    assert VARIABLES["feed"]["allValue"] == ".*"
    # `up` of any other job must not count.
    assert "allValue" not in VARIABLES["job"]


def test_every_question_is_in_the_documentation() -> None:
    documentation = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8")
    for panel in DASHBOARD["panels"]:
        if panel["type"] == "row":
            assert f"| {panel['title']} |" in documentation


def test_the_provisioned_data_source_is_the_one_that_the_dashboard_begins_with() -> None:
    [source] = provisioned("datasources/prometheus.yaml")["datasources"]
    assert source["uid"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert (source["type"], source["isDefault"]) == (VARIABLES["datasource"]["query"], True)
    assert VARIABLES["datasource"]["current"] == {"text": "default", "value": "default"}
    prometheus = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]


def test_the_provisioned_dashboard_cannot_be_changed_or_deleted_in_the_browser() -> None:
    [provider] = provisioned("dashboards/sitecore-cdp.yaml")["providers"]
    assert provider["options"]["path"] == "/etc/grafana/dashboards"
    assert (provider["type"], provider["allowUiUpdates"], provider["disableDeletion"]) == ("file", False, True)


def test_the_documented_commands_copy_what_grafana_needs(tmp_path: Path) -> None:
    copying = documented_commands()[0]
    assert "/etc/grafana" in copying
    subprocess.run(["sh", "-ec", copying.replace("/etc/grafana", f"{tmp_path}")], cwd=ROOT, check=True)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == [
        "dashboards/sitecore-cdp-batches.json",
        "provisioning/dashboards/sitecore-cdp.yaml",
        "provisioning/datasources/prometheus.yaml",
    ]


def test_a_url_that_is_not_of_prometheus_is_reported_in_one_line() -> None:
    command = [sys.executable, "-m", "grafana.evaluation", "--prometheus-url=http://127.0.0.1:1"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert run.stderr.startswith("http://127.0.0.1:1 does not answer as Prometheus does: ")


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
    writing = recipe.stdout.splitlines()[-1]
    assert writing == "'.venv/bin/python' -m grafana.dashboard > grafana/dashboards/sitecore-cdp-batches.json"


def documented_commands() -> list[str]:
    documentation = (ROOT / "docs" / "dashboard.md").read_text(encoding="utf-8")
    return re.findall(r"(?s)```sh\n(.*?)```", documentation)


def provisioned(file: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((GRAFANA / "provisioning" / file).read_text(encoding="utf-8"))
    assert content["apiVersion"] == 1
    return content


def graph_of(number_of_queries: int) -> Panel:
    expressions_by_legend = {f"legend {each}": f"metric_{each}" for each in range(number_of_queries)}
    return graph_panel(About(number=1, title="A", description="B.", unit="s"), expressions_by_legend).build()


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
    assert fill_in('up{job=~"$job", ref=~"${ref}.*"}', {"job": "a", "ref": "b"}) == 'up{job=~"a", ref=~"b.*"}'
    with pytest.raises(KeyError, match="jobs"):
        fill_in('up{job=~"$jobs"}', {"job": "a"})
