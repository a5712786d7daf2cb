"""Measure the power of the rules' tests: does one of them fail for each small change of a rule? Needs promtool.

A mutant drops one clause or one label matcher, or changes one comparison, number or duration. It is run with the rules
that it takes part in and with the tests of their alerts, cheapest first, until one fails.

    python -m tools.rule_mutants [PART OF A RULE'S NAME]
"""

import copy
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "prometheus"
# Seconds of the tests' clock that are evaluated before the remaining tests.
FIRST_TESTS = 6 * 3600
COMPARISONS = {"==": ["!="], ">=": [">", "<"], "<=": ["<", ">"], ">": [">=", "<"], "<": ["<=", ">="]}
SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_OPERATOR = re.compile(r"\b(and|or|unless)\b")
_WORDS = re.compile(r'"[^"]*"|#[^\n]*')

Rule = dict[str, Any]


def operators(expression: str) -> list[tuple[int, int, str, int]]:
    """Return each set operator: where it starts and ends, what it is, and how many parentheses it is in."""
    masked = _WORDS.sub(lambda match: "_" * len(match.group()), expression)
    depth = [0]
    for character in masked:
        depth.append(depth[-1] + (character in "({[") - (character in ")}]"))
    return [(match.start(), match.end(), match.group(), depth[match.start()]) for match in _OPERATOR.finditer(masked)]


def extent(expression: str, start: int, depth: int, ends: set[int]) -> int:
    """Return where an operand ends: at one of the operators, or with the parentheses around it."""
    masked, level = _WORDS.sub(lambda match: "_" * len(match.group()), expression), depth
    for position in range(start, len(masked)):
        if position in ends:
            return position
        level += (masked[position] in "({[") - (masked[position] in ")}]")
        if level < depth:
            return position
    return len(masked)


def dropped_clauses(expression: str) -> Iterator[tuple[str, str]]:
    """Yield the expression without each operand of its set operators, the left one of `or` included."""
    found = operators(expression)
    for start, end, word, depth in found:
        binds = {"or"} if word == "or" else {"and", "or", "unless"}
        ends = {other[0] for other in found if other[3] == depth and other[0] > start and other[2] in binds}
        stop = extent(expression, end, depth, ends)
        clause = " ".join(expression[start:stop].split())
        yield f"without `{clause}`", f"{expression[:start]}\n{expression[stop:]}"


def changed_words(expression: str) -> Iterator[tuple[str, str]]:
    """Yield the expression with each comparison, number, duration and label matcher changed."""
    for match in re.finditer(
        r"(?<![=!~<>])(==|>=|<=|>|<)(?![=~])", _WORDS.sub(lambda m: "_" * len(m.group()), expression)
    ):
        for other in COMPARISONS[match.group()]:
            yield f"`{match.group()}` as `{other}`", expression[: match.start()] + other + expression[match.end() :]
    for match in re.finditer(
        r"(?<=[<>=+\-(] )\b\d+(?:\.\d+)?\b(?! \*)", _WORDS.sub(lambda m: "_" * len(m.group()), expression)
    ):
        number = float(match.group())
        for changed in {1.0: [0.0, 2.0], 0.0: [1.0]}.get(number) or [number * 0.9, number * 1.1]:
            yield (
                f"{match.group()} as {changed:g}",
                expression[: match.start()] + repr(changed) + expression[match.end() :],
            )
    for match in re.finditer(r"\[(\d+)([hm])\]", expression):
        yield f"{match.group()} shorter", f"{expression[: match.start()]}[{int(match[1])}s]{expression[match.end() :]}"
    for match in re.finditer(r'(\w+)(=~|!~|!=|=)"([^"]*)"', expression):
        name, operator, values = match.groups()
        if name in {"job", "alertname"}:
            continue
        without = expression[: match.start()] + f'{name}=~".*"' + expression[match.end() :]
        yield f"without {match.group()}", without
        for value in values.split("|") if operator in {"=~", "!~"} else []:
            rest = "|".join(each for each in values.split("|") if each != value)
            yield f"{match.group()} without {value}", expression.replace(match.group(), f'{name}{operator}"{rest}"', 1)


