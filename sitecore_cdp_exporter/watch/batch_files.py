"""The batch files that the globs of the config file match, as they appear, change and vanish."""

import glob
import hashlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Self

from sitecore_cdp_exporter.config.errors import one_line
from sitecore_cdp_exporter.config.files import why_unread
from sitecore_cdp_exporter.config.model import WatchedBatch
from sitecore_cdp_exporter.watch.batch_file import BatchFile, BatchFileError, is_same, parse_batch_file, read_content

logger = logging.getLogger(__name__)

# A second change within one tick of the file system's clock leaves the times as they are. The longest tick is that of
# FAT, two seconds. Until it is over, a file is read again each time.
TICK = 2.0

# How many lines one refresh logs at most about the entries of a file, and likewise about conflicts.
MOST_TOLD = 20


class _Stamp(NamedTuple):
    """What changes with a file, or when another one takes its place. Times are in nanoseconds."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, status: os.stat_result) -> Self:
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)

    def is_settled(self, now: float) -> bool:
        """Whether the next change is sure to change the times."""
        return now - max(self.modified, self.changed) / 1e9 >= TICK


@dataclass(frozen=True, kw_only=True)
class _File:
    """A file as it was seen last.

    `stamp` is None when it has to be read again, and `digest` when it could not be read. `failure` says why nothing
    can be made of it; `content` is then what it had before.
    """

    pattern: str
    stamp: _Stamp | None = None
    digest: bytes | None = None
    content: BatchFile = field(default_factory=BatchFile)
    failure: str | None = None

    @property
    def has_error(self) -> bool:
        return bool(self.failure or self.content.errors)


class _Conflict(NamedTuple):
    """Two files that do not say the same of a ref."""

    ref: str
    file: str
    other: str

    def __str__(self) -> str:
        return f"{self.other}: another feed or other labels for {self.ref} than in {self.file}, which counts"


class BatchFiles:
    """The batches of all batch files. `refresh` looks at the files; only what changed is read.

    Safe for use by many threads: what the properties return is replaced, never changed.

    Args:
        patterns: Paths and globs, absolute. Files may appear, change and vanish at any time.
        directory: The folder of the config file. Files below it are named relative to it.
        clock: Seconds since 1970.

    """

    def __init__(self, patterns: Iterable[str], directory: Path, clock: Callable[[], float] = time.time) -> None:
        self._patterns = tuple(patterns)
        self._directory = directory.absolute()
        self._clock = clock
        self._lock = threading.Lock()
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

    def watch(self, patterns: Iterable[str]) -> None:
        """Look for other files from the next refresh on. A file that still matches keeps its last good content."""
        with self._lock:
            self._patterns = tuple(patterns)

    def refresh(self) -> None:
        """Look at the files, and log what changed. Nothing is raised."""
        with self._lock:
            files = {}
            for path, pattern in sorted(self._candidates(), key=lambda candidate: self._name(candidate[0])):
                known = self._files.get(path, _File(pattern=pattern))
                if file := self._look_at(path, replace(known, pattern=pattern)):
                    files[path] = file
            for path in self._files.keys() - files.keys():
                logger.info("batch file is gone", extra={"file": self._name(path)})
            if files != self._files:
                self._publish(files)
            self._files = files

    def _candidates(self) -> list[tuple[Path, str]]:
        """Find the paths to look at, with the pattern of each.

        A folder that cannot be listed does not look like an empty one: what was known in it is asked for by name.
        """
        found = {
            path: file.pattern
            for path, file in self._files.items()
            if file.pattern in self._patterns and not os.path.isdir(path)  # noqa: PTH112  Path's raises PermissionError.
        }
        for pattern in self._patterns:
            found |= dict.fromkeys(_matches(pattern), pattern)
        return list(found.items())

    def _look_at(self, path: Path, known: _File) -> _File | None:
        """Read a file if it changed; None if it is gone."""
        try:
            stamp = _Stamp.of(path.stat())
            if stamp == known.stamp:
                return known
            content = read_content(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return self._unread(path, known, one_line(f"{path}: {why_unread(error)}"))
        digest = hashlib.sha256(content).digest()
        seen = replace(known, stamp=stamp if stamp.is_settled(self._clock()) else None, digest=digest)
        return seen if digest == known.digest else self._parsed(path, known, seen, content)

    def _unread(self, path: Path, known: _File, failure: str) -> _File:
        """Note that a file cannot be read. It is tried again, because what stops a read may leave no trace on it."""
        self._tell_failure(path, known, failure)
        return replace(known, stamp=None, digest=None, failure=failure)

    def _parsed(self, path: Path, known: _File, seen: _File, content: bytes) -> _File:
        try:
            batch_file = parse_batch_file(path, content)
        except BatchFileError as error:
            self._tell_failure(path, known, str(error))
            return replace(seen, failure=str(error))
        if batch_file != known.content or known.failure or not known.digest:
            self._tell_content(path, known, batch_file)
        return replace(seen, content=batch_file, failure=None)

    def _tell_failure(self, path: Path, known: _File, failure: str) -> None:
        if failure != known.failure:
            kept = {"file": self._name(path), "batches_kept": len(known.content.batches)}
            logger.error("%s", failure, extra=kept)

    def _tell_content(self, path: Path, known: _File, content: BatchFile) -> None:
        about = {"file": self._name(path), "batches": len(content.batches), "errors": len(content.errors)}
        logger.info("batch file loaded", extra=about)
        told = set(known.content.errors)
        _warn([error for error in content.errors if error not in told])

    def _publish(self, files: Mapping[Path, _File]) -> None:
        batches: dict[str, WatchedBatch] = {}
        origins: dict[str, str] = {}
        conflicts: dict[_Conflict, None] = {}
        for path, file in files.items():
            name = self._name(path)
            for batch in file.content.batches:
                ref = batch.ref.lower()
                if not is_same(batch, batches.setdefault(ref, batch)):
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


def _matches(pattern: str) -> Iterator[Path]:
    """Find what a pattern means: itself if it has no wildcard, else what it matches, save folders."""
    if glob.escape(pattern) == pattern:
        yield Path(pattern)
        return
    folder = next(parent for parent in Path(pattern).parents if glob.escape(str(parent)) == str(parent))
    if not _can_be_listed(folder):
        # It counts as a file that cannot be read. `glob` would find nothing in it, and say nothing.
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
    for message in messages[:MOST_TOLD]:
        logger.warning("%s", message)
    if len(messages) > MOST_TOLD:
        logger.warning("and %d more like this", len(messages) - MOST_TOLD)
