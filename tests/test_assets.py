"""`--write-assets`, from this clone. tests/system/test_packaging.py writes them from a wheel."""

import errno
import os
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from sitecore_cdp_exporter.cli import main
from tools.exporter_program import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LISTED: dict[str, str] = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
# In those of the folders below that go with the exporter: code that writes the dashboard, and tests of the rules.
FOR_MAINTAINERS = {
    *(path.relative_to(ROOT).as_posix() for path in (ROOT / "grafana").glob("*.py")),
    "prometheus/alerts_test.yml",
}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_files_are_those_of_the_repository_and_each_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "folder"
    assert main([f"--write-assets={folder}"]) == 0
    assert files(folder) == {name: (ROOT / name).read_bytes() for name in LISTED}
    for name in LISTED:
        assert os.access(folder / name, os.X_OK) == os.access(ROOT / name, os.X_OK), name
    output = capsys.readouterr()
    assert output.out.splitlines() == [f"wrote {folder / name}" for name in sorted(LISTED)]
    assert output.err == ""


def test_all_that_goes_with_the_exporter_is_listed() -> None:
    shown = ["git", "ls-files", "alertmanager", "config.*", "deploy/systemd", "examples", "grafana", "prometheus"]
    if not (ROOT / ".git").exists():
        pytest.skip("only git knows which files belong to the repository")
    tracked = subprocess.run(shown, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert set(LISTED) == set(tracked) - FOR_MAINTAINERS
    assert {name: f"sitecore_cdp_exporter/data/{name}" for name in LISTED} == LISTED


def test_writing_again_changes_nothing_and_adds_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--write-assets={tmp_path}"]) == 0
    rules, schema = tmp_path / "prometheus" / "alerts.yml", tmp_path / "config.schema.json"
    schema.unlink()
    before = rules.stat()
    capsys.readouterr()
    assert main([f"--write-assets={tmp_path}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"wrote {schema}" in lines
    assert f"unchanged {rules}" in lines
    assert (rules.stat().st_ino, rules.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert set(files(tmp_path)) == set(LISTED)


def make_file(path: Path) -> None:
    path.write_text("edited\n", encoding="utf-8")


def make_folder(path: Path) -> None:
    path.mkdir()


def make_broken_link(path: Path) -> None:
    path.symlink_to("/nowhere")


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [make_file, make_folder, make_broken_link, make_pipe])
def test_what_differs_is_not_overwritten_and_nothing_is_written(
    make: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited = tmp_path / "prometheus" / "alerts.yml"
    edited.parent.mkdir()
    make(edited)
    before = edited.lstat()
    assert main([f"--write-assets={tmp_path}"]) == 1
    after = edited.lstat()
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"{edited}: differs\nnothing was written; name a new folder, and compare the two\n"
    # Not the time of the last access: to compare it, the command reads it.
    assert (after.st_ino, after.st_ctime_ns) == (before.st_ino, before.st_ctime_ns)
    assert list(tmp_path.iterdir()) == [edited.parent]
    assert list(edited.parent.iterdir()) == [edited]


def test_a_full_disk_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[Path] = []

    def write(path: Path, content: bytes) -> None:
        if len(written) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        with path.open("wb") as file:
            file.write(content)

    monkeypatch.setattr(Path, "write_bytes", write)
    assert main([f"--write-assets={tmp_path}"]) == 1
    assert capsys.readouterr().err == f"{tmp_path}: No space left on device\n"
    assert len(written) == 5
    assert files(tmp_path) == {}


@pytest.mark.parametrize("place", ["", "prometheus"])
def test_a_file_in_place_of_a_folder_is_named(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "assets"
    blocked = folder / place
    blocked.parent.mkdir(exist_ok=True)
    blocked.write_text("mine\n", encoding="utf-8")
    assert main([f"--write-assets={folder}"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"{blocked}: Not a directory\n"
    assert blocked.read_text(encoding="utf-8") == "mine\n"
