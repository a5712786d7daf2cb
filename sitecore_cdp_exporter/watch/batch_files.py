"""The batch files that the globs of the config file match, as they appear, change and vanish.

A batch file is a list like `batches` of the config file, in YAML or JSON.
"""

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from sitecore_cdp_exporter.config.errors import error_lines, model_problems, one_line
from sitecore_cdp_exporter.config.files import BackgroundLook, digest, read_regular_file, why_unread
from sitecore_cdp_exporter.config.model import WatchedBatch
from sitecore_cdp_exporter.config.yaml import YamlDocument, YamlProblem, read_yaml

logger = logging.getLogger(__name__)

# Room for 50,000 batches with feed and labels. A file of this size takes seconds to parse.
MAX_FILE_BYTES = 10 * 1024 * 1024

# One refresh logs at most this many errors per file, and at most this many conflicts between files.
MAX_WARNINGS = 20

KNOWN_KEYS = {"": tuple(WatchedBatch.model_fields)}


class BatchFileError(Exception):
    """A batch file has no list of batches. The text is one line: `file:line:column: what is wrong`."""


class BatchFile(NamedTuple):
    """What is in a batch file: its good entries, in their order, and a line for each mistake in the others.

    A line is `file:line: [3].ref: what is wrong`. No ref is twice in `batches`, in either case.
    """

    batches: tuple[WatchedBatch, ...] = ()
    errors: tuple[str, ...] = ()


def parse_batch_file(path: Path, content: bytes) -> BatchFile:
    """Parse the content of a batch file. Raises BatchFileError for what is not YAML, or not a list."""
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


def _contradictions(document: YamlDocument, batches: dict[int, WatchedBatch]) -> Iterable[YamlProblem]:
    """Find entries that contradict an earlier entry for the same ref."""
    first: dict[str, int] = {}
    for index, batch in batches.items():
        earlier = first.setdefault(batch.ref.lower(), index)
        if not batch.agrees_with(batches[earlier]):
            path, place = document.locate((index, "ref"))
            line = document.locate((earlier, "ref"))[1].line
            message = f"duplicate ref with a different feed, labels or replaces; line {line} counts"
            yield YamlProblem(place.line, path, message)


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file as it was seen last.

    `digest` is None if it could not be read. `failure` says why it could not be used; `content` is then what it had
    before.
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
        return f"{self.other}: {self.ref} has a different feed, labels or replaces than in {self.file}, which counts"


class BatchFiles:
    """The batches of all batch files. `refresh` looks at the files; only what changed is parsed.

    Safe for use by many threads: what the properties return is replaced, never changed. Only `refresh` waits for the
    disk, and no longer than it is asked to.

    Args:
        patterns: Paths and globs, absolute. Files may appear, change and vanish at any time.
        directory: The folder of the config file. Files below it are named relative to it.

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
        """The batches by their ref in lower case, in the order of file name and place. Of two, the first counts."""
        return self._batches

    @property
    def errors(self) -> Mapping[str, bool]:
        """For each file, by its name, whether it or one of its entries has an error now."""
        return self._errors

    @property
    def problems(self) -> list[str]:
        """A line for each error that a file or one of its entries has now."""
        files = self._files.values()
        return [line for file in files for line in ([file.failure] if file.failure else file.content.errors)]

    @property
    def conflicts(self) -> list[str]:
        """A line for each ref about which two files disagree now."""
        return sorted(map(str, self._conflicts))

    def watch(self, patterns: Iterable[str]) -> None:
        """Look for other files from the next refresh on. A file that still matches keeps its last good content."""
        self._patterns = tuple(patterns)

    def refresh(self, timeout: float | None = None) -> None:
        """Look at the files, and log what changed. Nothing is raised.

        Args:
            timeout: How many seconds to wait for a slow disk. Then the batches stay as they are for now. None: as long
                as it takes.

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
        """Find the paths to look at, with the pattern of each.

        A folder that cannot be listed must not look like an empty one, so its known files are looked for by name.
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
        """Read a file, and parse it if its content changed; None if it is gone."""
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
        """Name a file for people: as it was matched, and relative to the folder of the config file if it is below."""
        is_below = path.is_relative_to(self._directory)
        return one_line(str(path.relative_to(self._directory) if is_below else path))


def find_missing(patterns: Iterable[str]) -> Iterator[Path]:
    """Find paths that are not there: those without a wildcard, and the folders in which wildcards match."""
    for path in map(_fixed_part, patterns):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            yield path
        except OSError:
            pass  # Whether it is there cannot be seen. `refresh` reports that as an error.


def _fixed_part(pattern: str) -> Path:
    """Return a path without a wildcard as it is; of another, the innermost folder whose name has none."""
    path = Path(pattern)
    return next(each for each in (path, *path.parents) if glob.escape(str(each)) == str(each))


def _matches(pattern: str) -> Iterator[Path]:
    """Find what a pattern means: itself if it has no wildcard, else what it matches, except folders."""
    if glob.escape(pattern) == pattern:
        yield Path(pattern)
        return
    folder = _fixed_part(pattern)
    if not _can_be_listed(folder):
        # It counts as a file that cannot be read. `glob` would find nothing in it, and raise nothing.
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
