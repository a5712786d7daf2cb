"""One batch file: a list like `batches` of the config file, in YAML or JSON."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from sitecore_cdp_exporter.config.errors import error_lines, given, model_problems
from sitecore_cdp_exporter.config.files import read_regular_file
from sitecore_cdp_exporter.config.model import WatchedBatch
from sitecore_cdp_exporter.config.yaml import YamlDocument, YamlProblem, read_yaml

# Room for 50,000 batches with feed and labels. A file of this size takes seconds to parse.
LARGEST_FILE = 10 * 1024 * 1024

KNOWN_KEYS = {"": tuple(WatchedBatch.model_fields)}


class BatchFileError(Exception):
    """Nothing can be made of what is in a batch file. The text is one line: `file:line:column: what is wrong`."""


class BatchFile(NamedTuple):
    """What is in a batch file: its good entries, in their order, and a line for each mistake in the others.

    A line is `file:line: [3].ref: what is wrong (what was given)`. No ref is twice in `batches`, in either case.
    """

    batches: tuple[WatchedBatch, ...] = ()
    errors: tuple[str, ...] = ()


def read_content(path: Path) -> bytes:
    """Read the bytes of a batch file. Raises OSError."""
    return read_regular_file(path, LARGEST_FILE)


def parse_batch_file(path: Path, content: bytes) -> BatchFile:
    """Make a BatchFile of its bytes. Raises BatchFileError for what is not YAML, or not a list."""
    document = read_yaml(content)
    if problem := _problem_of_all(document):
        raise BatchFileError(*error_lines(path, [problem]))
    batches, problems = _validate(document)
    problems += _conflicts(document, batches)
    watched: dict[str, WatchedBatch] = {}
    for batch in batches.values():
        watched.setdefault(batch.ref.lower(), batch)
    return BatchFile(tuple(watched.values()), tuple(error_lines(path, [*document.problems, *problems])))


def is_same(batch: WatchedBatch, other: WatchedBatch) -> bool:
    """Whether two entries for a ref say the same of it."""
    return (batch.feed, batch.labels) == (other.feed, other.labels)


def _problem_of_all(document: YamlDocument) -> YamlProblem | None:
    for problem in document.problems:
        if not problem.path:
            return problem
    if document.data is None or isinstance(document.data, list):
        return None
    return YamlProblem(
        document.place.line, (), "expected a list of batches" + given((), document.place, is_shown=False)
    )


def _validate(document: YamlDocument) -> tuple[dict[int, WatchedBatch], list[YamlProblem]]:
    """Return the good entries, by their place in the list, and what is wrong with the others."""
    batches: dict[int, WatchedBatch] = {}
    problems: list[YamlProblem] = []
    misread = {problem.path[0] for problem in document.problems}
    items = document.data if isinstance(document.data, list) else []
    for index, item in enumerate(items):
        try:
            batch = WatchedBatch.model_validate(item)
        except ValidationError as error:
            problems += model_problems(error, document, KNOWN_KEYS, inside=(index,))
        else:
            if index not in misread:
                batches[index] = batch
    return batches, problems


def _conflicts(document: YamlDocument, batches: dict[int, WatchedBatch]) -> Iterable[YamlProblem]:
    """Find entries that say something else of a ref than an entry before them."""
    first: dict[str, int] = {}
    for index, batch in batches.items():
        earlier = first.setdefault(batch.ref.lower(), index)
        if not is_same(batch, batches[earlier]):
            path, place = document.locate((index, "ref"))
            message = f"duplicate ref with another feed or other labels; [{earlier}] counts ({batch.ref})"
            yield YamlProblem(place.line, path, message)
