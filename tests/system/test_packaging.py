"""What a user downloads: lock files, wheel and image."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email import message_from_bytes
from email.message import Message
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest
import trove_classifiers
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sitecore_cdp_exporter import __version__
from tests.exporter_program import wait_until_listening
from tests.markdown import blocks
from tools.links import documents
from tools.program import running, wait_for
from tools.sbom import shipped_metadata

ROOT = Path(__file__).parents[2]
LOCK_FILES = ["requirements.txt", "requirements-dev.txt", "requirements-build.txt"]
DIST_INFO = f"sitecore_cdp_batch_exporter-{__version__}.dist-info"


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
    allowed = re.compile(r"[\w.-]+==[\w.!]+( ; [\w ='!.*<>]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?|    # .*")
    assert [line for line in lines if not allowed.fullmatch(line)] == []


@pytest.mark.parametrize("name", LOCK_FILES)
def test_every_locked_version_has_a_hash(name: str) -> None:
    entries = locked(name)
    assert entries
    assert [key for key, (_, rest) in entries.items() if "--hash=sha256:" not in rest] == []


@pytest.mark.parametrize("name", LOCK_FILES)
def test_a_lock_file_names_no_package_index(name: str) -> None:
    naming = re.compile("://|--index|--extra-index|--find-links|--trusted-host")
    assert [line for line in read(name).splitlines() if naming.search(line)] == []


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


def build(target: str, directory: Path, root: Path = ROOT, **environment: str) -> Path:
    """Build without a network; return the file."""
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        target,
        "--directory",
        directory,
    ]
    subprocess.run(command, cwd=root, env=os.environ | environment, capture_output=True, check=True)
    [path] = directory.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def names(wheel: Path) -> list[str]:
    """Return the names of all files in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return message_from_bytes(archive.read(f"{DIST_INFO}/METADATA"))


