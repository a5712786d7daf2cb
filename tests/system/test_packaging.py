"""What a user downloads: lock files, wheel and image."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sitecore_cdp_exporter import __version__

ROOT = Path(__file__).parents[2]
LOCK_FILES = ["requirements.txt", "requirements-dev.txt", "requirements-build.txt"]


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def pyproject() -> dict[str, Any]:
    return tomllib.loads(read("pyproject.toml"))


def locked(name: str) -> dict[str, tuple[Requirement, str]]:
    """Return each entry of a lock file by name: the requirement, and all of the entry's text."""
    entries = re.findall(r"^(?P<requirement>\S+==.*?) \\\n(?P<rest>(?:[ ]+.*\n)*)", read(name), flags=re.MULTILINE)
    requirements = ((Requirement(requirement), rest) for requirement, rest in entries)
    return {canonicalize_name(requirement.name): (requirement, rest) for requirement, rest in requirements}


@pytest.mark.parametrize("name", LOCK_FILES)
def test_every_line_of_a_lock_file_is_a_pinned_version_a_hash_or_a_comment(name: str) -> None:
    lines = read(name).splitlines()
    allowed = re.compile(r"[\w.-]+==[\w.!]+( ; [\w ='!.*]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?|    # .*")
    assert [line for line in lines if not allowed.fullmatch(line)] == []


@pytest.mark.parametrize("name", LOCK_FILES)
def test_every_locked_version_has_a_hash(name: str) -> None:
    entries = locked(name)
    assert entries
    assert [key for key, (_, rest) in entries.items() if "--hash=sha256:" not in rest] == []


@pytest.mark.parametrize("name", LOCK_FILES)
def test_a_lock_file_names_no_package_index(name: str) -> None:
    assert re.findall(r".*(?:://|--index|--extra-index|--find-links|--trusted-host).*", read(name)) == []


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("requirements.txt", pyproject()["project"]["dependencies"]),
        ("requirements-dev.txt", pyproject()["project"]["dependencies"] + pyproject()["dependency-groups"]["dev"]),
        ("requirements-build.txt", pyproject()["build-system"]["requires"]),
    ],
)
def test_a_lock_file_satisfies_what_pyproject_asks_for(name: str, wanted: list[str]) -> None:
    entries = locked(name)
    for requirement in map(Requirement, wanted):
        pinned, _ = entries[canonicalize_name(requirement.name)]
        [version] = [specifier.version for specifier in pinned.specifier]
        assert requirement.specifier.contains(version), f"{requirement} is locked at {version}"


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-build.txt"])
def test_what_is_tested_is_what_is_shipped(name: str) -> None:
    tested = locked("requirements-dev.txt")
    pins = {key: str(requirement.specifier) for key, (requirement, _) in locked(name).items()}
    assert pins == {key: str(tested[key][0].specifier) for key in pins}


def test_the_changelog_has_this_version() -> None:
    headings = re.findall(r"^## \[?v?(\d+\.\d+\.\d+[^\s\]]*)", read("CHANGELOG.md"), flags=re.MULTILINE)
    assert headings[0] == __version__


def test_the_image_is_labelled_with_this_version() -> None:
    assert re.findall(r"^ARG VERSION=(.*)$", read("Dockerfile"), flags=re.MULTILINE) == [__version__]


def test_the_dockerfile_lints_clean() -> None:
    linted = subprocess.run(
        [Path(sys.executable).parent / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (linted.returncode, linted.stdout, linted.stderr) == (0, "", "")


def test_the_image_build_sees_only_what_the_dockerfile_copies() -> None:
    [everything, *exceptions] = [line for line in read(".dockerignore").splitlines() if not line.startswith("#")]
    assert everything == "*"
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", read("Dockerfile"), flags=re.MULTILINE)
    let_in = {f"!{source}" for sources in copied for source in sources.split()}
    assert sorted(exceptions) == sorted([*let_in, "**/__pycache__"])
    assert let_in.isdisjoint({"!.", "!.git", "!tests", "!config.yaml"})


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the names of all files in a wheel that was built without a network."""
    directory = tmp_path_factory.mktemp("wheel")
    build: list[str | Path] = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        directory,
    ]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    [path] = directory.iterdir()
    assert path.name == f"sitecore_cdp_batch_exporter-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_whole_package_and_its_type_marker(wheel: list[str]) -> None:
    package = ROOT / "sitecore_cdp_exporter"
    modules = {str(path.relative_to(ROOT)) for path in package.rglob("*.py")}
    assert modules | {"sitecore_cdp_exporter/py.typed"} <= set(wheel)
    assert "sitecore_cdp_exporter/sandbox/__init__.py" in wheel


def test_the_wheel_holds_nothing_else_but_its_metadata(wheel: list[str]) -> None:
    metadata = f"sitecore_cdp_batch_exporter-{__version__}.dist-info"
    assert {name.split("/")[0] for name in wheel} == {"sitecore_cdp_exporter", metadata}
    assert f"{metadata}/entry_points.txt" in wheel
    assert f"{metadata}/licenses/LICENSE" in wheel


def test_no_lock_file_is_installed_by_a_resolver() -> None:
    patterns = ["Dockerfile", "Makefile", "*.md", "docs/*.md", ".ci/*", ".github/workflows/*", "tools/environment.py"]
    texts = [path.read_text(encoding="utf-8") for pattern in patterns for path in ROOT.glob(pattern)]
    lines = [
        line for text in texts for line in text.splitlines() if "--requirement" in line and "pip_audit" not in line
    ]
    # Two of the image, two for systemd, and that of make.
    assert len(lines) == 5
    assert [line for line in lines if not re.search(r"--no-deps\W+--require-hashes\W+--requirement", line)] == []
