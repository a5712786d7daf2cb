"""What systemd itself thinks of the unit; its program `systemd-analyze` reads units without systemd running."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.system.systemd_unit import UNIT_FILE
from tools.exporter_program import ROOT

pytestmark = pytest.mark.e2e

PAGE = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
# A later systemd may look at more, and so find more exposed than the one of the page.
MAX_EXPOSURE = 1.5
EXPOSURE = re.compile(r"^→ Overall exposure level for \S+: (\d+\.\d) .*$", flags=re.MULTILINE)


@pytest.fixture(autouse=True)
def systemd_analyze() -> None:
    if shutil.which("systemd-analyze"):
        return
    message = "systemd-analyze not found on the PATH; Debian has it in its package `systemd`"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False)


def unit_as_installed(directory: Path, name: str = UNIT_FILE.name, **replaced: str) -> Path:
    """Write the unit, under this name, with the program where it is here, instead of in /opt."""
    text = UNIT_FILE.read_text(encoding="utf-8")
    program = "/opt/sitecore-cdp-batch-exporter/bin/sitecore-cdp-batch-exporter"
    # In quotes, because the path of a clone may have blanks.
    text = text.replace(f"={program} ", f'="{Path(sys.executable).parent / Path(program).name}" ')
    for setting, value in replaced.items():
        text, count = re.subn(rf"(?m)^{setting}=.*$", f"{setting}={value}", text)
        assert count == 1
    path = directory / name
    path.write_text(text, encoding="utf-8")
    return path


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    verified = run("verify", unit_as_installed(tmp_path))
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_systemd_finds_nothing_wrong_with_the_unit_of_an_organisation(tmp_path: Path) -> None:
    template = unit_as_installed(tmp_path, UNIT_FILE.name.replace(".", "@."))
    verified = run("verify", template.with_name(UNIT_FILE.name.replace(".", "@acme.")))
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_systemd_would_find_a_mistake(tmp_path: Path) -> None:
    verified = run("verify", unit_as_installed(tmp_path, ProtectSystem="strictly"))
    assert "Failed to parse protect system value" in verified.stderr


def test_the_unit_is_as_little_exposed_as_the_page_says() -> None:
    [quoted] = EXPOSURE.finditer(PAGE)
    [command] = re.findall(r"^systemd-analyze (security .*)$", PAGE, flags=re.MULTILINE)
    reviewed = subprocess.run(
        ["systemd-analyze", *command.split()], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    [found] = EXPOSURE.finditer(reviewed)
    assert float(found[1]) <= MAX_EXPOSURE
    if run("--version").stdout.startswith("systemd 252 "):
        assert found[0] == quoted[0]


def test_the_review_would_find_a_unit_that_is_open(tmp_path: Path) -> None:
    unit = unit_as_installed(tmp_path, ProtectSystem="no", CapabilityBoundingSet="~CAP_SYS_TIME", DynamicUser="no")
    [found] = EXPOSURE.finditer(run("security", "--offline=true", unit).stdout)
    assert float(found[1]) > MAX_EXPOSURE
