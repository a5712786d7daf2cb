"""How the mistakes of a config file are told: each in one line with its place, and never with a secret in it."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sitecore_cdp_exporter.config.values import NOT_A_PATH
from sitecore_cdp_exporter.config.yaml import Place, YamlDocument, YamlPath, YamlProblem

# What stands under one of these keys is never shown, wherever the key is.
SECRET_KEYS = {"username", "password", "proxy_url"}
# Likewise a text that has swallowed such a key, a URL with credentials or a query, a bcrypt hash, or a private key.
SECRET_INSIDE = re.compile("|".join(SECRET_KEYS) + r"|[@?]|\$2[abxy]\$|-----BEGIN")
SECRET = "<secret>"  # noqa: S105  It stands for one.

LONGEST_SHOWN = 60
# A forgotten space or a comma too many makes a key of a secret, as in `{password:1234}`. So keys show only when they
# look like words; labels may have digits. Of the known keys just one has a digit.
READABLE_KEY = re.compile("http2|[A-Za-z][A-Za-z_-]{0,31}")
READABLE_LABEL = re.compile("[^:=@]+")
HIDDEN_KEY = "<key>"

# What pydantic's own checks expect, by the type of its error.
EXPECTED = {
    "missing": "is missing",
    "string_type": "expected a string",
    "is_instance_of": "expected a string",
    "too_short": "must not be empty",
    "bool_type": "expected true or false",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "greater_than_equal": "expected at least {ge}",
    "less_than_equal": "expected at most {le}",
    "literal_error": "expected {expected}",
    "dict_type": "expected a mapping",
    "model_type": "expected a mapping",
    "tuple_type": "expected a list",
    "value_error": "{error}",
    NOT_A_PATH: "expected the path of a file, which is one line, and not its content",
}
# A text where a mapping or a list should be is not shown: a secret without a space after its key is such a text. Nor is
# one where a path should be: it may be a key.
HIDDEN_TYPES = {"dict_type", "model_type", "tuple_type", NOT_A_PATH}


def error_lines(path: Path, problems: Iterable[YamlProblem]) -> list[str]:
    """Tell each problem in one line, in the order of the file."""
    return [_error_line(path, problem) for problem in sorted(problems, key=lambda problem: problem.line)]


def _error_line(path: Path, problem: YamlProblem) -> str:
    where = ":".join(str(part) for part in (path, problem.line, problem.column) if part is not None)
    return one_line(": ".join(part for part in (where, _key_path(problem.path), problem.message) if part))


def model_problems(
    error: ValidationError, document: YamlDocument, known_keys: Mapping[str, Sequence[str]], inside: YamlPath = ()
) -> list[YamlProblem]:
    """Find the places of pydantic's errors in the document, and word them.

    Args:
        error: What pydantic raised. It goes no further, because it holds the values.
        document: What was validated.
        known_keys: The keys of each section, by its path.
        inside: Where in the document the validated part is.

    """
    unread = {problem.path for problem in document.problems if problem.is_unread}
    details = error.errors(include_url=False, include_input=False)
    problems = [_model_problem(each, (*inside, *each["loc"]), document, known_keys) for each in details]
    return [problem for problem in problems if problem.path not in unread]


def _model_problem(
    error: ErrorDetails, path: YamlPath, document: YamlDocument, known_keys: Mapping[str, Sequence[str]]
) -> YamlProblem:
    found, place = document.locate(path)
    if error["type"] == "extra_forbidden":
        return _unknown_key(found, place, known_keys)
    if error["type"] == "missing":
        return YamlProblem(place.line, path, EXPECTED["missing"])
    message = EXPECTED[error["type"]].format_map(error.get("ctx", {}))
    if EXPECTED[error["type"]] == "expected a string" and place.is_plain:
        message += "; put it in quotes"
    return YamlProblem(place.line, found, message + _given(error, found, place))


def _unknown_key(path: YamlPath, place: Place, known_keys: Mapping[str, Sequence[str]]) -> YamlProblem:
    """Name an unknown key, but not its value. A key that holds nothing may itself be a value that lost its key."""
    *section, name = path
    known = known_keys[".".join(part for part in section if isinstance(part, str))]
    if similar := difflib.get_close_matches(str(name).lower(), known, n=1):
        return YamlProblem(place.line, path, f"unknown key; did you mean {similar[0]}?")
    shown_path = (*section, HIDDEN_KEY) if place.kind == "nothing" else path
    return YamlProblem(place.line, shown_path, f"unknown key; expected one of {', '.join(known)}")


def _given(error: ErrorDetails, path: YamlPath, place: Place) -> str:
    if error["loc"][-1:] == ("[key]",):
        return ""  # The key is wrong, not its value, and the path ends with the key.
    if error["type"] == "value_error" and place.kind == "a mapping":
        return ""  # The message is about its keys.
    return given(path, place, is_shown=error["type"] not in HIDDEN_TYPES)


def given(path: YamlPath, place: Place, *, is_shown: bool = True) -> str:
    """Tell in parentheses what stands at a place; only its kind where it is not to be shown, and never a secret."""
    if SECRET_KEYS.intersection(path) or SECRET_INSIDE.search(place.text or ""):
        return f" ({SECRET})"
    if place.text is None or not is_shown:
        return f" ({place.kind})"
    return f" ({_shortened(place.text)})" if place.is_plain else f' ("{_shortened(place.text)}")'


def _key_path(path: YamlPath) -> str:
    """Write a path as people do: `batches[3].labels.team`."""
    text = ""
    for part, section in zip(path, (None, *path), strict=False):
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            readable = READABLE_LABEL if section == "labels" else READABLE_KEY
            key = _shortened(part) if readable.fullmatch(part) else HIDDEN_KEY
            text += f".{key}" if text else key
    return text


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


def one_line(text: str) -> str:
    """Escape whatever does not print, line breaks for instance."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
