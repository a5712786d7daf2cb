"""A ConfigMap or Secret as the kubelet mounts it."""

import itertools
from collections.abc import Mapping
from pathlib import Path


class MountedVolume:
    """Writes files as the kubelet's atomic writer does.

    The files stand in a hidden folder, a new one for each change. `..data` is a symbolic link to the folder of now, and
    is replaced by renaming another link onto it. The names that a program opens are links through `..data`, so all
    files change at once.
    """

    def __init__(self, path: Path, files: Mapping[str, str]) -> None:
        path.mkdir()
        self.path = path
        self._numbers = itertools.count()
        self.write(files)
        for name in files:
            (path / name).symlink_to(Path("..data", name))

    def write(self, files: Mapping[str, str]) -> None:
        """Replace the content of all files at once, and remove what was before."""
        current = self.path / "..data"
        before = current.resolve() if current.is_symlink() else None
        folder = self.path / f"..2026_01_01_00_00_00.{next(self._numbers)}"
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
        new_link = self.path / "..data_tmp"
        new_link.symlink_to(folder.name)
        new_link.rename(current)
        if before:
            for file in before.iterdir():
                file.unlink()
            before.rmdir()