@pytest.fixture(scope="module")
def description(wheel: Path) -> str:
    """Return the README as PyPI shows it."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.read(f"{DIST_INFO}/METADATA").decode().partition("\n\n")[2]


def test_the_wheel_holds_the_whole_package_and_its_type_marker(names: list[str], wheel: Path) -> None:
    package = ROOT / "sitecore_cdp_exporter"
    modules = {str(path.relative_to(ROOT)) for path in package.rglob("*.py")}
    assert modules | {"sitecore_cdp_exporter/py.typed"} <= set(names)
    assert "sitecore_cdp_exporter/sandbox/__init__.py" in names
    assert wheel.name == f"sitecore_cdp_batch_exporter-{__version__}-py3-none-any.whl"


def test_the_wheel_holds_nothing_else_but_its_metadata(names: list[str]) -> None:
    assert {name.split("/")[0] for name in names} == {"sitecore_cdp_exporter", DIST_INFO}
    assert f"{DIST_INFO}/entry_points.txt" in names
    assert f"{DIST_INFO}/licenses/LICENSE" in names


def test_the_links_and_pictures_of_the_readme_are_absolute_in_the_metadata(description: str) -> None:
    links = re.findall(r"\]\(([^)]*)\)", description)
    assert len(links) == read("README.md").count("](") > 0
    assert [link for link in links if not link.startswith("https://")] == []
    # Of these there are none, so nothing makes them absolute.
    assert re.findall(r"(?m)^ *\[[^\]]+\]:|\b(?:src|href)=", description) == []


def test_the_absolute_links_lead_to_what_the_relative_ones_did(metadata: Message, description: str) -> None:
    source = metadata_urls(metadata)["Source"]
    files = f"]({source}/blob/v{__version__}/"
    pictures = f"]({source.replace('https://github.com/', 'https://raw.githubusercontent.com/')}/v{__version__}/"
    assert len(re.findall(rf"!\[[^\]]*{re.escape(pictures)}", description)) == description.count("![") > 0
    paths = re.findall(rf"{re.escape(files)}([^)#]*)", description)
    assert paths
    assert [path for path in paths if not (ROOT / path).is_file()] == []
    assert description.replace(f"{files}README.md#", "](#").replace(files, "](").replace(pictures, "](") == read(
        "README.md"
    )


def metadata_urls(metadata: Message) -> dict[str, str]:
    return dict(str(line).split(", ") for line in metadata.get_all("Project-URL", []))


def test_the_project_urls_are_those_of_the_repository_that_the_alerts_name(metadata: Message) -> None:
    urls = metadata_urls(metadata)
    assert set(urls) == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
    [repository] = set(re.findall(r"runbook_url: (.*)/blob/main/docs/runbook.md#", read("prometheus/alerts.yml")))
    assert urls["Source"] == repository
    assert {url.removeprefix(repository) for url in urls.values()} == {
        *("", "/tree/main/docs", "/blob/main/CHANGELOG.md", "/issues")
    }


def test_the_classifiers_exist_and_name_the_pythons_that_ci_tests(metadata: Message) -> None:
    found = {str(line) for line in metadata.get_all("Classifier", [])}
    assert found <= trove_classifiers.classifiers
    [versions] = re.findall(r"python: \[(.*)\]", read(".github/workflows/ci.yml"))
    python = "Programming Language :: Python :: "
    tested = {f"{python}{version}" for version in re.findall(r'"(.*?)"', versions)}
    assert {each for each in found if re.fullmatch(rf"{python}3\.\d+", each)} == tested


@pytest.mark.slow(reason="builds the source archive")
def test_whatever_git_knows_is_in_the_source_archive(sdist: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("only git knows which files belong to the repository")
    shown = ["git", "-c", "safe.directory=*", "ls-files"]
    known = subprocess.run(shown, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    assert [name for name in known if name not in held and (ROOT / name).exists()] == []


@pytest.mark.slow(reason="builds the source archive and the wheel again")
def test_the_same_bytes_are_built_elsewhere_from_the_source_archive(wheel: Path, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [root] = tmp_path.iterdir()
    for path in root.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
        os.utime(path, (1_700_000_000, 1_700_000_000))
    # What lies about stays out.
    (root / "config.acme.yaml").write_text("api: {}\n", encoding="utf-8")
    (root / "secrets").mkdir()
    (root / "secrets" / "api_token").write_text("secret\n", encoding="utf-8")
    elsewhere = {"TZ": "Asia/Tokyo", "LANG": "tr_TR.UTF-8", "PYTHONHASHSEED": "7"}
    assert build("wheel", tmp_path / "wheel", root, **elsewhere).read_bytes() == wheel.read_bytes()
    assert build("sdist", tmp_path / "sdist", root, **elsewhere).read_bytes() == sdist.read_bytes()
    later = build("wheel", tmp_path / "later", root, SOURCE_DATE_EPOCH="1800000000")
    assert later.read_bytes() != wheel.read_bytes()


@pytest.mark.slow(reason="builds the wheel again")
def test_what_the_dockerfile_copies_makes_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    root = tmp_path / "src"
    root.mkdir()
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", read("Dockerfile"), flags=re.MULTILINE):
        for source in sources.split():
            (root / source).parent.mkdir(parents=True, exist_ok=True)
            copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
            copy(ROOT / source, root / source)
    assert build("wheel", tmp_path / "wheel", root).read_bytes() == wheel.read_bytes()


@pytest.mark.slow(reason="twine takes seconds to start")
def test_twine_finds_nothing_to_warn_of(wheel: Path, sdist: Path) -> None:
    command: list[str | Path] = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", wheel, sdist]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert checked.stdout.count("PASSED") == 2


def link_dependencies(packages: Path) -> None:
    """Link what requirements.txt names into a folder, because a test has no network."""
    for metadata in shipped_metadata():
        for top in {file.parts[0] for file in PathDistribution(metadata).files or ()} - {"..", "__pycache__"}:
            (packages / top).symlink_to(metadata.parent / top)


@pytest.fixture(scope="module")
def empty_environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel where nothing else is but what requirements.txt names; return the folder of the programs.

    pip fails if the wheel needs another package.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    [packages] = folder.glob("lib/*/site-packages")
    link_dependencies(packages)
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        folder / "bin" / "python",
    ]
    subprocess.run([*pip, "install", "--quiet", "--no-index", wheel], check=True)
    subprocess.run([*pip, "check"], check=True)
    return folder / "bin"


@pytest.mark.slow(reason="makes a virtual environment and installs the wheel")
def test_the_installed_wheel_runs_the_demo(empty_environment: Path, tmp_path: Path) -> None:
    command = ["sitecore-cdp-batch-exporter", "--demo", "--web.listen-address=127.0.0.1:0"]
    clean = ["env", "--ignore-environment", f"PATH={empty_environment}"]
    with running([*clean, *command], log=tmp_path / "log", directory=tmp_path) as program:
        exporter = wait_until_listening(program)
        wait_for("a batch", lambda: "sitecore_cdp_batch_status" in exporter.scrape(), programs=[program])
    assert program.process.returncode == 0


@pytest.mark.slow(reason="makes a virtual environment and installs the wheel")
def test_the_installed_wheel_writes_the_files_of_the_repository(empty_environment: Path, tmp_path: Path) -> None:
    program = empty_environment / "sitecore-cdp-batch-exporter"
    wrote = subprocess.run([program, "--write-assets=assets"], cwd=tmp_path, capture_output=True, text=True, check=True)
    listed = pyproject()["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert wrote.stdout.splitlines() == [f"wrote assets/{name}" for name in sorted(listed)]
    written = {path for path in (tmp_path / "assets").rglob("*") if path.is_file()}
    assert written == {tmp_path / "assets" / name for name in listed}
    assert [name for name in listed if (tmp_path / "assets" / name).read_bytes() != (ROOT / name).read_bytes()] == []


@pytest.mark.slow(reason="builds the source archive and the wheel again, and installs it")
@pytest.mark.parametrize(
    ("page", "heading"), [("README.md", "Install"), ("docs/install.md", "A wheel")], ids=["README", "install.md"]
)
def test_the_wheel_is_installed_as_documented(page: str, heading: str, sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    [root] = tmp_path.iterdir()
    links = tmp_path / "links"
    links.mkdir()
    link_dependencies(links)
    commands = "".join(block.text for block in blocks(ROOT / page) if block.heading == heading)
    commands = commands.replace("make package", f"make package VENV={shlex.quote(sys.prefix)} INSTALL=:")
    commands = re.sub(r"(?m)^.* --requirement requirements.txt\n", "", commands)
    environment = {
        "HOME": str(tmp_path / "a home"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(links),
        "PIP_NO_DEPS": "1",
        "PIP_NO_INDEX": "1",
    }
    run = ["bash", "-e", "-c", commands]
    done = subprocess.run(run, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "a home" / "cdp-assets" / "prometheus" / "alerts.yml").is_file()


def test_nothing_is_installed_by_a_name_that_is_not_taken_yet() -> None:
    after = "".join(
        block.text for block in blocks(ROOT / "docs" / "install.md") if block.heading == "After the first release"
    )
    name = pyproject()["project"]["name"]
    for command in (f"pipx install {name}\n", f"/{name}:$VERSION", f"helm install {name} ", f"/charts/{name}"):
        assert command in after
    pages = "".join(page.read_text(encoding="utf-8") for page in documents(ROOT)).replace(after, "")
    assert re.findall(rf"pipx?\"? (?:install|run) (?:-\S+ )*{name}", pages) == []


def test_no_lock_file_is_installed_by_a_resolver() -> None:
    patterns = ["Dockerfile", "Makefile", "*.md", "docs/*.md", ".ci/*", ".github/workflows/*", "tools/environment.py"]
    texts = [path.read_text(encoding="utf-8") for pattern in patterns for path in ROOT.glob(pattern)]
    lines = [
        line for text in texts for line in text.splitlines() if "--requirement" in line and "pip_audit" not in line
    ]
    # Two of the image, two for systemd, one for a wheel, that of make, and that of a release.
    assert len(lines) == 7
    assert [line for line in lines if not re.search(r"--no-deps\W+--require-hashes\W+--requirement", line)] == []
