"""What can be said of prometheus/alerts.yml without Prometheus. What the rules do is tested in alerts_test.yml."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from sitecore_cdp_exporter.api.errors import Reason
from sitecore_cdp_exporter.config.names import RESERVED_LABELS
from sitecore_cdp_exporter.poll.advice import WHY_BATCHES, WHY_RECORDS, Advice
from sitecore_cdp_exporter.poll.open_failure import FailureKind
from sitecore_cdp_exporter.poll.reading import MAX_UPLOAD_SECONDS
from tests.alert_files import ALERTS, DIRECTORY, RULES, read
from tests.dashboards import queries
from tests.metrics.test_documentation import DOCUMENT, documented_rows

RUNBOOK = "https://github.com/sitecore-cdp-batch-exporter/sitecore-cdp-batch-exporter/blob/main/docs/runbook.md"
NAMES = [f"{rule['alert']}-{rule['labels']['severity']}" for rule in ALERTS]
TESTS: list[dict[str, Any]] = read(DIRECTORY / "alerts_test.yml")["tests"]

# The labels of an expression that PromQL reads; what else stands in quotes is arguments of functions.
MATCHER = re.compile(r'\b(\w+)(=|!=|=~|!~)\\?"((?:[^"\\]|\\[^"])*)\\?"')


def identity(rule: dict[str, Any]) -> tuple[str, str]:
    return rule["alert"].removeprefix("SitecoreCdp"), rule["labels"]["severity"]


def promql(rule: dict[str, Any]) -> str:
    """Return all PromQL of a rule, that of its annotations too."""
    annotations = rule.get("annotations", {})
    return "\n".join([rule["expr"], *(annotations.get(name, "") for name in ("summary", "description"))])


def matched(label: str) -> set[str]:
    """Return the values that PromQL compares a label with."""
    return {
        value
        for rule in RULES
        for name, _, values in MATCHER.findall(promql(rule))
        for value in values.split("|")
        if name == label
    }


def test_the_alerts_are_those_that_were_promised() -> None:
    assert sorted(map(identity, ALERTS)) == sorted(
        [
            ("BatchFailed", "critical"),
            ("BatchPartlyFailed", "warning"),
            ("BatchPartlyFailed", "info"),
            ("BatchCorrupted", "critical"),
            ("BatchErrorWithoutLog", "warning"),
            ("BatchUploadExpired", "critical"),
            ("BatchStuck", "warning"),
            ("BatchNotFound", "warning"),
            ("BatchUnreadable", "warning"),
            ("BatchStatusUnknown", "info"),
            ("FeedStale", "critical"),
            ("FeedStale", "critical"),
            ("FeedNeverAccepted", "warning"),
            ("FeedTooFewRecords", "critical"),
            ("ApiDown", "warning"),
            ("ApiDown", "critical"),
            ("ApiDown", "critical"),
            ("ApiUnauthorized", "critical"),
            ("AllNotFound", "critical"),
            ("DiscoveryFailing", "warning"),
            ("DiscoveryDropped", "info"),
            ("ExporterDown", "critical"),
            ("ConfigReloadFailed", "warning"),
            ("BatchFileError", "warning"),
            ("NothingWatched", "info"),
        ]
    )


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_every_alert_says_what_is_wrong_and_where_to_read_on(rule: dict[str, Any]) -> None:
    assert rule["alert"].startswith("SitecoreCdp")
    # A label whose value changes would make a new alert of the same trouble.
    assert set(rule["labels"]) <= {"severity", "why"}
    # Otherwise it would overwrite a label that somebody's config gives to a batch or a feed.
    assert set(rule["labels"]) <= set(RESERVED_LABELS)
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert all(text.strip() == text != "" for text in rule["annotations"].values())
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOK}#{rule['alert'].lower()}"


def test_every_metric_is_documented_or_recorded_before_it_is_used() -> None:
    known = {*documented_rows(), "up"}
    for rule in RULES:
        used = set(re.findall(r"(?:\b\w+:)?\bsitecore_cdp_\w+(?::\w+)?|\bup\b(?=\{)", promql(rule)))
        # The argument of label_replace, and a record that looks at what it was in the evaluation before.
        assert used - {"sitecore_cdp_batch_", "sitecore_cdp_feed_", rule.get("record")} <= known, rule
        known.add(rule.get("record", "up"))


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_no_alert_has_its_cause_as_a_label(rule: dict[str, Any]) -> None:
    # Read later, it would make a second alert of the same failure.
    assert not re.search(r"error_log_records|failure_cause|\bcause\b", rule["expr"])


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("SitecoreCdpBatchFailed", WHY_RECORDS),
        ("SitecoreCdpBatchPartlyFailed", WHY_RECORDS),
        ("SitecoreCdpBatchCorrupted", {cause: WHY_BATCHES[cause] for cause in WHY_BATCHES if "checksum" in cause}),
    ],
)
def test_a_message_says_of_each_cause_what_the_page_of_a_batch_says(name: str, advice: Mapping[str, Advice]) -> None:
    for rule in (rule for rule in ALERTS if rule["alert"] == name):
        said = re.findall(r'\bif eq \S+ "(\w+)" }}(.*?) ?{{-', rule["annotations"]["description"])
        assert said == [(f"{cause}", f"{meaning} {action}") for cause, (meaning, action) in advice.items()]


def test_every_recorded_rule_is_used_by_a_later_one_or_by_a_dashboard() -> None:
    for number, rule in enumerate(RULES):
        if "record" in rule:
            users = [*map(promql, RULES[number + 1 :]), *(query for _, query in queries())]
            assert any(rule["record"] in user for user in users), rule["record"]


def test_every_reason_exists() -> None:
    assert matched("reason") > {"not_found"}
    assert matched("reason") <= {f"{reason}" for reason in Reason}


def test_every_kind_of_failure_has_an_alert() -> None:
    assert matched("kind") == set(FailureKind)


def test_the_ways_to_be_overdue_and_to_be_down_are_told_apart_by_a_label() -> None:
    whys = [(rule["alert"].removeprefix("SitecoreCdp"), why) for rule in ALERTS if (why := rule["labels"].get("why"))]
    assert whys == [("FeedStale", "nothing_uploaded"), ("FeedStale", "upload_failed"), ("ApiDown", "blind")]


def test_annotations_ask_few_queries_because_each_costs_as_much_as_an_expression() -> None:
    assert (DIRECTORY / "alerts.yml").read_text(encoding="utf-8").count("| query") <= 6


def test_every_recorded_series_is_documented() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").split("## Recorded series\n")[1].split("\n## ")[0]
    documented = re.findall(r"^\| `(\S+)` \|", section, re.MULTILINE)
    assert documented == [rule["record"] for rule in RULES if "record" in rule]


def test_what_names_a_process_is_left_out_as_a_whole() -> None:
    lists = {
        frozenset(names.split(", "))
        for rule in RULES
        for names in re.findall(r"\bwithout \((instance[^)]*)\)", rule["expr"])
    }
    process = {"instance", "pod", "endpoint", "container"}
    assert lists == {frozenset(process)} | {frozenset({*process, label}) for label in ("reason", "of", "status")}


def test_the_thresholds_are_those_that_the_documentation_names() -> None:
    numbers = Counter(
        number
        for rule in RULES
        for number in re.findall(r"(?:[<>]=?|time\(\) -) (\d{2,}|0\.\d+)\b", re.sub(r"#.*", "", rule["expr"]))
    )
    # Seven days for what a failure counts and is remembered.
    assert numbers == {"604800": 2, "0.05": 2, f"{MAX_UPLOAD_SECONDS:.0f}": 1, "7200": 1}


def expectations() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the checks of alerts_test.yml, each with its test."""
    return [(test, check) for test in TESTS for check in test["alert_rule_test"]]


@pytest.mark.parametrize("rule", ALERTS, ids=NAMES)
def test_every_alert_is_tested_to_fire_and_to_be_silent_just_before(rule: dict[str, Any]) -> None:
    def fires(check: dict[str, Any]) -> bool:
        severities = [alert["exp_labels"]["severity"] for alert in check.get("exp_alerts", ())]
        return bool(check["alertname"] == rule["alert"] and rule["labels"]["severity"] in severities)

    firing = [(test["name"], check["eval_time"]) for test, check in expectations() if fires(check)]
    silent = [
        (test["name"], check["eval_time"])
        for test, check in expectations()
        if check["alertname"] == rule["alert"] and not fires(check)
    ]
    assert {name for name, _ in firing} & {name for name, _ in silent}


def test_what_fires_is_compared_in_full() -> None:
    alerts = [alert for _, check in expectations() for alert in check.get("exp_alerts", ())]
    assert len(alerts) > len(ALERTS)
    assert all(set(alert["exp_annotations"]) == {"summary", "description", "runbook_url"} for alert in alerts)


def test_the_names_of_the_tests_differ() -> None:
    assert max(Counter(test["name"] for test in TESTS).values()) == 1
