"""What `make check` and releases say about the packages that the exporter is made of."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sitecore_cdp_exporter import __version__
from tools.exporter_program import ROOT

LINK = re.compile(r"\]\(([\w./-]+)")


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", f"VENV={sys.prefix}", "INSTALL=:", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def shipped() -> set[str]:
    """Return the normalized names of the locked packages that this Python needs to run the exporter."""
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    requirements = (Requirement(text) for text in re.findall(r"^(\S+==.*?) \\$", lock, flags=re.MULTILINE))
    return {canonicalize_name(each.name) for each in requirements if not each.marker or each.marker.evaluate()}


@pytest.mark.slow(reason="pip-audit takes seconds to start")
def test_an_audit_that_cannot_ask_fails(tmp_path: Path) -> None:
    # Nothing listens there. The cache of pip could answer from before.
    nowhere = "http://127.0.0.1:1"
    run = make("audit", HTTPS_PROXY=nowhere, https_proxy=nowhere, PIP_CACHE_DIR=str(tmp_path))
    assert run.returncode != 0
    assert "No known vulnerabilities" not in run.stdout + run.stderr


@pytest.mark.slow(reason="seconds of reading the metadata of 100 packages")
def test_the_licences_of_all_that_is_shipped_are_listed_and_allowed() -> None:
    run = make("licences")
    assert run.returncode == 0, run.stderr
    listed = {canonicalize_name(name) for name in re.findall(r"^ (\S+) +\d\S* +\S", run.stdout, flags=re.MULTILINE)}
    assert shipped() <= listed
    assert "GPL" not in run.stdout.partition("Count")[0]


@pytest.mark.slow(reason="seconds of reading the metadata of 100 packages")
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


def test_make_check_looks_at_licences_and_vulnerabilities_of_all_that_is_locked() -> None:
    dry = make("check", "--dry-run").stdout
    assert "piplicenses" in dry
    assert "pip_audit --require-hashes --disable-pip --requirement requirements-dev.txt" in dry


@pytest.fixture(scope="module")
def sbom(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("sbom") / "dist" / "sbom.cdx.json"
    subprocess.run([sys.executable, "-m", "tools.sbom", path], cwd=ROOT, capture_output=True, check=True)
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


@pytest.mark.slow(reason="seconds of reading the metadata of 100 packages")
def test_the_sbom_names_all_that_is_shipped_and_nothing_else(sbom: dict[str, Any]) -> None:
    assert sbom["bomFormat"] == "CycloneDX"
    assert {canonicalize_name(component["name"]) for component in sbom["components"]} == shipped()
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8").lower()
    for component in sbom["components"]:
        name = canonicalize_name(component["name"])
        assert f"{name}=={component['version']} " in lock
        assert component["purl"] == f"pkg:pypi/{name}@{component['version']}"
        assert component["licenses"]


@pytest.mark.slow(reason="seconds of reading the metadata of 100 packages")
def test_the_sbom_shows_who_needs_whom(sbom: dict[str, Any]) -> None:
    root = sbom["metadata"]["component"]
    assert (root["name"], root["version"]) == ("sitecore-cdp-batch-exporter", __version__)
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in sbom["dependencies"]}
    reached, new = set[str](), {root["bom-ref"]}
    while new:
        reached |= new
        new = {ref for each in new for ref in needs[each]} - reached
    assert reached == set(needs)
    assert len(reached) == len(shipped()) + 1


@pytest.mark.slow(reason="seconds of reading the metadata of 100 packages")
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
