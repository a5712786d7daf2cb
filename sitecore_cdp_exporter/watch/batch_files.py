"""The batch files that the globs in the config file match. They may appear, change and vanish at any time.

A batch file is a list like `batches` of the config file, in YAML or JSON.
"""

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from sitecore_cdp_exporter.config.errors import error_lines, model_problems, one_line
from sitecore_cdp_exporter.config.files import BackgroundLook, digest, read_regular_file, why_unread
from sitecore_cdp_exporter.config.model import MAX_FILE_BYTES, WatchedBatch
from sitecore_cdp_exporter.config.yaml import YamlDocument, YamlProblem, read_yaml

logger = logging.getLogger(__name__)

# Log at most this many errors per file and refresh, and at most this many conflicts per refresh.
MAX_WARNINGS = 20

KNOWN_KEYS = {"": tuple(WatchedBatch.model_fields)}


class BatchFileError(Exception):
    """The file does not contain a list of batches. The message is one line: `file:line:column: message`."""


class BatchFile(NamedTuple):
    """The content of a batch file: its valid entries, in order, and a line for each mistake in the others.

    A line is `file:line: [3].ref: message`. Refs in `batches` are unique, ignoring case.
    """

    batches: tuple[WatchedBatch, ...] = ()
    errors: tuple[str, ...] = ()


def parse_batch_file(path: Path, content: bytes) -> BatchFile:
    """Parse the content of a batch file. Raises BatchFileError if it is not YAML, or not a list."""
    document = read_yaml(content)
    if problem := _fatal_problem(document):
        raise BatchFileError(*error_lines(path, [problem]))
    batches, problems = _validate(document)
    problems += _contradictions(document, batches)
    watched: dict[str, WatchedBatch] = {}
    for batch in batches.values():
        watched.setdefault(batch.ref.lower(), batch)
    return BatchFile(tuple(watched.values()), tuple(error_lines(path, [*document.problems, *problems])))


def _fatal_problem(document: YamlDocument) -> YamlProblem | None:
    for problem in document.problems:
        if not problem.path:
            return problem
    if document.data is None or isinstance(document.data, list):
        return None
    return YamlProblem(document.place.line, (), "expected a list of batches")


def _validate(document: YamlDocument) -> tuple[dict[int, WatchedBatch], list[YamlProblem]]:
    """Return the valid entries, by their index in the list, and the mistakes in the others."""
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


