"""What `make` installs: exactly what the lock files name, into an environment that repairs itself."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.conditions import wait_until
from tools.exporter_program import ROOT

# Each environment takes seconds, and many on a busy machine.
pytestmark = pytest.mark.timeout(900)
slow = pytest.mark.slow(reason="makes environments with pip, again and again")
MAKE = ("make", "--no-print-directory", f"PYTHON={sys.executable}")


def wheel(folder: Path, name: str, version: str, *metadata: str) -> str:
    """Write a wheel of one module; return its line of a lock file."""
    information = f"{name}-{version}.dist-info"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{information}/METADATA": "\n".join(
            ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata]
        ),
        f"{information}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{file},,\n" for file in [*files, f"{information}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{information}/RECORD": record}.items():
            archive.writestr(file, text)
    return f"{name}=={version} --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"


@dataclass(frozen=True)
class Clone:
    """A folder with the Makefile, the lock files of small packages, and an exporter that prints what it imports."""

    path: Path
    index: Path

    @property
    def python(self) -> Path:
        return self.path / ".venv" / "bin" / "python"

    def environment(self) -> dict[str, str]:
        # `make test VENV=...` hands its arguments down, and that environment must not be recreated here.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        return {**inherited, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.index)}

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run(*MAKE, *arguments, **environment)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.path,
            env=self.environment() | environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def started(self, target: str) -> subprocess.Popen[str]:
        """Start make in a process group of its own, as a terminal does."""
        return subprocess.Popen(
            [*MAKE, target],
            cwd=self.path,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )

    def installed(self) -> list[str]:
        """Return what is installed beside pip and setuptools."""
        listed = json.loads(self.run(str(self.python), "-m", "pip", "list", "--format=json").stdout)
        ours = (package for package in listed if package["name"] not in {"pip", "setuptools"})
        return [f"{package['name']}=={package['version']}" for package in ours]


BACKEND = """
import shutil

