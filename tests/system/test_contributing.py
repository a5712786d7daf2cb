"""What contributors are told, and what they are asked for."""

import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
import yaml

from tools.exporter_program import ROOT

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
FORMS = [ROOT / ".github" / "ISSUE_TEMPLATE" / name for name in ("bug.yml", "feature.yml")]


def test_every_command_of_make_that_is_named_exists() -> None:
    named = set(re.findall(r"\bmake ([a-z-]+)(?=[`\n,;])", CONTRIBUTING))
    targets = set(re.findall(r"(?m)^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert {"demo", "test", "check", "release-files"} <= named
    assert named <= targets


def test_the_two_commands_are_those_of_the_readme() -> None:
    [first, *_] = re.findall(r"(?s)```sh\n(.*?)```", CONTRIBUTING)
    [of_readme, *_] = re.findall(r"(?s)```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert first == of_readme == "make demo\nmake test\n"


def test_the_floors_are_those_that_make_check_holds() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = reversed(settings["contracts"][0]["layers"])
    held = list(chain.from_iterable(layer.split(" | ") for layer in layers))
    shown = re.findall(r"`(\w+)`", "".join(re.findall(r"(?m)^\| (`.*?) \|", CONTRIBUTING.partition("| Floor")[2])))
    assert len(shown) == 8
    assert shown == [floor for floor in held if floor in shown]


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_github_wants(path: Path) -> None:
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    questions = [each for each in form["body"] if each["type"] != "markdown"]
    assert len({each["id"] for each in questions}) == len(questions) > 0
    assert {each["type"] for each in form["body"]} <= {"markdown", "textarea", "input", "dropdown"}
    assert all(each["attributes"]["label"] for each in questions)


def test_a_report_must_have_version_and_config_check_and_needs_no_secret() -> None:
    form = yaml.safe_load(FORMS[0].read_text(encoding="utf-8"))
    required = {each["id"]: each for each in form["body"] if each.get("validations", {}).get("required")}
    assert "--version" in required["version"]["attributes"]["description"]
    assert "--config.check" in required["config"]["attributes"]["label"]
    assert "no client key, no API token" in form["body"][0]["attributes"]["value"]
