"""What counts as a small change of an alert rule. `make rule-mutants` shows that the rules' tests notice each."""

from typing import Any

import pytest

from tests.alert_files import RULES
from tools.rule_mutants import (
    Trial,
    changed_words,
    concerning,
    depends,
    dropped_clauses,
    length,
    mutants,
    needs,
    refuse_broken,
    together,
)

RULE = {"alert": "A", "expr": 'a{kind=~"x|y"} >= 0.05\nunless on (job) (b or c == 1)  # and a comment', "for": "2m"}


def test_each_clause_is_dropped_with_what_belongs_to_it() -> None:
    assert [" ".join(expression.split("#")[0].split()) for _, expression in dropped_clauses(RULE["expr"])] == [
        'a{kind=~"x|y"} >= 0.05',
        'a{kind=~"x|y"} >= 0.05 unless on (job) (b )',
        'a{kind=~"x|y"} >= 0.05 unless on (job) ( c == 1)',
    ]


def test_the_first_of_several_alternatives_is_dropped_with_the_labels_that_it_is_matched_by() -> None:
    assert [" ".join(expression.split()) for _, expression in dropped_clauses("a and b or on (job) c or d")] == [
        "a or on (job) c or d",
        "a and b or d",
        "c or d",
        "a and b or on (job) c",
    ]


def test_a_clause_ends_where_its_argument_ends() -> None:
    assert [
        " ".join(mutant.split()) for _, mutant in dropped_clauses('label_replace(a and on (x, y) b, "c", "d")')
    ] == ['label_replace(a , "c", "d")']


def test_each_comparison_number_and_matcher_is_changed() -> None:
    assert [what for what, _ in changed_words(RULE["expr"])] == [
        "line 1: `>=` as `>`",
        "line 1: `>=` as `<`",
        "line 2: `==` as `!=`",
        "line 1: 0.05 as 0.045",
        "line 1: 0.05 as 0.055",
        "line 2: 1 as 0",
        "line 2: 1 as 2",
        'line 1: without kind=~"x|y"',
        'line 1: kind=~"x|y" without x',
        'line 1: kind=~"x|y" without y',
    ]


def test_how_long_an_alert_waits_is_changed() -> None:
    assert [mutant["for"] for _, mutant in mutants(RULE) if mutant["for"] != "2m"] == ["60s", "180s"]


def test_a_rule_is_tried_with_all_that_it_needs() -> None:
    assert needs(RULES, {"SitecoreCdpBatchStuck"}) >= {
        "job_ref:sitecore_cdp_batch_overdue_since_timestamp_seconds:last",
        "job_ref:sitecore_cdp_batch_poll_success:failing",
    }


def test_what_reads_the_state_of_an_alert_needs_its_rule() -> None:
    rules = [
        {"record": "r", "expr": 'a unless ALERTS{alertname=~"B(Partly)?Failed"}'},
        {"alert": "BFailed", "expr": "b"},
    ]
    assert needs(rules, {"r"}) == {"r", "BFailed"}
    assert depends(rules, "BFailed") == {"r", "BFailed"}


TESTS: list[dict[str, Any]] = [
    {"name": "long", "alert_rule_test": [{"alertname": "A", "eval_time": "1h"}]},
    {"name": "of another", "alert_rule_test": [{"alertname": "B", "eval_time": "5m"}]},
    {
        "name": "short",
        "alert_rule_test": [{"alertname": "A", "eval_time": "1m"}, {"alertname": "B", "eval_time": "3h"}],
    },
    {"name": "of series", "promql_expr_test": [{"expr": "rate(r[1m])", "eval_time": "90s"}]},
]


def test_what_concerns_a_rule_is_tested_the_shortest_first() -> None:
    assert [(test["name"], length(test)) for test in concerning(TESTS, {"A", "r"})] == [
        ("short", 60),
        ("of series", 90),
        ("long", 3600),
    ]


def test_short_tests_are_run_together_and_long_ones_alone() -> None:
    short, of_series, long = concerning(TESTS, {"A", "r"})
    assert list(together([short, of_series, long, long, short])) == [[short, of_series, long], [long], [short]]


@pytest.mark.e2e
def test_prometheus_can_load_every_mutant() -> None:
    refuse_broken([Trial(RULES, number, []) for number in range(len(RULES))])
    with pytest.raises(ValueError, match="parse error"):
        refuse_broken([Trial([{"alert": "A", "expr": "sum(", "for": "2m"}], 0, [])])


def trial_of(expected: str) -> Trial:
    """Return the trial of a rule that fires with `a` after a minute, and of a test that expects it at `expected`."""
    check = {"alertname": "A", "eval_time": expected, "exp_alerts": [{"exp_labels": {}}]}
    before = {"alertname": "A", "eval_time": "0m"}
    test = {
        "name": "It fires",
        "interval": "1m",
        "input_series": [{"series": "a", "values": "1x9"}],
        "alert_rule_test": [before, check],
    }
    return Trial([{"alert": "A", "expr": "a", "for": "1m"}], 0, [test])


@pytest.mark.e2e
def test_the_concerning_the_rules_notice_a_changed_rule_and_only_that() -> None:
    trial = trial_of("1m")
    assert trial.survives({"alert": "A", "expr": "a == 1", "for": "1m"})
    assert not trial.survives({"alert": "A", "expr": "a", "for": "2m"})


@pytest.mark.e2e
def test_a_test_that_fails_by_itself_kills_no_mutant() -> None:
    with pytest.raises(ValueError, match="fail without a mutant: It fires"):
        trial_of("0m").survives({"alert": "A", "expr": "a", "for": "2m"})


@pytest.mark.e2e
def test_a_rule_that_cannot_be_loaded_counts_as_no_kill() -> None:
    with pytest.raises(ValueError, match="parse error"):
        trial_of("1m").survives({"alert": "A", "expr": "sum(", "for": "1m"})