def build_editable(folder, config_settings=None, metadata_directory=None):
    return shutil.copy({wheel!r}, folder).rpartition("/")[2]
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    index = tmp_path / "index"
    index.mkdir()
    # As pytest-cov wants coverage[toml], for which pip's resolver takes the newest release, pinned or not.
    plugin = wheel(index, "plugin", "1.0", "Requires-Dist: measure[extra]>=1.0")
    measure = wheel(index, "measure", "1.0", "Provides-Extra: extra", 'Requires-Dist: library; extra == "extra"')
    library = wheel(index, "library", "1.0")
    for version in ("1.1", "2.0"):
        wheel(index, "plugin", version, "Requires-Dist: measure[extra]>=1.0")
        wheel(index, "measure", version, "Provides-Extra: extra", 'Requires-Dist: library; extra == "extra"')
        wheel(index, "library", version)
    path = tmp_path / """a "clone" of Ann's (new)"""
    (path / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", path)
    shutil.copy(ROOT / "tools" / "environment.py", path / "tools")
    (path / "requirements.txt").write_text(library, encoding="utf-8")
    (path / "requirements-dev.txt").write_text(library + measure + plugin, encoding="utf-8")
    (path / "exporter.py").write_text("import library\nprint(library.VERSION)\n", encoding="utf-8")
    project = tmp_path / "project"
    project.mkdir()
    wheel(project, "project", "1.0", "Requires-Dist: library")
    (path / "backend.py").write_text(BACKEND.format(wheel=str(next(project.iterdir()))), encoding="utf-8")
    (path / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    return Clone(path, index)


@slow
def test_newer_releases_on_offer_change_nothing(clone: Clone) -> None:
    assert clone.make("demo").stdout == "1.0\n"
    assert clone.installed() == ["library==1.0"]
    resolving = clone.run(
        str(clone.python), "-m", "pip", "install", "--require-hashes", "--requirement=requirements-dev.txt"
    )
    assert "measure[extra]" in resolving.stderr, "pip resolves it now as it is locked: this test proves nothing"
    assert clone.make("development").returncode == 0
    assert clone.installed() == ["library==1.0", "measure==1.0", "plugin==1.0", "project==1.0"]


@slow
def test_each_command_installs_what_it_needs_and_no_more_and_says_so(clone: Clone) -> None:
    first = clone.make("demo")
    assert first.stdout == "1.0\n"
    assert first.stderr.splitlines() == [
        f"[1/2] Making .venv with Python {sys.version.split()[0]}",
        "[2/2] Installing 1 packages of requirements.txt, up to 8 MB to download",
    ]
    assert clone.installed() == ["library==1.0"]
    library = next(clone.path.glob(".venv/lib/*/site-packages/library.py"))
    installed_at = library.stat().st_ctime_ns
    assert clone.make("development").stderr.splitlines() == [
        "[1/2] Installing 2 packages of requirements-dev.txt, up to 110 MB to download",
        "[2/2] Installing the project itself",
    ]
    assert library.stat().st_ctime_ns == installed_at
    for command in ("demo", "development"):
        assert clone.make(command).stderr == ""
    (clone.path / "pyproject.toml").write_text(f"{PYPROJECT}# Changed\n", encoding="utf-8")
    assert clone.make("development").stderr == "[1/1] Installing the project itself\n"


def without_pip(clone: Clone) -> None:
    """Leave it as Ctrl-C does in the first seconds, and Debian without python3-venv."""
    (clone.path / ".venv" / ".installed.json").unlink()
    shutil.rmtree(next(clone.path.glob(".venv/lib/*/site-packages/pip")))


def half_installed(clone: Clone) -> None:
    """Leave it as Ctrl-C does while pip copies files: pip takes the package for installed."""
    (clone.path / ".venv" / ".installed.json").unlink()
    next(clone.path.glob(".venv/lib/*/site-packages/library.py")).unlink()


def of_another_tool(clone: Clone) -> None:
    shutil.rmtree(clone.path / ".venv")
    venv.create(clone.path / ".venv")


def of_another_python(clone: Clone) -> None:
    """Leave it as a system does whose Python is newer than when it was made."""
    stamp = clone.path / ".venv" / ".installed.json"
    stamp.write_text(stamp.read_text(encoding="utf-8").replace(sys.version.split()[0], "3.11.0"), encoding="utf-8")
    [packages] = clone.path.glob(".venv/lib/*/site-packages")
    packages.parent.rename(packages.parent.parent / "python3.0")


def without_python(clone: Clone) -> None:
    clone.python.unlink()
    clone.python.symlink_to("/usr/bin/python3.0")


def with_a_broken_stamp(clone: Clone) -> None:
    (clone.path / ".venv" / ".installed.json").write_text("[", encoding="utf-8")


@slow
def test_an_environment_that_is_not_right_is_recreated(clone: Clone) -> None:
    assert clone.make("demo").returncode == 0
    for damage in (
        without_pip,
        half_installed,
        of_another_tool,
        of_another_python,
        without_python,
        with_a_broken_stamp,
    ):
        damage(clone)
        repaired = clone.make("demo")
        assert (repaired.returncode, repaired.stdout) == (0, "1.0\n"), f"{damage.__name__}: {repaired.stderr}"
        assert repaired.stderr.startswith("[1/2] Making .venv"), damage.__name__


@slow
def test_a_clone_that_is_moved_works_where_it_is(clone: Clone) -> None:
    assert clone.make("development").returncode == 0
    there = Clone(clone.path.rename(clone.path.parent / "moved"), clone.index)
    assert there.make("development").stderr.startswith("[1/4] Making .venv")
    assert str(there.python.parent) in (there.python.parent / "pip").read_text(encoding="utf-8")


@slow
def test_the_environment_may_be_a_link_to_another_disk(clone: Clone) -> None:
    (clone.path.parent / "disk").mkdir()
    (clone.path / ".venv").symlink_to(clone.path.parent / "disk", target_is_directory=True)
    assert clone.make("demo").stdout == "1.0\n"
    assert (clone.path / ".venv").is_symlink()
    assert clone.make("demo").stderr == ""


@slow
def test_what_a_newer_lock_file_no_longer_names_is_gone(clone: Clone) -> None:
    assert clone.make("development").returncode == 0
    locked = (clone.path / "requirements.txt").read_text(encoding="utf-8")
    (clone.path / "requirements-dev.txt").write_text(locked, encoding="utf-8")
    assert clone.make("development").returncode == 0
    assert clone.installed() == ["library==1.0", "project==1.0"]


def is_made_or_ended(folder: Path, pattern: str, making: subprocess.Popen[str]) -> bool:
    return any(folder.glob(pattern)) or making.poll() is not None


@slow
def test_ctrl_c_at_any_time_leaves_nothing_that_has_to_be_repaired_by_hand(clone: Clone) -> None:
    for made in (".venv/bin/python", ".venv/lib/*/site-packages/pip", ".venv/lib/*/site-packages/library.py"):
        shutil.rmtree(clone.path / ".venv", ignore_errors=True)
        with clone.started("demo") as making:
            wait_until(partial(is_made_or_ended, clone.path, made, making))
            os.killpg(making.pid, signal.SIGINT)
            _, printed = making.communicate()
            assert "Traceback" not in printed
        assert clone.make("demo").stdout == "1.0\n"


@slow
def test_two_commands_at_once_make_one_environment(clone: Clone) -> None:
    with clone.started("demo") as one, clone.started("development") as other:
        assert (one.communicate()[0], one.returncode) == ("1.0\n", 0)
        other.communicate()
        assert other.returncode == 0
    assert clone.installed() == ["library==1.0", "measure==1.0", "plugin==1.0", "project==1.0"]


def test_a_python_without_venv_gets_a_line_that_names_the_package_of_debian(clone: Clone, tmp_path: Path) -> None:
    # As on Debian, where a package of its own brings the module.
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'ensurepip' else find(name, *rest)\n",
        encoding="utf-8",
    )
    failed = clone.make("demo", PYTHONPATH=str(tmp_path))
    [reason] = [line for line in failed.stderr.splitlines() if not line.startswith(("[1/2]", "make: ***"))]
    assert reason.startswith(
        f"make: {sys.executable} has no ensurepip; on Debian and Ubuntu: sudo apt install python3-venv"
    )
    assert not (clone.path / ".venv").exists()


@pytest.mark.parametrize("python", ["/bin/false", "python3.9-that-is-not-there"])
def test_an_old_or_missing_python_gets_a_line(clone: Clone, python: str) -> None:
    failed = clone.make("demo", f"PYTHON={python}")
    assert failed.returncode != 0
    assert "make: Python 3.11 or newer is needed; name one: make PYTHON=python3.12 demo" in failed.stderr.splitlines()
    assert "Traceback" not in failed.stderr


def test_what_is_not_an_environment_is_not_removed(clone: Clone) -> None:
    (clone.path / ".venv").mkdir()
    (clone.path / ".venv" / "thesis.txt").touch()
    failed = clone.make("demo")
    assert "is there and is no virtual environment; remove it, or name another: make VENV=..." in failed.stderr
    assert (clone.path / ".venv" / "thesis.txt").exists()


def test_a_file_in_the_place_of_the_environment_gets_a_line(clone: Clone) -> None:
    (clone.path / ".venv").write_text("an-environment-elsewhere\n", encoding="utf-8")
    failed = clone.make("demo")
    assert f"make: {clone.path}/.venv: Not a directory; remove it" in failed.stderr.splitlines()
