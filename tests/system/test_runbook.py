"""docs/runbook.md has a section for every alert and every cause, and its commands work.

Its amtool lines and its PromQL are run in e2e/test_runbook.py.
"""

import base64
import gzip
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sitecore_cdp_exporter.api.error_log import RecordCause, cause_of
from sitecore_cdp_exporter.poll.cause import FailureCause
from tests.alert_files import ALERTS
from tests.markdown import anchor, blocks, headings
from tools.exporter_program import API_TOKEN, CLIENT_KEY, ROOT
from tools.sandbox import Sandbox

RUNBOOK = ROOT / "docs" / "runbook.md"
TEXT = RUNBOOK.read_text(encoding="utf-8")
RUNBOOK_URL = "https://github.com/sitecore-cdp-batch-exporter/sitecore-cdp-batch-exporter/blob/main/docs/runbook.md"
PARTS = ["What it means.", "How to look.", "What to do.", "What not to do."]
ALERT_LANGUAGES = ("promql", "sh", "bash")
REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
# The command is installed beside the Python that runs this.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


ALERT_NAMES = sorted({rule["alert"] for rule in ALERTS})


def section(heading: str) -> str:
    """Return the text between this heading and the next one."""
    [found] = re.findall(rf"(?ms)^### {heading}\n(.*?)(?=^##|\Z)", TEXT)
    return str(found)


def test_every_alert_has_one_section_and_every_section_its_alert() -> None:
    assert ALERT_NAMES
    assert sorted(heading for heading in headings(RUNBOOK) if heading.startswith("SitecoreCdp")) == ALERT_NAMES


def test_every_section_is_of_an_alert_or_of_a_cause_and_every_cause_has_one() -> None:
    assert sorted(re.findall(r"(?m)^### (.*)$", TEXT)) == sorted([*ALERT_NAMES, *FailureCause, *RecordCause])


@pytest.mark.parametrize("cause", [*FailureCause, *RecordCause])
def test_the_section_of_a_cause_says_what_it_is_in_the_data_how_to_find_it_and_what_to_change(cause: str) -> None:
    find = "How to find it." if cause in set(FailureCause) else "How to find them."
    assert re.findall(r"(?m)^\*\*(.*?)\*\*", section(cause)) == ["In the data.", find, "What to change."]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}")
def test_the_link_of_an_alert_leads_to_its_section(rule: dict[str, Any]) -> None:
    assert rule["annotations"]["runbook_url"] == f"{RUNBOOK_URL}#{anchor(rule['alert'])}"


@pytest.mark.parametrize("alert", ALERT_NAMES)
def test_a_section_shows_what_it_means_how_to_look_what_to_do_and_what_not(alert: str) -> None:
    assert re.findall(r"(?m)^\*\*(.*?)\*\*", section(alert)) == PARTS


@pytest.mark.parametrize("alert", ALERT_NAMES)
def test_a_section_shows_first_how_bad_it_is_and_last_when_it_ends(alert: str) -> None:
    severities = {rule["labels"]["severity"] for rule in ALERTS if rule["alert"] == alert}
    [first] = re.findall(r"\*\*What it means\.\*\* (.*?)\.", section(alert))
    assert set(first.lower().split(" or ")) == severities
    [to_do] = re.findall(r"(?s)\*\*What to do\.\*\*(.*?)\*\*What not to do", section(alert))
    assert re.search(r"\b[Tt]he alert ends\b", " ".join(to_do.split()))


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


