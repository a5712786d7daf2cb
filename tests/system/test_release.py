"""What makes a release: the workflows, its files and its notes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from sitecore_cdp_exporter import __version__
from tools import release_notes
from tools.exporter_program import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKE = shutil.which("make") or "make"


def workflow(name: str) -> dict[str, Any]:
    """Return it with strings only, because YAML 1.1 reads the key `on` as a boolean."""
    text = (ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.load(text, yaml.BaseLoader)  # noqa: S506  It makes nothing but strings.
    return loaded


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in workflow(name)["jobs"].values() for step in job.get("steps", [])]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_action_is_pinned_by_its_commit_and_names_its_version(path: Path) -> None:
    uses = re.findall(r"(?m)^ *(?:- )?uses: (.*)$", path.read_text(encoding="utf-8"))
    assert uses
    pinned = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./\S+( #.*)?")
    assert [each for each in uses if not pinned.fullmatch(each)] == []


def test_an_action_has_the_same_commit_wherever_it_is_used() -> None:
    pins = {pin for path in WORKFLOWS for pin in re.findall(r"uses: ([\w.-]+/.*)", path.read_text(encoding="utf-8"))}
    actions = [pin.partition("@")[0] for pin in pins]
    assert sorted(actions) == sorted(set(actions))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_no_checkout_leaves_a_token_on_the_disk(path: Path) -> None:
    checkouts = [step for step in steps(path.name) if step.get("uses", "").startswith("actions/checkout@")]
    assert checkouts
    assert [step for step in checkouts if step.get("with", {}).get("persist-credentials") != "false"] == []


def test_each_job_of_a_release_may_do_what_it_is_for_and_no_more() -> None:
    release = workflow("release.yml")
    assert release["permissions"] == {}
    assert {name: job["permissions"] for name, job in release["jobs"].items()} == {
        "test": {"contents": "read"},
        "build": {"contents": "read"},
        "registry": {"contents": "read", "packages": "write"},
        "pypi": {"contents": "read", "id-token": "write"},
        "release": {"contents": "write", "id-token": "write", "attestations": "write"},
    }
    assert workflow("ci.yml")["permissions"] == {"contents": "read"}


def test_nothing_is_published_before_all_tests_have_passed() -> None:
    jobs = workflow("release.yml")["jobs"]
    assert jobs["test"]["uses"] == "./.github/workflows/ci.yml"
    assert "workflow_call" in workflow("ci.yml")["on"]

    def before(name: str) -> set[str]:
        needed = set(jobs[name].get("needs", []))
        return needed.union(*(before(each) for each in needed))

    assert [name for name in ("registry", "pypi", "release") if not {"test", "build"} <= before(name)] == []


def test_only_githubs_own_registry_gets_githubs_token() -> None:
    [login] = [step for step in steps("release.yml") if step.get("name") == "Log in"]
    github_only = "startsWith(vars.REGISTRY, 'ghcr.io/') && github."
    assert all(value.startswith(f"${{{{ {github_only}") for value in login["env"].values())


def test_the_program_that_publishes_is_the_locked_one_with_its_hashes(tmp_path: Path) -> None:
    [install] = [step["run"] for step in steps("release.yml") if "Install uv" in step.get("name", "")]
    [select] = re.findall(r"(?m)^sed .* > /tmp/uv.txt$", install)
    selected = tmp_path / "uv.txt"
    subprocess.run(["sh", "-c", select.replace("/tmp/uv.txt", str(selected))], cwd=ROOT, check=True)  # noqa: S108
    requirement, *hashes, _via = selected.read_text(encoding="utf-8").splitlines()
    assert re.fullmatch(r"uv==[\d.]+ \\", requirement)
    assert len(hashes) > 10
    assert [each for each in hashes if not re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", each)] == []


def test_the_image_is_built_for_both_architectures_with_sbom_and_provenance() -> None:
    [build] = [step["with"] for step in steps("release.yml") if "build-push-action" in step.get("uses", "")]
    assert (build["platforms"], build["provenance"], build["sbom"]) == ("linux/amd64,linux/arm64", "mode=max", "true")
    assert "/sitecore-cdp-batch-exporter:${{ env.VERSION }}\n" in build["tags"]


def test_the_workflows_are_audited_clean() -> None:
    zizmor = [str(Path(sys.executable).parent / "zizmor"), "--offline", "--no-progress", "--quiet", ".github"]
    audited = subprocess.run(zizmor, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (audited.returncode, audited.stderr) == (0, ""), audited.stdout


def make(*arguments: str, **environment: str) -> str:
    command = [MAKE, "--no-print-directory", f"VENV={sys.prefix}", "INSTALL=:", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def test_make_check_lints_the_workflows() -> None:
    recipe = make("check", "--dry-run", PATH="/usr/bin:/bin")
    assert "zizmor' --offline" in recipe
    assert "actionlint/cmd/actionlint@v" in recipe


def test_actionlint_that_cannot_be_had_is_reported_as_skipped(tmp_path: Path) -> None:
    assert make("actionlint", PATH=str(tmp_path)) == (
        "actionlint: SKIPPED, because neither actionlint nor Go is installed\n"
    )


@pytest.mark.parametrize("status", [0, 1])
def test_actionlint_of_the_machine_decides(status: int, tmp_path: Path) -> None:
    program = tmp_path / "actionlint"
    program.write_text(f"#!/bin/sh\necho linted\nexit {status}\n", encoding="utf-8")
    program.chmod(0o755)
    command = [MAKE, "--no-print-directory", "actionlint"]
    linted = subprocess.run(command, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert linted.stdout == "linted\n"
    assert (linted.returncode != 0) == (status != 0)


def test_a_release_has_the_package_the_chart_the_rules_the_dashboards_the_sbom_and_checksums() -> None:
    recipe = make("release-files", "--dry-run", PATH="/usr/bin:/bin")
    assert "hatchling build" in recipe
    assert "helm package dist/chart --destination dist\n" in recipe
    assert "tools.sbom dist/sbom.cdx.json" in recipe
    [copied] = re.findall(r"^cp (.*) dist$", recipe, flags=re.MULTILINE)
    prometheus = yaml.safe_load((ROOT / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
    rules = [ROOT / "prometheus" / name for name in prometheus["rule_files"]]
    dashboards = list((ROOT / "grafana" / "dashboards").glob("*.json"))
    assert {ROOT / name for name in copied.split()} == {*rules, *dashboards}
    assert recipe.rstrip().endswith("sha256sum * > SHA256SUMS")


def test_the_chart_of_a_release_takes_the_image_from_the_registry_of_the_release(tmp_path: Path) -> None:
    def values(**environment: str) -> dict[str, Any]:
        recipe = make("release-files", "--dry-run", PATH="/usr/bin:/bin", **environment)
        [change] = re.findall(r"(?m)^sed .* > dist/chart/values.yaml$", recipe)
        written = tmp_path / "values.yaml"
        subprocess.run(["sh", "-c", change.replace("dist/chart/values.yaml", str(written))], cwd=ROOT, check=True)
        loaded: dict[str, Any] = yaml.safe_load(written.read_text(encoding="utf-8"))
        return loaded

    own = yaml.safe_load((ROOT / "deploy" / "helm" / "values.yaml").read_text(encoding="utf-8"))
    assert values() == own
    released = values(REGISTRY="ghcr.io/acme")
    assert released["image"].pop("repository") == "ghcr.io/acme/sitecore-cdp-batch-exporter"
    del own["image"]["repository"]
    assert released == own
    [build] = [step for step in steps("release.yml") if step.get("run") == "make release-files"]
    assert build["env"] == {"REGISTRY": "${{ vars.REGISTRY }}"}


CHANGELOG = """# Changelog

