"""`--write-assets`: write the files that go with the exporter, such as its alert rules and dashboards, into a folder.

A wheel has copies of them, as pyproject.toml lists them. In an editable install and in a clone, what the list names is
read from the repository.
"""

import errno
import os
import stat
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from sitecore_cdp_exporter.output import print_errors, print_text

# Only in a wheel.
COPIES = Path(__file__).parent / "data"
REPOSITORY = Path(__file__).parents[1]


def write_assets(folder: Path) -> int:
    """Write all files into a folder, or none, and print what became of each.

    A file that is there and differs may have been edited, so it is never overwritten.

    Returns:
        The exit status: 0, or 1 if a file differs or cannot be written.

    """
    try:
        assets = read_assets()
        if (blocking := next(_blocking(assets, folder), None)) is not None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), blocking)
        missing = {name: content for name, content in assets.items() if not os.path.lexists(folder / name)}
        differing = [
            name for name, content in assets.items() if name not in missing and not _holds(folder, name, content)
        ]
        if not differing:
            _write(missing, folder)
    except OSError as error:
        print_errors(f"{error.filename or folder}: {error.strerror}")
        return 1
    if differing:
        remedy = "nothing was written; name a new folder, and compare the two"
        print_errors(*(f"{folder / name}: differs" for name in differing), remedy)
        return 1
    lines = (f"{'wrote' if name in missing else 'unchanged'} {folder / name}" for name in assets)
    return 0 if print_text("\n".join(lines)) else 1


def read_assets() -> dict[str, bytes]:
    """Return the content of each file by its path in the repository.

    Raises:
        OSError: The package was copied without them.

    """
    if COPIES.is_dir():
        # pip compiles the scripts among them.
        paths = [path for path in COPIES.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
        return {path.relative_to(COPIES).as_posix(): path.read_bytes() for path in sorted(paths)}
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    return {name: (REPOSITORY / name).read_bytes() for name in sorted(listed)}


def _blocking(assets: Iterable[str], folder: Path) -> Iterator[Path]:
    """Yield what is in the way of a folder that is needed."""
    for name in assets:
        for path in reversed((folder / name).parents):
            if os.path.lexists(path) and not path.is_dir():
                yield path


def _holds(folder: Path, name: str, content: bytes) -> bool:
    path = folder / name
    return path.is_file() and path.read_bytes() == content


def _write(assets: Mapping[str, bytes], folder: Path) -> None:
    """Write each file beside its place first, so that a full disk leaves none at its place."""
    if not assets:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in assets:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=folder) as written:
        places = {Path(written, str(number)): folder / name for number, name in enumerate(assets)}
        for path, content in zip(places, assets.values(), strict=True):
            path.write_bytes(content)
            if content.startswith(b"#!"):
                # A wheel does not keep that scripts are executable.
                path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
        for path, place in places.items():
            path.rename(place)
