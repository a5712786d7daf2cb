"""The alert rules in the eyes of Prometheus' own tool."""

import subprocess

import pytest

from tools.exporter_program import ROOT

pytestmark = pytest.mark.e2e


# promtool evaluates all rules for each minute of each test, some of which last seven hours.
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "command",
    [
        ["check", "rules", "--lint=all", "--lint-fatal", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
    ],
    ids=["check", "test"],
)
def test_promtool_finds_nothing_wrong_with_the_alert_rules(command: list[str]) -> None:
    done = subprocess.run(["promtool", *command], cwd=ROOT / "prometheus", capture_output=True, text=True, check=False)
    assert (done.returncode, "SUCCESS" in done.stdout) == (0, True), done.stdout + done.stderr
