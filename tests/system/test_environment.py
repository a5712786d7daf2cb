"""What `make` installs: exactly what the lock files name, into an environment that repairs itself."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tools.exporter_program import ROOT


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

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run("make", "--no-print-directory", f"PYTHON={sys.executable}", *arguments, **environment)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.path,
            env={**os.environ, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.index), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def installed(self) -> list[str]:
        """Give what is installed beside pip and setuptools."""
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


@pytest.mark.slow(reason="makes environments with pip, again and again")
def test_newer_releases_on_offer_change_nothing(clone: Clone) -> None:
    assert clone.make("demo").stdout == "1.0\n"
    assert clone.installed() == ["library==1.0"]
    resolving = clone.run(
        str(clone.python), "-m", "pip", "install", "--require-hashes", "--requirement=requirements-dev.txt"
    )
    assert "measure[extra]" in resolving.stderr, "pip resolves it now as it is locked: this test proves nothing"
    assert clone.make("development").returncode == 0
    assert clone.installed() == ["library==1.0", "measure==1.0", "plugin==1.0", "project==1.0"]
