"""Measure the power of the rules' tests: does one of them fail for each small change of a rule? Needs promtool.

A mutant drops one clause or one label matcher, or changes one comparison, number or duration. It is run with the rules
that it takes part in and with the tests of what depends on it: first those that noticed another mutant of its rule,
then the shortest.

    python -m tools.rule_mutants [PART OF A RULE'S NAME]
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[1] / "prometheus"
# Tests are run together until they take as many seconds of their own clock.
TOGETHER = 3600
COMPARISONS = {"==": ["!="], ">=": [">", "<"], "<=": ["<", ">"], ">": [">=", "<"], "<": ["<=", ">="]}
SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_OPERATOR = re.compile(r"\b(and|or|unless)\b")
_WORDS = re.compile(r'"[^"]*"|#[^\n]*')
_MATCHING = re.compile(r"^\s*(?:on|ignoring) \([^)]*\)")
_OF_ALERTS = re.compile(r'ALERTS\{alertname=~?"([^"]*)"')
_FAILED_TEST = re.compile(r"^ +name: (.*),$", re.MULTILINE)

Rule = dict[str, Any]
Test = dict[str, Any]


def masked(expression: str) -> str:
    """Return the expression with strings and comments blotted out, as long as before."""
    return _WORDS.sub(lambda match: "_" * len(match.group()), expression)


def operators(expression: str) -> list[tuple[int, int, str, int]]:
    """Return each set operator: where it starts and ends, what it is, and how many parentheses it is in."""
    text = masked(expression)
    depth = [0]
    for character in text:
        depth.append(depth[-1] + (character in "({[") - (character in ")}]"))
    return [(match.start(), match.end(), match.group(), depth[match.start()]) for match in _OPERATOR.finditer(text)]


def end_of_operand(expression: str, start: int, ends: set[int]) -> int:
    """Return where the operand from `start` on ends: at an operator, the end of its parentheses, or a comma in them."""
    text, level = masked(expression), 0
    for position in range(start, len(text)):
        level += (text[position] in "({[") - (text[position] in ")}]")
        if position in ends or level < 0 or (level == 0 and text[position] == ","):
            return position
    return len(text)


def start_of_operand(expression: str, end: int, starts: set[int]) -> int:
    """Return where the operand up to `end` starts: after an operator or the start of its parentheses."""
    text, level = masked(expression), 0
    for position in range(end, 0, -1):
        level += (text[position - 1] in ")}]") - (text[position - 1] in "({[")
        if position in starts or level < 0:
            return position
    return 0


def dropped_clauses(expression: str) -> Iterator[tuple[str, str]]:
    """Yield the expression without each operand of its set operators, the left one of `or` included."""
    found = operators(expression)
    for start, end, word, depth in found:
        binds = {"or"} if word == "or" else {"and", "or", "unless"}
        beside = [other for other in found if other[3] == depth and other[2] in binds]
        stop = end_of_operand(expression, end, {other[0] for other in beside if other[0] > start})
        yield f"without `{words(expression[start:stop])}`", f"{expression[:start]}\n{expression[stop:]}"
        if word == "or":
            first = start_of_operand(expression, start, {other[1] for other in beside if other[0] < start})
            if not expression[:first].endswith("or"):
                right = _MATCHING.sub("", expression[end:], count=1)
                yield f"without `{words(expression[first:end])}`", f"{expression[:first]}\n{right}"


def words(expression: str) -> str:
    """Return the expression in one line."""
    return " ".join(expression.split())


def changed_words(expression: str) -> Iterator[tuple[str, str]]:
    """Yield the expression with each comparison, number, duration and label matcher changed."""
    for match, what, other in changes(expression):
        line = expression.count("\n", 0, match.start()) + 1
        yield f"line {line}: {what}", expression[: match.start()] + other + expression[match.end() :]


def changes(expression: str) -> Iterator[tuple[re.Match[str], str, str]]:
    """Yield each word that is changed, what is changed in it, and the word after that."""
    text = masked(expression)
    for match in re.finditer(r"(?<![=!~<>])(==|>=|<=|>|<)(?![=~])", text):
        for other in COMPARISONS[match.group()]:
            yield match, f"`{match.group()}` as `{other}`", other
    for match in re.finditer(r"(?<=[<>=+\-(] )\b\d+(?:\.\d+)?\b(?! \*)", text):
        for changed in beside(float(match.group())):
            yield match, f"{match.group()} as {changed:g}", repr(changed)
    for match in re.finditer(r"\[(\d+)([hm])\]", expression):
        yield match, f"{match.group()} shorter", f"[{int(match[1])}s]"
    for match in re.finditer(r'(\w+)(=~|!~|!=|=)"([^"]*)"', expression):
        name, operator, values = match.groups()
        if name in {"job", "alertname"}:
            continue
        if name != "__name__":  # a selector needs a name
            yield match, f"without {match.group()}", f'{name}=~".*"'
        for value in values.split("|") if operator in {"=~", "!~"} else []:
            rest = "|".join(each for each in values.split("|") if each != value)
            yield match, f"{match.group()} without {value}", f'{name}{operator}"{rest}"'


def beside(number: float) -> list[float]:
    """Return the numbers that one is changed to. Small whole numbers are counts, codes, or stand for yes and no."""
    if number == 0:
        return [1.0]
    if number < 10 and number.is_integer():
        return [number - 1, number + 1]
    return [number * 0.9, number * 1.1]


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


def title_of(rule: Rule) -> str:
    """Return the name of a rule with what sets it apart from others of that name."""
    labels = rule.get("labels", {})
    return " ".join([name_of(rule), *(labels[key] for key in ("severity", "why") if key in labels)])


def needs(rules: list[Rule], names: set[str]) -> set[str]:
    """Return the names of the rules whose series some rules read, by themselves or by others, and theirs."""
    text = " ".join(str(rule) for rule in rules if name_of(rule) in names)
    alerts = "|".join(_OF_ALERTS.findall(text))
    more = {
        name_of(rule)
        for rule in rules
        if (rule["record"] in text if "record" in rule else re.fullmatch(alerts, rule["alert"]))
    }
    return names if more <= names else needs(rules, names | more)


def depends(rules: list[Rule], name: str) -> set[str]:
    """Return the names of the rules that read the series of a rule, by themselves or by others, and its own."""
    return {each for each in map(name_of, rules) if name in needs(rules, {each})}


def concerning(tests: list[Test], names: set[str]) -> list[Test]:
    """Return the tests of some rules, without what they expect of others, the shortest first."""
    found = []
    for test in tests:
        alerts = [check for check in test.get("alert_rule_test", []) if check["alertname"] in names]
        series = [check for check in test.get("promql_expr_test", []) if any(name in check["expr"] for name in names)]
        if alerts or series:
            found.append({**test, "alert_rule_test": alerts, "promql_expr_test": series})
    return sorted(found, key=length)


def length(test: Test) -> int:
    """Return how many seconds of its own clock a test takes."""
    return max(seconds(check["eval_time"]) for check in [*test["alert_rule_test"], *test["promql_expr_test"]])


def seconds(duration: str) -> int:
    """Return a duration of Prometheus in seconds."""
    return sum(int(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+)([dhms])", duration))


def together(tests: list[Test]) -> Iterator[list[Test]]:
    """Yield the tests in the parts that are run together."""
    part: list[Test] = []
    for test in tests:
        part.append(test)
        if sum(map(length, part)) >= TOGETHER:
            yield part
            part = []
    if part:
        yield part


class Trial:
    """The mutants of one rule, and the tests that may notice them."""

    def __init__(self, rules: list[Rule], number: int, tests: list[Test]) -> None:
        names = depends(rules, name_of(rules[number]))
        kept = needs(rules, names)
        self._rule = rules[number]
        self._before = [rule for rule in rules[:number] if name_of(rule) in kept]
        self._after = [rule for rule in rules[number + 1 :] if name_of(rule) in kept]
        self._tests = concerning(tests, names)
        self._noticed: set[str] = set()
        self.mutants = list(mutants(self._rule))

    def survives(self, mutant: Rule) -> bool:
        """Return whether no test fails for a mutant.

        Raises:
            ValueError: A test fails for the rule as it is, so that it says nothing of the mutant.
        """
        known = [test for test in self._tests if test["name"] in self._noticed]
        others = [test for test in self._tests if test not in known]
        for part in [*together(known), *together(others)]:
            if failed := self._failed(mutant, part):
                new = [test for test in part if test["name"] in failed - self._noticed]
                if new and self._failed(self._rule, new):
                    raise ValueError(f"tests fail without a mutant: {', '.join(failed)}")
                self._noticed |= failed
                return False
        return True

    def _failed(self, rule: Rule, tests: list[Test]) -> set[str]:
        """Return the names of the tests that fail with the rule in its place."""
        rules = {"groups": [{"name": "rules", "rules": [*self._before, rule, *self._after]}]}
        content = {"rule_files": ["rules.json"], "evaluation_interval": "1m", "tests": tests}
        done = promtool(["test", "rules", "tests.json"], {"rules.json": rules, "tests.json": content})
        if "parse error" in done.stderr:
            raise ValueError(done.stderr)
        # Where a series is not as expected, promtool does not name the test.
        named = set(_FAILED_TEST.findall(done.stderr))
        return named or ({test["name"] for test in tests} if done.returncode else set())


def promtool(arguments: list[str], files: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Run promtool where the files are, which it reads as YAML."""
    with tempfile.TemporaryDirectory() as directory:
        for name, content in files.items():
            (Path(directory) / name).write_text(json.dumps(content), encoding="utf-8")
        return subprocess.run(  # noqa: S603  The arguments are those below.
            ["promtool", *arguments],  # noqa: S607  It is found on the PATH.
            cwd=directory,
            capture_output=True,
            text=True,
            check=False,
        )


