"""`docs/configuration.md` against the models, both ways; its examples load, and mistakes give what it says."""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from sitecore_cdp_exporter.config.model import MAX_FILE_BYTES, ConfigError, load_config
from sitecore_cdp_exporter.config.names import RESERVED_LABELS
from tests.config.schema import SECTIONS
from tests.watch.test_batch_file import read_batch_file

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "configuration.md").read_text()
# What an item of a list needs at least.
LIST_ITEMS = {"batches": {"ref": "12af3453-62da-4b31-b646-631b7b5f3009"}, "feeds": {"name": "nightly-guests"}}
# What a section needs at least.
SECTIONS_NEED = {"expect_success_by": {"time": "23:30"}}
# What has to be set beside a key.
COMPANIONS = {
    "api.tls_config.cert_file": {"api.tls_config.key_file": "client.key"},
    "api.tls_config.key_file": {"api.tls_config.cert_file": "client.pem"},
    "discovery.enabled": {"api.endpoint": "inspect"},
    "feeds[].grace": {"feeds[].expect_success_every": "24h"},
}


class Row(NamedTuple):
    """A row of the tables: what stands in its cells, without the backticks."""

    key: str
    kind: str
    default: str
    example: str
    meaning: str
    mistake: str


ROWS = [
    Row(*(cell.strip() for cell in line.strip("|").split("|"))) for line in re.findall(r"(?m)^\| `(?!--|/).*\|$", TEXT)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for all rows: each writes the same file."""
    return tmp_path_factory.mktemp("config")


def unquoted(cell: str) -> str:
    return cell.strip("`")


def config_with(values: dict[str, str]) -> str:
    """A config with these keys set. JSON is YAML, so all but the values may be in JSON."""
    config: dict[str, Any] = {"api": {"base_url": "https://api.boxever.com"}}
    for key in values:
        *parents, name = key.split(".")
        section = config
        for parent in parents:
            if (items := parent.removesuffix("[]")) == parent:
                section = section.setdefault(parent, dict(SECTIONS_NEED.get(parent, {})))
            else:
                section = section.setdefault(items, [dict(LIST_ITEMS[items])])[0]
        section[name] = f"value of {key}"
    text = json.dumps(config)
    for key, value in values.items():
        text = text.replace(f'"value of {key}"', value)
    return text


def test_the_documentation_has_every_key_and_no_other() -> None:
    assert [unquoted(row.key) for row in ROWS] == [
        prefix + name for prefix, section in SECTIONS.items() for name in section["properties"]
    ]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_the_default_is_that_of_the_models(row: Row) -> None:
    prefix, dot, name = unquoted(row.key).rpartition(".")
    section = SECTIONS[prefix + dot]
    if name in section.get("required", ()):
        assert row.default == "required"
    else:
        default = section["properties"][name].get("default")
        assert yaml.safe_load(unquoted(row.default)) == default


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_the_example_of_a_key_loads(row: Row, folder: Path) -> None:
    text = config_with({unquoted(row.key): unquoted(row.example)} | COMPANIONS.get(unquoted(row.key), {}))
    path = folder / "config.yaml"
    path.write_text(text)
    load_config(path)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.key)
def test_a_mistake_gives_what_is_documented(row: Row, folder: Path) -> None:
    value, message = row.mistake.removeprefix("`").split("`: ")
    path = folder / "config.yaml"
    path.write_text(config_with({unquoted(row.key): value}))
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    (error,) = raised.value.errors
    assert message in error


def test_the_yaml_in_the_documentation_loads(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for block in re.findall(r"(?s)```yaml\n(api:.*?)```", TEXT):
        path.write_text(block)
        assert load_config(path).batches


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_the_sample_of_a_batch_file_has_no_mistake(suffix: str, tmp_path: Path) -> None:
    sample = re.findall(rf"(?s)```{suffix}\n(- .*?|\[.*?)```", TEXT)[-1]
    path = tmp_path / f"tonight.{suffix}"
    path.write_text(sample)
    batches, errors = read_batch_file(path)
    assert [(batch.feed, batch.labels) for batch in batches] == [(None, {}), ("nightly-guests", {"team": "crm"})]
    assert errors == ()


def test_the_sample_of_an_entry_that_replaces_another_has_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "tonight.yaml"
    (sample,) = re.findall(r"(?s)```yaml\n(- ref: .*?replaces.*?)```", TEXT)
    path.write_text(sample)
    batches, errors = read_batch_file(path)
    assert [batch.replaces for batch in batches] == [("5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11",)]
    assert errors == ()


def test_the_sample_of_errors_in_batch_files_is_true(tmp_path: Path) -> None:
    path = tmp_path / "tonight.yaml"
    ref = "3ee694e5-0b77-2d1e-af19-1aa78f500785"
    path.write_text(
        f"- {ref}\n- 12af3453\n- ref: 12af3453-62da-4b31-b646-631b7b5f3009\n  fed: guests\n- ref: {ref}\n  feed: x\n"
    )
    lines = [error.replace(str(path), "/etc/exporter/batches.d/tonight.yaml") for error in read_batch_file(path).errors]
    assert len(lines) == 3
    assert "\n".join(lines) in TEXT


def test_the_limit_of_a_batch_file_is_documented() -> None:
    assert f"{MAX_FILE_BYTES // 1024**2} MiB" in TEXT


def test_the_sample_of_errors_is_true(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "api:\n  base_url: https://api.boxever.com\n  timeout: 5\n  concurency: 4\nbatches:\n  - ref: nightly\n"
    )
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert str(raised.value).replace(str(tmp_path / "config.yaml"), "config.yaml") in TEXT


def test_the_reserved_labels_are_listed() -> None:
    (listed,) = re.findall(r"These are reserved: (.*), and all that begin with `__`", TEXT)
    assert tuple(re.findall("`(.*?)`", listed)) == RESERVED_LABELS
