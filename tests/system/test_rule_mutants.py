"""What counts as a small change of an alert rule. `make rule-mutants` shows that the rules' tests notice each."""

from pathlib import Path

import pytest

from tests.alert_files import DIRECTORY, RULES
from tools.rule_mutants import Trial, changed_words, dropped_clauses, mutants, needs

RULE = {"alert": "A", "expr": 'a{kind=~"x|y"} >= 0.05\nunless on (job) (b or c == 1)  # and a comment', "for": "2m"}


def test_each_clause_is_dropped_with_what_belongs_to_it() -> None:
    assert [" ".join(expression.split("#")[0].split()) for _, expression in dropped_clauses(RULE["expr"])] == [
        'a{kind=~"x|y"} >= 0.05',
        'a{kind=~"x|y"} >= 0.05 unless on (job) (b )',
    ]


def test_each_comparison_number_and_matcher_is_changed() -> None:
    assert [what for what, _ in changed_words(RULE["expr"])] == [
        "`>=` as `>`",
        "`>=` as `<`",
        "`==` as `!=`",
        "0.05 as 0.045",
        "0.05 as 0.055",
        "1 as 0",
        "1 as 2",
        'without kind=~"x|y"',
        'kind=~"x|y" without x',
        'kind=~"x|y" without y',
    ]


def test_how_long_an_alert_waits_is_changed() -> None:
    assert [mutant["for"] for _, mutant in mutants(RULE) if mutant["for"] != "2m"] == ["60s", "180s"]


def test_a_rule_is_tried_with_all_that_it_needs() -> None:
    assert needs(RULES, {"SitecoreCdpBatchStuck"}) >= {
        "job_ref:sitecore_cdp_batch_overdue_since_timestamp_seconds:last",
        "job_ref:sitecore_cdp_batch_status_code:unfinished",
    }


@pytest.mark.e2e
def test_the_tests_of_the_rules_notice_a_changed_rule_and_only_that(tmp_path: Path) -> None:
    trial = Trial(DIRECTORY, tmp_path)
    [number] = [number for number, rule in enumerate(RULES) if rule.get("alert") == "SitecoreCdpBatchCorrupted"]
    assert trial.survives(number, RULES[number])
    assert not trial.survives(number, {**RULES[number], "for": "2m"})
