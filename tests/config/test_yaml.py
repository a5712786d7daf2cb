"""YAML text as data with places. What the config file makes of it is tested in `test_model.py`."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sitecore_cdp_exporter.config.yaml import YamlDocument, YamlPath, read_yaml

# PyYAML writes U+0085 as itself when all of Unicode is allowed, and then reads it as a line break.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\x85"))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
DATA = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=20)


@given(data=DATA, is_flow=st.booleans())
def test_data_is_read_as_pyyaml_reads_it(data: object, is_flow: bool) -> None:  # noqa: FBT001  Hypothesis names it.
    text = yaml.safe_dump(data, default_flow_style=is_flow, allow_unicode=True)
    document = read_yaml(text)
    assert document.problems == []
    assert document.data == yaml.safe_load(text) == data


@given(keys=st.lists(st.text(alphabet="abcdef", min_size=1), unique=True, min_size=1), blank_lines=st.integers(0, 3))
def test_a_value_is_found_on_the_line_of_its_key(keys: list[str], blank_lines: int) -> None:
    between = "\n" * (blank_lines + 1)
    document = read_yaml(between.join(f"{key}: 'x'" for key in keys))
    lines = [document.locate((key,))[1].line for key in keys]
    assert lines == [1 + index * (blank_lines + 1) for index in range(len(keys))]


TEXT = """\
# A comment.
first:
  list:
    - one
    -
      two: 2
  text: "a b"
  below:
    c
  folded: >
    d
  empty:
second: &anchor {inner: x}
third: *anchor
fourth:
  <<: *anchor
  own: y
"""


@pytest.mark.parametrize(
    ("path", "found", "line"),
    [
        ((), (), 2),
        (("first",), ("first",), 2),
        (("first", "list"), ("first", "list"), 3),
        (("first", "list", 0), ("first", "list", 0), 4),
        (("first", "list", 0, "ref"), ("first", "list", 0), 4),
        (("first", "list", 1, "two"), ("first", "list", 1, "two"), 6),
        (("first", "text"), ("first", "text"), 7),
        (("first", "below"), ("first", "below"), 8),
        (("first", "folded"), ("first", "folded"), 10),
        (("first", "empty"), ("first", "empty"), 12),
        (("second", "inner"), ("second", "inner"), 13),
        (("third",), ("third",), 14),
        (("third", "inner"), ("third", "inner"), 13),
        (("fourth", "inner"), ("fourth", "inner"), 13),
        (("fourth", "own"), ("fourth", "own"), 17),
        (("first", "none"), ("first",), 2),
    ],
)
def test_a_place_has_the_line_of_its_key_or_item(path: YamlPath, found: YamlPath, line: int) -> None:
    document = read_yaml(TEXT)
    assert document.problems == []
    where, place = document.locate(path)
    assert (where, place.line) == (found, line)


@pytest.mark.parametrize("text", ["5", "true", "~", "x"])
def test_quotes_keep_a_scalar_from_being_plain(text: str) -> None:
    def place_of(document: YamlDocument) -> bool:
        return document.locate(("key",))[1].is_plain

    assert place_of(read_yaml(f"key: {text}"))
    assert not place_of(read_yaml(f"key: '{text}'"))


@pytest.mark.parametrize("text", ["2024-01-01", "2024-01-01T00:00:00Z", "2024-13-45", "=", "0o17", "1e3"])
def test_what_is_not_a_null_boolean_or_number_stays_text(text: str) -> None:
    assert read_yaml(f"key: {text}").data == {"key": text}


def test_every_duplicate_is_found_and_the_first_value_is_kept() -> None:
    document = read_yaml("a: 1\nb: [{c: 1, c: 2}]\na: 3\na: 4\n")
    assert document.data == {"a": 1, "b": [{"c": 1}]}
    assert [(problem.line, problem.path) for problem in document.problems] == [
        (2, ("b", 0, "c")),
        (3, ("a",)),
        (4, ("a",)),
    ]


def test_a_quoted_merge_key_is_a_key_like_any_other() -> None:
    document = read_yaml("a: &a {x: 1}\nb: {'<<': *a}\nc: {<<: *a}\n")
    assert document.data == {"a": {"x": 1}, "b": {"<<": {"x": 1}}, "c": {"x": 1}}
    assert [problem.path for problem in read_yaml("a: &a {x: 1}\nb: {<<: *a, <<: *a}\n").problems] == [("b", "<<")]


def test_the_column_of_a_syntax_error_counts_characters() -> None:
    (problem,) = read_yaml("a: 1\nü: é @ b: c\n").problems
    assert (problem.line, problem.column) == (2, 9)
    (problem,) = read_yaml("a: 1\nü: é\x00\n").problems
    assert (problem.line, problem.column) == (2, 5)
