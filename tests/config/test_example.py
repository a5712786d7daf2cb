"""`config.example.yaml`: it loads, it has every option with its true default, and editors find the schema."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sitecore_cdp_exporter.config.model import Config, load_config
from tests.config.schema import SECTIONS

ROOT = Path(__file__).parents[2]
EXAMPLE = (ROOT / "config.example.yaml").read_text()
# The second of two options that exclude each other.
ALTERNATIVES = r"username_file|password_file|proxy_from_environment|expect_success_by"
FIRST_OF_TWO = r"username|password|proxy_url|expect_success_every"


def uncommented(leave_out: str) -> str:
    """The example with every option set, except some of those that exclude each other."""
    without = re.sub(rf"(?m)^ *#({leave_out}):.*\n", "", EXAMPLE)
    return re.sub(r"(?m)^( *)#(?=\S)", r"\1", without)


def keys(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:  # noqa: ANN401  Any YAML.
    for key, value in data.items() if isinstance(data, dict) else ():
        yield f"{path}{key}", value
        yield from keys(value, f"{path}{key}.")


def test_the_example_loads_with_the_defaults() -> None:
    config = load_config(ROOT / "config.example.yaml")
    assert len(config.batches) == 2
    defaults = Config.model_validate({"api": {"base_url": config.api.base_url}})
    assert config.model_copy(update={"batches": ()}) == defaults


@pytest.mark.parametrize("leave_out", [ALTERNATIVES, FIRST_OF_TWO])
def test_every_option_of_the_example_can_be_set(leave_out: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(uncommented(leave_out))
    load_config(path)


def test_the_example_has_every_option_with_its_default() -> None:
    shown = dict([*keys(yaml.safe_load(uncommented(ALTERNATIVES))), *keys(yaml.safe_load(uncommented(FIRST_OF_TWO)))])
    for path, section in SECTIONS.items():
        # The items of lists have no defaults to show.
        if "[]" in path:
            continue
        for name, key in section["properties"].items():
            assert path + name in shown
            assert key.get("default") in (None, [], shown[path + name])
    assert set(shown["batches"][1]) == set(SECTIONS["batches[]."]["properties"])
    feed: dict[str, Any] = {}
    for leave_out in (ALTERNATIVES, FIRST_OF_TWO):
        feed |= yaml.safe_load(uncommented(leave_out))["feeds"][0]
    assert set(feed) == set(SECTIONS["feeds[]."]["properties"])
    assert set(feed["expect_success_by"]) == set(SECTIONS["feeds[].expect_success_by."]["properties"])
    for name, key in SECTIONS["feeds[]."]["properties"].items():
        if name in ("max_failed_ratio", "min_records", "next_success_resolves"):
            assert key["default"] == feed[name]


def test_the_example_names_the_schema_for_editors() -> None:
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", EXAMPLE)
    assert named is not None
    assert (ROOT / named[1]).is_file()