def test_all_metrics_in_it_are_documented() -> None:
    named = set(re.findall(r"\bsitecore_cdp_\w+", TEXT))
    documented = set(re.findall(r"(?m)^\| `(\w+)`", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")))
    assert named
    assert named <= documented


def test_no_command_has_a_secret_among_its_arguments() -> None:
    assert not re.search(r"--user\b|(?<!\w)-u |--header|Authorization|\bread -|TOKEN", TEXT)


def run_bash(script: str, *, home: Path) -> str:
    """Run a script as somebody does who pastes it; a failing command ends it."""
    environment = {"PATH": PATH, "HOME": str(home)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("heading", ["How to look", "SitecoreCdpApiDown"])
def test_the_exporter_shows_a_batch_and_no_token_is_typed(heading: str, tmp_path: Path) -> None:
    [names] = [block.text for block in blocks(RUNBOOK) if (block.heading, block.language) == ("What a batch is", "sh")]
    assert f"REF={REF}" in names
    command = next(block.text for block in blocks(RUNBOOK) if (block.heading, block.language) == (heading, "bash"))
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(REF, status="success", total=3000, succeeded=3000, failed=0)
        api = {"base_url": sandbox.base_url, "basic_auth": {"username": CLIENT_KEY, "password": API_TOKEN}}
        (tmp_path / "config.yaml").write_text(json.dumps({"api": api}), encoding="utf-8")
        shown = run_bash(names + command, home=tmp_path)
    assert re.search(rf"(?m)^-  +{REF}  success  +3,000  +0 ", shown)


def test_the_rejected_records_are_read_from_the_log_and_removed(tmp_path: Path) -> None:
    _, unpack, remove = [block.text for block in blocks(RUNBOOK) if block.heading == "How to look"]
    lines = [json.dumps(record) for record in ERROR_LOG * 2 + ERROR_LOG[:1]]
    (tmp_path / "error-log.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    messages = run_bash(unpack, home=tmp_path).splitlines()
    assert (tmp_path / "rejected-records.jsonl").read_text(encoding="utf-8").splitlines() == lines
    assert messages[0].split(maxsplit=1) == ["3", '"message": "Validation error: loyaltyTier is not in the schema"']
    assert len(messages) == 10
    run_bash(remove, home=tmp_path)
    assert list(tmp_path.iterdir()) == []


# What Sitecore CDP writes, as far as it is documented, and what it might.
ERROR_LOG: list[dict[str, object]] = [
    {"ref": "a", "code": "400", "message": "Validation error: loyaltyTier is not in the schema"},
    {"ref": "b", "code": 400, "message": "More than one order with that referenceId"},
    {"ref": "c", "code": "400", "message": "Identity information missing"},
    {"ref": "d", "code": 400, "message": "Not enough identifying info"},
    {"ref": "null", "code": "400", "message": "Failed to parse import line"},
    {"ref": "e", "code": "402", "message": "Unsupported mode"},
    {"ref": "f", "code": 403, "message": "Action not allowed"},
    {"ref": "g", "code": "404", "message": "Guest not found"},
    {"ref": "h", "code": "409", "message": "Identity already exists"},
    {"ref": "i", "code": "500", "message": "Internal error"},
    {"ref": "j", "code": "403", "message": "Unable to migrate guest with open session"},
    {"ref": "k", "code": 418, "message": "I am a teapot"},
    {"ref": "l", "code": "200", "message": "2 matches found for this guest, 1st match deleted"},
]


def bash_of(heading: str) -> str:
    [command] = [block.text for block in blocks(RUNBOOK) if (block.heading, block.language) == (heading, "bash")]
    return command


@pytest.mark.parametrize("cause", [cause for cause in RecordCause if cause is not RecordCause.UNPARSABLE_LINE])
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")], ids=["spaced", "dense"])
def test_the_command_of_a_cause_finds_its_records_and_no_others(
    cause: RecordCause, separators: tuple[str, str], tmp_path: Path
) -> None:
    lines = [json.dumps(record, separators=separators) for record in ERROR_LOG]
    (tmp_path / "rejected-records.jsonl").write_text("\n".join(lines), encoding="utf-8")
    expected = [line for line, record in zip(lines, ERROR_LOG, strict=True) if cause_of(record) is cause]
    assert expected
    assert run_bash(bash_of(cause), home=tmp_path).splitlines() == expected


@pytest.fixture
def uploaded_file(tmp_path: Path) -> Path:
    path = tmp_path / "guests.jsonl.gz"
    lines = [b'{"ref": "a"}', b"[", b'{"ref":', b'"b"}', b"", b'{"ref": "c"}', b'["d"]', b"\xff"]
    path.write_bytes(gzip.compress(b"\n".join(lines)))
    return path


def test_the_command_of_an_unparsable_line_finds_the_lines(uploaded_file: Path) -> None:
    command = f"FILE={uploaded_file.name}\n{bash_of('unparsable_line')}"
    assert run_bash(command, home=uploaded_file.parent).split() == ["2", "3", "4", "7", "8"]


def test_a_rejected_record_is_found_in_the_file(uploaded_file: Path) -> None:
    command = f"FILE={uploaded_file.name} RECORD=c\n{bash_of('Why records were rejected')}"
    assert run_bash(command, home=uploaded_file.parent) == '{"ref": "c"}\n'


def test_the_command_of_an_unreadable_file_shows_whether_it_is_gzip(uploaded_file: Path) -> None:
    command = f"FILE={uploaded_file.name}\n{bash_of('file_unreadable')}"
    assert run_bash(command, home=uploaded_file.parent) == ""
    whole = uploaded_file.read_bytes()
    for damaged in (b"PK\x03\x04", whole[:-4], b'{"ref": "a"}'):
        uploaded_file.write_bytes(damaged)
        done = subprocess.run(["bash", "-c", command], cwd=uploaded_file.parent, capture_output=True, check=False)
        assert (done.returncode, bool(done.stderr)) == (1, True)


@pytest.mark.parametrize(
    "cause",
    [
        FailureCause.CHECKSUM_NOT_LOWERCASE_HEX,
        FailureCause.CHECKSUM_MALFORMED,
        FailureCause.CHECKSUM_OR_SIZE_MISMATCH,
    ],
)
def test_the_commands_of_a_corrupted_batch_show_what_to_declare(cause: str, uploaded_file: Path) -> None:
    shown = run_bash(f"FILE={uploaded_file.name}\n{bash_of(cause)}", home=uploaded_file.parent).split()
    content = uploaded_file.read_bytes()
    md5 = hashlib.md5(content, usedforsecurity=False)
    expected = [md5.hexdigest(), base64.b64encode(md5.digest()).decode(), f"{len(content)}"]
    assert shown[0] == expected[0]
    assert set(shown) <= set(expected)


def test_every_block_is_run_by_a_test() -> None:
    languages = {(block.heading in ALERT_NAMES, block.language) for block in blocks(RUNBOOK)}
    # promql and sh of alerts in e2e/test_runbook.py, the rest above.
    assert languages == {(False, "sh"), (False, "promql"), (False, "bash"), *((True, name) for name in ALERT_LANGUAGES)}
    corrupted = [cause for cause in FailureCause if cause.startswith("checksum")]
    assert [block.heading for block in blocks(RUNBOOK) if block.language == "bash"] == [
        *["How to look"] * 3,
        "SitecoreCdpApiDown",
        *[FailureCause.FILE_UNREADABLE, *corrupted],
        *["Why records were rejected", *RecordCause],
    ]