def mutants(rule: Rule) -> Iterator[tuple[str, Rule]]:
    """Yield each mutant of a rule, with what is changed."""
    for what, expression in [*dropped_clauses(rule["expr"]), *changed_words(rule["expr"])]:
        yield what, {**rule, "expr": expression}
    for key in ("for", "keep_firing_for"):
        if key in rule:
            number, unit = int(rule[key][:-1]), rule[key][-1]
            for seconds in (number * SECONDS[unit] - 60, number * SECONDS[unit] + 60):
                yield f"{key}: {rule[key]} as {seconds}s", {**rule, key: f"{seconds}s"}


def name_of(rule: Rule) -> str:
    """Return what a rule records, or its alert."""
    return str(rule.get("record") or rule["alert"])


def needs(rules: list[Rule], names: set[str]) -> set[str]:
    """Return the names of the recorded series that some rules need, by themselves or by others."""
    text = " ".join(str(rule) for rule in rules if name_of(rule) in names)
    more = {name_of(rule) for rule in rules if "record" in rule and rule["record"] in text}
    return names if more <= names else needs(rules, names | more)


def seconds(duration: str) -> int:
    """Return a duration of Prometheus in seconds."""
    return sum(int(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+)([dhms])", duration))


class Trial:
    """Runs mutants against the tests of their alerts."""

    def __init__(self, folder: Path, directory: Path) -> None:
        self.directory = directory
        self.rules: list[Rule] = yaml.safe_load((folder / "alerts.yml").read_text(encoding="utf-8"))["groups"][0][
            "rules"
        ]
        self.tests: list[dict[str, Any]] = yaml.safe_load((folder / "alerts_test.yml").read_text(encoding="utf-8"))[
            "tests"
        ]
        self._count = 0

    def survives(self, number: int, mutant: Rule) -> bool:
        """Return whether no test fails for a mutant of the rule with this number."""
        rules = [*self.rules[:number], mutant, *self.rules[number + 1 :]]
        name = name_of(mutant)
        alerts = (
            {name}
            if "alert" in mutant
            else {rule["alert"] for rule in rules if "alert" in rule and name in needs(rules, {rule["alert"]})}
        )
        kept = needs(rules, alerts)
        tests = []
        for test in self.tests:
            checks = [check for check in test["alert_rule_test"] if check["alertname"] in alerts]
            if checks:
                tests.append(copy.copy(test) | {"alert_rule_test": checks})
        tests.sort(key=lambda test: max(seconds(check["eval_time"]) for check in test["alert_rule_test"]))
        rules = [rule for rule in rules if name_of(rule) in kept]
        while tests:
            time, part = 0, list[dict[str, Any]]()
            while tests and (not part or time < FIRST_TESTS):
                part.append(tests.pop(0))
                time += max(seconds(check["eval_time"]) for check in part[-1]["alert_rule_test"])
            if not self._passes(rules, part):
                return False
        return True

    def _passes(self, rules: list[Rule], tests: list[dict[str, Any]]) -> bool:
        self._count += 1
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        (directory / "rules.yml").write_text(
            yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}), encoding="utf-8"
        )
        content = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": tests}
        (directory / "tests.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
        done = subprocess.run(
            ["promtool", "test", "rules", "tests.yml"],  # noqa: S607  It is found on the PATH.
            cwd=directory,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0


def main(part: str = "") -> int:
    """Report each mutant that survives, and how many do."""
    with tempfile.TemporaryDirectory() as directory:
        trial = Trial(FOLDER, Path(directory))
        trials = [
            (number, what, mutant)
            for number, rule in enumerate(trial.rules)
            if part in name_of(rule)
            for what, mutant in mutants(rule)
        ]
        survived = 0
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            alive = threads.map(lambda each: trial.survives(each[0], each[2]), trials)
            for (number, what, _), survives in zip(trials, alive, strict=True):
                survived += survives
                if survives:
                    rule = trial.rules[number]
                    print(f"{name_of(rule)} {rule.get('labels', '')}: {what}", flush=True)
        print(f"{len(trials)} mutants, {len(trials) - survived} killed, {survived} survived")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
