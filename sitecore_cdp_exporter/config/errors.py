"""Format config errors as `file:line: path.to.key: message`, one line each.

A message says what is expected, never what was given, so it cannot leak a secret.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from sitecore_cdp_exporter.config.yaml import Place, YamlDocument, YamlPath, YamlProblem

# A missing space or a stray comma turns a secret into a key, as in `{password:1234}`. So a key is shown only if it
# looks like a word. Labels may contain digits; http2 is the only known key that does.
READABLE_KEY = re.compile("http2|[A-Za-z][A-Za-z_-]{0,31}")
READABLE_LABEL = re.compile("[^:=@]{0,64}")
HIDDEN_KEY = "<key>"

# Our wording of pydantic's errors, by their type.
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
}


def error_lines(path: Path, problems: Iterable[YamlProblem]) -> list[str]:
    """Format each problem as one line, in the order of the file."""
    return [_error_line(path, problem) for problem in sorted(problems, key=lambda problem: problem.line)]


def _error_line(path: Path, problem: YamlProblem) -> str:
    where = ":".join(str(part) for part in (path, problem.line, problem.column) if part is not None)
    return one_line(": ".join(part for part in (where, _key_path(problem.path), problem.message) if part))


def model_problems(
    error: ValidationError, document: YamlDocument, known_keys: Mapping[str, Sequence[str]], inside: YamlPath = ()
) -> list[YamlProblem]:
    """Locate pydantic's errors in the document, and word them.

    Args:
        error: What pydantic raised. It holds the values, so it is not passed on.
        document: What was validated.
        known_keys: The keys of each section, by its path.
        inside: The path of the validated part.

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
    return YamlProblem(place.line, found, message)


def _unknown_key(path: YamlPath, place: Place, known_keys: Mapping[str, Sequence[str]]) -> YamlProblem:
    """Suggest the key that was probably meant. A key without a value may be a value whose key got lost: hide it."""
    *section, name = path
    known = known_keys[".".join(part for part in section if isinstance(part, str))]
    if similar := difflib.get_close_matches(str(name).lower(), known, n=1):
        return YamlProblem(place.line, path, f"unknown key; did you mean {similar[0]}?")
    shown_path = (*section, HIDDEN_KEY) if place.is_empty else path
    return YamlProblem(place.line, shown_path, f"unknown key; expected one of {', '.join(known)}")


def _key_path(path: YamlPath) -> str:
    """Format a path: `batches[3].labels.team`."""
    text = ""
    for part, section in zip(path, (None, *path), strict=False):
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            readable = READABLE_LABEL if section == "labels" else READABLE_KEY
            key = part if readable.fullmatch(part) else HIDDEN_KEY
            text += f".{key}" if text else key
    return text


def one_line(text: str) -> str:
    """Escape unprintable characters: line breaks, and what controls a terminal or changes the order of its text."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
