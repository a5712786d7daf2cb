"""What the commands about dependencies say, and what they must never say."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from pip_audit import _format as report_format  # type: ignore[import-untyped]
from pip_audit import _service as report_service

from sitecore_cdp_exporter import __version__
from supply_chain import audit as audit_module
from supply_chain.audit import Audit, AuditError, NoAnswerError, audit
from tools.exporter_program import ROOT

LINK = re.compile(r"\]\(([\w./-]+)")


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", f"VENV={sys.prefix}", "INSTALL=:", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def shipped() -> set[str]:
    """Give the normalized names of the locked packages that this Python needs to run the exporter."""
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    requirements = (Requirement(text) for text in re.findall(r"^(\S+==.*?) \\$", lock, flags=re.MULTILINE))
    return {canonicalize_name(each.name) for each in requirements if not each.marker or each.marker.evaluate()}


def locked_package(name: str) -> Any:  # noqa: ANN401  pip-audit has no types.
    return report_service.ResolvedDependency(name, Version("1.0"))


def unknown_package(name: str) -> Any:  # noqa: ANN401  Likewise.
    return report_service.SkippedDependency(name, f"Dependency not found: {name} (1.0)")


VULNERABILITY = report_service.VulnerabilityResult.create(
    ids=["CVE-2026-0001"], description="It is bad.", fix_versions=[Version("1.1"), Version("2.0")], published=None
)
UNFIXED = report_service.VulnerabilityResult.create(
    ids=["PYSEC-2026-2"], description="It is bad.", fix_versions=[], published=None
)


def report(packages: dict[Any, Sequence[Any]]) -> dict[str, Any]:
    """Give what pip-audit prints of its results, by its own code."""
    loaded: dict[str, Any] = json.loads(report_format.JsonFormat(False, True).format(packages, []))  # noqa: FBT003  Its names vary.
    return loaded


@pytest.mark.parametrize(
    ("packages", "printed", "lenient", "strict"),
    [
        pytest.param(
            {locked_package("a"): [], locked_package("b"): []},
            ["0 known vulnerabilities in 2 audited packages"],
            False,
            False,
            id="all safe",
        ),
        pytest.param(
            {locked_package("a"): [VULNERABILITY, UNFIXED], locked_package("b"): []},
            [
                "a 1.0: CVE-2026-0001, fixed in 1.1, 2.0",
                "a 1.0: PYSEC-2026-2, fixed in no version yet",
                "2 known vulnerabilities in 2 audited packages",
            ],
            True,
            True,
            id="vulnerable",
        ),
        pytest.param(
            {unknown_package("a"): [], locked_package("b"): [UNFIXED], unknown_package("c"): []},
            [
                "b 1.0: PYSEC-2026-2, fixed in no version yet",
                "NOT AUDITED: 2 of 3 packages.",
                "Nothing is known about them, good or bad. For instance: Dependency not found: a (1.0)",
                "1 known vulnerabilities in 1 audited packages",
            ],
            True,
            True,
            id="vulnerable, and some unknown",
        ),
        pytest.param(
            {locked_package("a"): [], unknown_package("b"): []},
            [
                "NOT AUDITED: 1 of 2 packages.",
                "Nothing is known about them, good or bad. For instance: Dependency not found: b (1.0)",
                "0 known vulnerabilities in 1 audited packages",
            ],
            False,
            True,
            id="some unknown",
        ),
        pytest.param(
            {unknown_package("a"): []},
            [
                "NOT AUDITED: 1 of 1 packages.",
                "Nothing is known about them, good or bad. For instance: Dependency not found: a (1.0)",
            ],
            False,
            True,
            id="all unknown",
        ),
        pytest.param({}, ["NOT AUDITED: the lock file names no package."], True, True, id="nothing at all"),
    ],
)
def test_what_was_not_looked_up_is_never_called_safe(
    packages: dict[Any, Sequence[Any]], printed: list[str], *, lenient: bool, strict: bool
) -> None:
    result = Audit.of(report(packages))
    assert str(result).splitlines() == printed
    assert (result.fails(strict=False), result.fails(strict=True)) == (lenient, strict)


def test_the_audit_covers_every_locked_package(tmp_path: Path) -> None:
    # It stands in for pip-audit and tells as a reason what it was asked.
    asked = tmp_path / "pip_audit.py"
    asked.write_text(
        "import json, sys\nprint(json.dumps({'dependencies': [{'name': 'x', 'skip_reason': ' '.join(sys.argv)}]}))\n"
        "print('No known vulnerabilities found', file=sys.stderr)\n",
        encoding="utf-8",
    )
    result = audit([sys.executable, str(asked)], audit_module.LOCK_FILE)
    assert f"--requirement={ROOT}/requirements-dev.txt" in result.unknown["x"]
    locks = [(ROOT / name).read_text(encoding="utf-8") for name in ("requirements.txt", "requirements-build.txt")]
    everything = audit_module.LOCK_FILE.read_text(encoding="utf-8")
    for requirement in re.findall(r"^\S+==\S+", "\n".join(locks), flags=re.MULTILINE):
        assert f"{requirement} " in everything


def no_network(directory: Path) -> dict[str, str]:
    """Give the environment of a machine without one. The cache of pip could answer from before."""
    # Nothing listens there.
    nowhere = "http://127.0.0.1:1"
    return {"HTTPS_PROXY": nowhere, "https_proxy": nowhere, "PIP_CACHE_DIR": str(directory)}


@pytest.mark.parametrize(("arguments", "failed"), [([], False), (["ARGS=--strict"], True)], ids=["lenient", "strict"])
def test_without_a_network_the_audit_says_so(arguments: list[str], *, failed: bool, tmp_path: Path) -> None:
    run = make("audit", *arguments, **no_network(tmp_path))
    assert run.stdout.startswith("NOT AUDITED: pip-audit gave no report. ")
    assert "no known" not in run.stdout.lower() + run.stderr.lower()
    assert "Traceback" not in run.stdout
    assert (run.returncode != 0) == failed


@pytest.fixture
def lock_file(tmp_path: Path) -> Path:
    """Give a lock file of one package."""
    path = tmp_path / "requirements.txt"
    path.write_text(f"a==1.0 --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    return path


# pip-audit with a network in which its service answers each request so.
PIP_AUDIT = """
import requests, sys
from pip_audit import _cli
from pip_audit._service import pypi