def _contradictions(document: YamlDocument, batches: dict[int, WatchedBatch]) -> Iterable[YamlProblem]:
    """Yield entries that contradict an earlier entry for the same ref."""
    first: dict[str, int] = {}
    for index, batch in batches.items():
        earlier = first.setdefault(batch.ref.lower(), index)
        if not batch.agrees_with(batches[earlier]):
            path, place = document.locate((index, "ref"))
            line = document.locate((earlier, "ref"))[1].line
            message = f"duplicate ref with a different feed, labels or replaces; line {line} takes precedence"
            yield YamlProblem(place.line, path, message)


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file as last seen.

    `digest` is None if it could not be read. If `failure` is set, the file could not be used, and `content` is its last
    good content.
    """

    pattern: str
    digest: bytes | None = None
    content: BatchFile = field(default_factory=BatchFile)
    failure: str | None = None

    @property
    def has_error(self) -> bool:
        return bool(self.failure or self.content.errors)


class _Conflict(NamedTuple):
    """Two files that disagree about a ref."""

    ref: str
    file: str
    other: str

    def __str__(self) -> str:
        return f"{self.other}: {self.ref} differs in feed, labels or replaces from {self.file}, which takes precedence"


class BatchFiles:
    """The batches in all batch files. `refresh` reads the files, and parses those that changed.

    Thread-safe: what the properties return is replaced, never modified. Only `refresh` waits for the disk, at most as
    long as its timeout.

    Args:
        patterns: Absolute paths and globs.
        directory: The directory of the config file. Files below it are named relative to it.

    """

    def __init__(self, patterns: Iterable[str], directory: Path) -> None:
        self._patterns = tuple(patterns)
        self._directory = directory.absolute()
        self._look = BackgroundLook(self._refresh)
        self._files: Mapping[Path, _File] = {}
        self._conflicts: set[_Conflict] = set()
        self._batches: Mapping[str, WatchedBatch] = {}
        self._errors: Mapping[str, bool] = {}

    @property
    def batches(self) -> Mapping[str, WatchedBatch]:
        """The batches by ref in lower case, ordered by file name and position. The first entry for a ref wins."""
        return self._batches

    @property
    def errors(self) -> Mapping[str, bool]:
        """Whether each file, by name, currently has an error, in itself or in one of its entries."""
        return self._errors

    @property
    def problems(self) -> list[str]:
        """A line for each current error in a file or its entries."""
        files = self._files.values()
        return [line for file in files for line in ([file.failure] if file.failure else file.content.errors)]

    @property
    def conflicts(self) -> list[str]:
        """A line for each ref on which two files currently disagree."""
        return sorted(map(str, self._conflicts))

    def watch(self, patterns: Iterable[str]) -> None:
        """Use other patterns from the next refresh on. A file that still matches keeps its last good content."""
        self._patterns = tuple(patterns)

    def refresh(self, timeout: float | None = None) -> None:
        """Read the files, and log what changed. Raises nothing.

        Args:
            timeout: How many seconds to wait for a slow disk before the batches stay as they are for now. None: no
                limit.

        """
        if self._patterns or self._files:
            self._look.wait(timeout)

    def _refresh(self) -> None:
        patterns = self._patterns
        files = {}
        for path, pattern in sorted(self._candidates(patterns), key=lambda candidate: self._name(candidate[0])):
            known = self._files.get(path, _File(pattern=pattern))
            if file := self._look_at(path, replace(known, pattern=pattern)):
                files[path] = file
        for path in self._files.keys() - files.keys():
            logger.info("batch file is gone", extra={"file": self._name(path)})
        if files != self._files:
            self._publish(files)
        self._files = files

    def _candidates(self, patterns: Sequence[str]) -> list[tuple[Path, str]]:
        """Find the paths to read, with the pattern of each.

        A directory that cannot be listed must not look like an empty one, so its known files are tried by name.
        """
        found = {
            path: file.pattern
            for path, file in self._files.items()
            if file.pattern in patterns and not os.path.isdir(path)  # noqa: PTH112  Path's raises PermissionError.
        }
        for pattern in patterns:
            found |= dict.fromkeys(_matches(pattern), pattern)
        return list(found.items())

    def _look_at(self, path: Path, known: _File) -> _File | None:
        """Read a file, and parse it if its content changed. Return None if it is gone."""
        try:
            content = read_regular_file(path, MAX_FILE_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            failure = one_line(f"{path}: {why_unread(error)}")
            self._log_failure(path, known, failure)
            return replace(known, digest=None, failure=failure)
        seen = replace(known, digest=digest(content))
        return known if seen == known else self._parsed(path, known, seen, content)

    def _parsed(self, path: Path, known: _File, seen: _File, content: bytes) -> _File:
        try:
            batch_file = parse_batch_file(path, content)
        except BatchFileError as error:
            self._log_failure(path, known, str(error))
            return replace(seen, failure=str(error))
        if batch_file != known.content or known.failure or not known.digest:
            self._log_content(path, known, batch_file)
        return replace(seen, content=batch_file, failure=None)

    def _log_failure(self, path: Path, known: _File, failure: str) -> None:
        if failure != known.failure:
            kept = {"file": self._name(path), "batches_kept": len(known.content.batches)}
            logger.error("%s", failure, extra=kept)

    def _log_content(self, path: Path, known: _File, content: BatchFile) -> None:
        counts = {"batches": len(content.batches), "errors": len(content.errors)}
        logger.info("batch file loaded", extra={"file": self._name(path), **counts})
        logged = set(known.content.errors)
        _warn([error for error in content.errors if error not in logged])

    def _publish(self, files: Mapping[Path, _File]) -> None:
        batches: dict[str, WatchedBatch] = {}
        origins: dict[str, str] = {}
        conflicts: dict[_Conflict, None] = {}
        for path, file in files.items():
            name = self._name(path)
            for batch in file.content.batches:
                ref = batch.ref.lower()
                if not batch.agrees_with(batches.setdefault(ref, batch)):
                    conflicts[_Conflict(ref, origins[ref], name)] = None
                origins.setdefault(ref, name)
        _warn([str(conflict) for conflict in conflicts if conflict not in self._conflicts])
        self._conflicts = set(conflicts)
        self._batches = batches
        self._errors = {self._name(path): file.has_error for path, file in files.items()}

    def _name(self, path: Path) -> str:
        """Return the path to show: relative to the directory of the config file if below it."""
        is_below = path.is_relative_to(self._directory)
        return one_line(str(path.relative_to(self._directory) if is_below else path))


def find_missing(patterns: Iterable[str]) -> Iterator[Path]:
    """Yield the paths without a wildcard, and the directories of those with one, that do not exist."""
    for path in map(_fixed_part, patterns):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            yield path
        except OSError:
            pass  # It may exist. `refresh` reports the error.


# Cached, because every scrape asks it of every pattern.
@lru_cache
def _fixed_part(pattern: str) -> Path:
    """Return a path without a wildcard unchanged; otherwise the innermost directory above the first wildcard."""
    path = Path(pattern)
    return next(each for each in (path, *path.parents) if glob.escape(str(each)) == str(each))


def _matches(pattern: str) -> Iterator[Path]:
    """Yield a pattern without a wildcard unchanged; otherwise its matches, except directories."""
    folder = _fixed_part(pattern)
    if folder == Path(pattern):
        yield folder
        return
    if not _can_be_listed(folder):
        # Treat it as a file that cannot be read: `glob` would silently find nothing in it.
        yield folder
    matches = glob.iglob(pattern)  # noqa: PTH207  Path.glob also finds hidden files, which are still being written.
    yield from (Path(match) for match in matches if not os.path.isdir(match))  # noqa: PTH112  Likewise as above.


def _can_be_listed(folder: Path) -> bool:
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return True


def _warn(messages: Sequence[str]) -> None:
    for message in messages[:MAX_WARNINGS]:
        logger.warning("%s", message)
    if len(messages) > MAX_WARNINGS:
        logger.warning("and %d more like this", len(messages) - MAX_WARNINGS)