## Unreleased

## [1.2.3] - 2026-11-26

### Fixed

- This.

## [1.2.2] - 2026-11-25

- That.
"""


def test_the_notes_of_a_release_are_its_section_of_the_changelog() -> None:
    assert release_notes.notes(CHANGELOG, "1.2.3") == "### Fixed\n\n- This."
    assert release_notes.notes(CHANGELOG, "1.2.2") == "- That."


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("## Unreleased\n", "## Unreleased\n\n- Forgotten.\n"),
        ("[1.2.3] - 2026-11-26", "[1.2.3] - soon"),
        ("[1.2.3]", "[1x2.3]"),
        ("### Fixed\n\n- This.\n", ""),
    ],
    ids=["unreleased entries", "no date", "another version", "nothing in it"],
)
def test_a_changelog_that_is_not_ready_stops_the_release(old: str, new: str) -> None:
    assert old in CHANGELOG
    with pytest.raises(ValueError, match="the changelog"):
        release_notes.notes(CHANGELOG.replace(old, new), "1.2.3")


def test_a_tag_of_another_version_stops_the_release(capsys: pytest.CaptureFixture[str]) -> None:
    assert release_notes.main("v9.9.9") == 1
    assert f"the tag v9.9.9 is not v{__version__}" in capsys.readouterr().err


def test_this_version_has_notes() -> None:
    released = re.sub(r"(?s)## Unreleased.*?(?=## \[)", "", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    assert "- " in release_notes.notes(released, __version__)