def send(self, request, **_):
    if {error!r}:
        raise getattr(requests, {error!r} or "")("it failed")
    response = requests.Response()
    response.status_code, response._content = {status}, {body!r}
    return response

class Session(requests.Session):
    send = send

pypi.caching_session = lambda _: Session()
_cli.audit()
"""


def pip_audit(*, error: str = "", status: int = 200, body: bytes = b"{}") -> list[str]:
    """Give the command of a pip-audit whose service answers so, or whose requests fail with this error."""
    return [sys.executable, "-c", PIP_AUDIT.format(error=error, status=status, body=body)]


def test_a_service_that_knows_a_package_is_believed(lock_file: Path) -> None:
    result = audit(pip_audit(), lock_file)
    assert (list(result.audited), result.unknown, result.vulnerabilities) == (["a"], {}, [])


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(pip_audit(error="ConnectTimeout"), id="cut off"),
        pytest.param(pip_audit(error="ConnectionError"), id="refused"),
        pytest.param(pip_audit(error="ReadTimeout"), id="silent"),
        pytest.param(pip_audit(status=503), id="out of order"),
        pytest.param(pip_audit(body=b"<html>Log in first."), id="a page of a proxy"),
    ],
)
def test_a_service_that_does_not_answer_is_no_broken_lock_file(network: list[str], lock_file: Path) -> None:
    with pytest.raises(NoAnswerError, match=r"^.+$"):
        audit(network, lock_file)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "invalid requirements input"),
        ("b==1.0\n", "does not contain a hash"),
        ("b=1 ==\n", "invalid specifier at line 2"),
        (f"b>=1.0 --hash=sha256:{'0' * 64}\n", "not pinned"),
        (f"a==2.0 --hash=sha256:{'0' * 64}\n", "duplicate"),
    ],
    ids=["missing", "no hash", "no requirement", "no version", "two versions"],
)
def test_a_broken_lock_file_fails_the_check_without_a_network_too(
    text: str | None, told: str, lock_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is None:
        lock_file.unlink()
    else:
        # The package before it is the first that would be asked for.
        lock_file.write_text(f"{lock_file.read_text(encoding='utf-8')}{text}", encoding="utf-8")
    monkeypatch.setattr(audit_module, "LOCK_FILE", lock_file)
    for name, value in no_network(lock_file.parent).items():
        monkeypatch.setenv(name, value)
    assert audit_module.main([]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("NOT AUDITED: pip-audit gave no report, and not for lack of a network.\n")
    assert told in printed.err


def test_a_lock_file_without_a_package_fails_the_check(
    lock_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lock_file.write_text("# Nothing.\n", encoding="utf-8")
    monkeypatch.setattr(audit_module, "LOCK_FILE", lock_file)
    assert audit_module.main([]) == 1
    assert capsys.readouterr().out == "NOT AUDITED: the lock file names no package.\n"


def test_a_missing_pip_audit_is_no_missing_network(lock_file: Path) -> None:
    with pytest.raises(AuditError, match="No module named pip_audit_of_somebody"):
        audit([sys.executable, "-m", "pip_audit_of_somebody"], lock_file)


def test_the_licences_of_all_that_is_shipped_are_listed_and_allowed() -> None:
    run = make("licences")
    assert run.returncode == 0, run.stderr
    listed = {canonicalize_name(name) for name in re.findall(r"^ (\S+) +\d\S* +\S", run.stdout, flags=re.MULTILINE)}
    assert shipped() <= listed
    assert "GPL" not in run.stdout.partition("Count")[0]


@pytest.mark.parametrize(
    ("variable", "allowed", "refused"),
    [
        ("SHIPPED_LICENCES", "MIT; MIT License", "Apache"),
        ("DEVELOPMENT_LICENCES", "MIT; MIT License; Apache-2.0; BSD-3-Clause; Apache Software License", "allow-only"),
    ],
)
def test_a_licence_that_is_not_allowed_fails_the_check(variable: str, allowed: str, refused: str) -> None:
    run = make("licences", f"{variable}={allowed}")
    assert run.returncode != 0
    assert refused in run.stderr
    assert "not in allow-only licenses was found for package" in run.stderr


def test_what_is_shipped_may_not_be_under_the_gpl() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")
    [allowed] = re.findall(r"^SHIPPED_LICENCES := (.*)$", makefile, flags=re.MULTILINE)
    assert "MIT" in allowed
    assert "GPL" not in allowed


def test_make_check_looks_at_licences_and_vulnerabilities() -> None:
    dry = make("check", "--dry-run").stdout
    assert "supply_chain.audit" in dry
    assert "pip-licenses" in dry


@pytest.fixture(scope="module")
def sbom() -> dict[str, Any]:
    """Make the software bill of materials, which installs what is locked into an environment of its own."""
    run = make("sbom")
    if run.returncode != 0 and os.environ.get("CI") != "true":
        pytest.skip(f"needs a package index: {run.stderr}")
    assert run.returncode == 0, run.stderr
    loaded: dict[str, Any] = json.loads((ROOT / "dist" / "sbom.cdx.json").read_text(encoding="utf-8"))
    return loaded


def test_the_sbom_names_all_that_is_shipped_and_nothing_else(sbom: dict[str, Any]) -> None:
    assert sbom["bomFormat"] == "CycloneDX"
    assert {canonicalize_name(component["name"]) for component in sbom["components"]} == shipped()
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8").lower()
    for component in sbom["components"]:
        name = canonicalize_name(component["name"])
        assert f"{name}=={component['version']} " in lock
        assert component["purl"] == f"pkg:pypi/{name}@{component['version']}"
        assert component["licenses"]


def test_the_sbom_tells_who_needs_whom(sbom: dict[str, Any]) -> None:
    root = sbom["metadata"]["component"]
    assert (root["name"], root["version"]) == ("sitecore-cdp-batch-exporter", __version__)
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in sbom["dependencies"]}
    reached, new = set[str](), {root["bom-ref"]}
    while new:
        reached |= new
        new = {ref for each in new for ref in needs[each]} - reached
    assert reached == set(needs)
    assert len(reached) == len(shipped()) + 1


def test_the_sbom_is_the_same_everywhere(sbom: dict[str, Any]) -> None:
    assert "serialNumber" not in sbom
    assert "timestamp" not in sbom["metadata"]
    text = json.dumps(sbom)
    assert not re.findall(r"file:|/simple|--hash", text)
    assert str(ROOT) not in text
    assert sys.prefix not in text
    assert "/tmp" not in text  # noqa: S108  Where the environment stood.


def test_the_security_policy_names_documents_that_are_there() -> None:
    links = LINK.findall((ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert "docs/deployment.md" in links
    assert [link for link in links if not (ROOT / link).exists()] == []
