"""docs/runbook.md has a section for every alert, and what it tells people to run works.

Its amtool lines and its PromQL are run in e2e/test_runbook.py.
"""

import json
import os
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.alert_files import ALERTS
from tests.markdown import anchor, blocks, broken_links, headings
from tools.exporter_program import API_TOKEN, CLIENT_KEY, ROOT
from tools.sandbox import Sandbox

RUNBOOK = ROOT / "docs" / "runbook.md"
TEXT = RUNBOOK.read_text(encoding="utf-8")
RUNBOOK_URL = "https://github.com/sitecore-cdp-batch-exporter/sitecore-cdp-batch-exporter/blob/main/docs/runbook.md"
PARTS = ["What it means.", "How to look.", "What to do.", "What not to do."]
REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"


ALERT_NAMES = sorted({rule["alert"] for rule in ALERTS})


def section(alert: str) -> str:
    """Give the text between this alert's heading and the next heading."""
    [found] = re.findall(rf"(?ms)^### {alert}\n(.*?)(?=^##|\Z)", TEXT)
    return str(found)


def test_every_alert_has_one_section_and_every_section_its_alert() -> None:
    assert ALERT_NAMES
    assert sorted(heading for heading in headings(RUNBOOK) if heading.startswith("SitecoreCdp")) == ALERT_NAMES
    assert sorted(re.findall(r"(?m)^### (.*)$", TEXT)) == ALERT_NAMES


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_the_link_of_an_alert_leads_to_its_section(rule: dict[str, Any]) -> None:
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOK_URL}#{anchor(rule['alert'])}"


@pytest.mark.parametrize("alert", ALERT_NAMES)
def test_a_section_tells_what_it_means_how_to_look_what_to_do_and_what_not(alert: str) -> None:
    assert re.findall(r"(?m)^\*\*(.*?)\*\*", section(alert)) == PARTS


@pytest.mark.parametrize("alert", ALERT_NAMES)
def test_a_section_has_a_query_and_ends_with_the_line_that_silences_it(alert: str) -> None:
    of_alert = [block for block in blocks(RUNBOOK) if block.heading == alert]
    assert [block.language for block in of_alert].count("sh") == 1
    assert of_alert[-1].language == "sh"
    assert of_alert[-1].text.startswith("amtool silence add ")
    assert "promql" in [block.language for block in of_alert]


@pytest.mark.parametrize("alert", ALERT_NAMES)
def test_what_is_said_of_one_batch_silences_one_ref(alert: str) -> None:
    about_a_batch = "$labels.ref" in str([rule for rule in ALERTS if rule["alert"] == alert])
    assert ('ref="$REF"' in section(alert)) == about_a_batch
    assert (f"alertname={alert}" in section(alert)) != about_a_batch


def test_all_links_lead_somewhere() -> None:
    assert broken_links(RUNBOOK) == []


def test_all_metrics_in_it_are_documented() -> None:
    named = set(re.findall(r"\bsitecore_cdp_\w+", TEXT))
    documented = set(re.findall(r"(?m)^\| `(\w+)`", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")))
    assert named
    assert named <= documented


def test_no_command_has_a_secret_among_its_arguments() -> None:
    assert not re.search(r"--user\b|(?<!\w)-u |--header|Authorization", TEXT)


def run_bash(script: str, *, home: Path, stdin: str = "") -> str:
    """Run a script as somebody does who pastes it; a failing command ends it."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "no_proxy": "*"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=home,
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_show_what_sitecore_cdp_says_of_a_batch(tmp_path: Path) -> None:
    [names] = [block.text for block in blocks(RUNBOOK) if (block.heading, block.language) == ("What a batch is", "sh")]
    [login, status, refused, remove] = [block.text for block in blocks(RUNBOOK) if block.heading == "How to look"]
    assert f"REF={REF}" in names
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(REF, status="error", total=3000, succeeded=2684, failed=316, log=True)
        set_names = f"{names}\nAPI={sandbox.base_url}\n"
        login_here = re.sub(r"(?m)^API=.*$", "", login)
        assert login_here != login
        run_bash(login_here, home=tmp_path, stdin=f"{CLIENT_KEY}\n{API_TOKEN}\n")
        login_file = tmp_path / ".sitecore-cdp.curl"
        assert stat.S_IMODE(login_file.stat().st_mode) == 0o600
        shown = run_bash(set_names + status, home=tmp_path)
        reasons = run_bash(set_names + refused, home=tmp_path)
        rejected_records = (tmp_path / "rejected-records.jsonl").read_text(encoding="utf-8").splitlines()
    answer = json.loads(shown)
    assert answer["status"] == {"code": "error", "log": "(hidden)"}
    assert answer["summaryStats"]["failedCount"] == 316
    assert sandbox.base_url not in shown
    assert len(rejected_records) == 316
    counts = [int(line.split()[0]) for line in reasons.splitlines()]
    assert sum(counts) == 316
    assert counts == sorted(counts, reverse=True)
    assert API_TOKEN not in shown + reasons
    run_bash(remove, home=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_batch_without_an_error_log_is_told_in_one_line(tmp_path: Path) -> None:
    [names] = [block.text for block in blocks(RUNBOOK) if (block.heading, block.language) == ("What a batch is", "sh")]
    [login, _, refused, _] = [block.text for block in blocks(RUNBOOK) if block.heading == "How to look"]
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(REF, status="error")
        set_names = f"{names}\n{login}\nAPI={sandbox.base_url}\n"
        done = subprocess.run(
            ["bash", "-c", set_names + refused],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "no_proxy": "*"},
            input=f"{CLIENT_KEY}\n{API_TOKEN}\n",
            capture_output=True,
            text=True,
            check=False,
        )
    assert (done.stdout, done.stderr) == ("", "This batch has no error log.\n")
    assert not (tmp_path / "rejected-records.jsonl").exists()


def test_the_command_without_credentials_tells_that_the_way_is_good(tmp_path: Path) -> None:
    [command] = [block.text for block in blocks(RUNBOOK) if "--write-out" in block.text]
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        shown = run_bash(f"API={sandbox.base_url} REF={REF}\n{command}", home=tmp_path)
    assert shown == "401\n"


def test_every_block_is_run_by_a_test() -> None:
    languages = {(block.heading in ALERT_NAMES, block.language) for block in blocks(RUNBOOK)}
    # promql and sh of alerts in e2e/test_runbook.py, the rest above.
    assert languages == {(False, "sh"), (False, "bash"), (True, "promql"), (True, "sh"), (True, "bash")}
    assert [block.heading for block in blocks(RUNBOOK) if block.language == "bash"] == [
        *["How to look"] * 4,
        "SitecoreCdpApiDown",
    ]