def refuse_broken(trials: list[Trial]) -> None:
    """Raise ValueError if Prometheus could not load one of the mutants, which would be no kill."""
    groups = [
        {"name": f"{number}.{index} {what}", "rules": [mutant]}
        for number, trial in enumerate(trials)
        for index, (what, mutant) in enumerate(trial.mutants)
    ]
    done = promtool(["check", "rules", "rules.json"], {"rules.json": {"groups": groups}})
    if done.returncode:
        raise ValueError(done.stderr)


def main(part: str = "") -> int:
    """Report for each rule how many of its mutants were killed, and which were not."""
    started = time.monotonic()
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text(encoding="utf-8"))["groups"]
    tests = yaml.safe_load((FOLDER / "alerts_test.yml").read_text(encoding="utf-8"))["tests"]
    rules = [rule for group in groups for rule in group["rules"]]
    trials = {title_of(rule): Trial(rules, number, tests) for number, rule in enumerate(rules) if part in name_of(rule)}
    refuse_broken(list(trials.values()))
    total, done, survived = sum(len(trial.mutants) for trial in trials.values()), 0, 0
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for title, trial in trials.items():
            alive = list(threads.map(trial.survives, [mutant for _, mutant in trial.mutants]))
            done, survived = done + len(alive), survived + sum(alive)
            print(f"{done:4} of {total}  {title}: {len(alive) - sum(alive)} of {len(alive)} killed", flush=True)
            for (what, _), survives in zip(trial.mutants, alive, strict=True):
                if survives:
                    print(f"             survives: {what}", flush=True)
    print(f"{total - survived} of {total} mutants killed in {time.monotonic() - started:.0f} s")
    return int(survived > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
