"""The batch files of a soak: written, replaced, spoiled and removed, as careless pipelines do."""

import time
from pathlib import Path
from random import Random

import yaml

REFS_IN_A_FILE = 10
# By then the exporter has read a file, in seconds. What is broken before has never been good.
READ_BY = 2.0
SPOILED = ("- [", "nightly: guests\n", "\0")


class BatchFiles:
    """Files in a folder of their own, each with a few refs. Every write is aside and then renamed."""

    def __init__(self, directory: Path, random: Random) -> None:
        directory.mkdir()
        self._directory = directory
        self._random = random
        self._refs: dict[Path, list[str]] = {}
        self._written: dict[Path, float] = {}
        self._number = 0

    def add(self, ref: str) -> None:
        """List a batch in the newest file, or in a new one."""
        path = self._path()
        if len(self._refs.get(path, ())) >= REFS_IN_A_FILE:
            self._number += 1
            path = self._path()
        self._refs.setdefault(path, []).append(ref)
        self._write(path)

    def remove(self, ref: str) -> None:
        """Take a batch out, if it is listed, and remove its file if it was the last."""
        for path, refs in self._refs.items():
            if ref in refs:
                refs.remove(ref)
                if refs:
                    self._write(path)
                else:
                    path.unlink()
                    del self._refs[path]
                return

    def spoil(self) -> None:
        """Break one of the files: its last good content counts until its next write. Or add an entry that is bad."""
        read = [path for path in self._refs if time.monotonic() - self._written[path] > READ_BY]
        if read:
            path = self._random.choice(read)
            self._replace(path, self._random.choice([*SPOILED, self._text(path) + "- nightly\n"]))

    def _path(self) -> Path:
        return self._directory / f"{self._number:06}.yaml"

    def _text(self, path: Path) -> str:
        entries = [{"ref": ref, "feed": "listed", "labels": {"listed_in": path.stem}} for ref in self._refs[path]]
        return yaml.safe_dump(entries)

    def _write(self, path: Path) -> None:
        self._replace(path, self._text(path))
        self._written[path] = time.monotonic()

    def _replace(self, path: Path, text: str) -> None:
        aside = path.with_name(f".{path.name}")
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
