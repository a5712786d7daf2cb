"""--once as people and pipelines run it: what docs/once.md shows and promises, against the sandbox."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from sitecore_cdp_exporter.report import ExitStatus, Outcome
from tests.conditions import wait_until
from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, forked
from tests.markdown import blocks
from tools.program import Program, running
from tools.sandbox import RECORD_ERRORS, Sandbox

DOCUMENT = ROOT / "docs" / "once.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
PROCESSING = "12af3453-62da-4b31-b646-631b7b5f3009"
SUCCEEDED = "3ee694e5-0b77-2d1e-af19-1aa78f500785"
# The command is installed beside the Python that runs this.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def block(heading: str, language: str) -> str:
    [found] = [block.text for block in blocks(DOCUMENT) if (block.heading, block.language) == (heading, language)]
    return found


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        yield sandbox


@pytest.fixture
def config(sandbox: Sandbox, tmp_path: Path) -> Path:
    """The config of the pipeline, for the sandbox."""
    path = tmp_path / "config.yaml"
    path.write_text(re.sub(r"https://\S+", sandbox.base_url, block("In a pipeline", "yaml")), encoding="utf-8")
    return path


def put_a_partial_failure(sandbox: Sandbox) -> None:
    modified = datetime.now(UTC) - timedelta(hours=3, minutes=20, seconds=5)
    sandbox.put_batch(
        REF,
        status="error",
        total=121776,
        succeeded=121460,
        failed=316,
        modified_at=modified,
        created_at=modified - timedelta(minutes=10),
        log={"validation": 16, "identity_missing": 300},
    )


# The document


def test_the_report_that_is_shown_is_that_of_a_real_poll(sandbox: Sandbox, config: Path, tmp_path: Path) -> None:
    put_a_partial_failure(sandbox)
    now = datetime.now(UTC)
    sandbox.put_batch(PROCESSING, status="processing", created_at=now - timedelta(minutes=2))
    sandbox.put_batch(
        SUCCEEDED, status="success", total=2975, succeeded=2975, failed=0, created_at=now - timedelta(minutes=12)
    )
    document = yaml.safe_load(config.read_text(encoding="utf-8"))
    document["batches"] = [
        {"ref": SUCCEEDED, "feed": "web-events"},
        PROCESSING,
        {"ref": REF, "feed": "nightly-guests"},
    ]
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    with once(tmp_path, f"--config.file={config}") as program:
        assert program.process.wait() == ExitStatus.FAILED
        assert without_ages(program.output()) == without_ages(block("One batch in a terminal or a pipeline", ""))


def without_ages(report: str) -> list[str]:
    """Give the lines of a report; seconds have passed since the batches were made, and a column may be wider."""
    return [re.sub(r" +", " ", re.sub(r" (\d+[dhms])+ ", " AGE ", line)) for line in report.splitlines()]


@contextmanager
def once(directory: Path, *flags: str) -> Iterator[Program]:
    """Run --once as a process of its own, with the credentials of the sandbox."""
    credentials = {"SITECORE_CDP_CLIENT_KEY": CLIENT_KEY, "SITECORE_CDP_API_TOKEN": API_TOKEN}
    with forked(["--once", *flags], log=directory / "once.log", environment=credentials) as program:
        yield program


def test_the_keys_of_the_json_are_documented(sandbox: Sandbox, config: Path, tmp_path: Path) -> None:
    put_a_partial_failure(sandbox)
    with once(tmp_path, f"--config.file={config}", "--output=json", REF) as program:
        assert program.process.wait() == ExitStatus.FAILED
        # Nothing but the report, also on standard error.
        report = json.loads(program.output())
    section = TEXT.partition("## JSON")[2]
    of_all, of_batch = (
        [name for cell in re.findall(r"(?m)^\| (`.*?`) \|", part) for name in re.findall(r"`(\w+)`", cell)]
        for part in section.split("Each batch has")
    )
    assert of_all == [*report]
    assert of_batch == [*report["batches"][0]]
    assert {*re.findall(r"`(\w+)`", re.findall(r"(?m)^\| `outcome` \| (.*) \|", section)[0])} == {*Outcome}


def test_each_exit_status_is_documented() -> None:
    section = TEXT.partition("## Exit status")[2].partition("\n## ")[0]
    documented = [int(number) for number in re.findall(r"(?m)^\| (\d+) \|", section)]
    assert documented == [*sorted(ExitStatus), 128 + signal.SIGINT]


def test_every_block_is_run() -> None:
    assert [(block.heading, block.language) for block in blocks(DOCUMENT)] == [
        ("One batch in a terminal or a pipeline", "sh"),  # Its flags are those of the runs here.
        ("One batch in a terminal or a pipeline", ""),
        ("In a pipeline", "sh"),
        ("In a pipeline", "yaml"),
    ]


# The pipeline


def pipeline(sandbox: Sandbox) -> str:
    """Give the commands of the pipeline, for the sandbox and from another folder."""
    return (
        block("In a pipeline", "sh")
        .replace("https://api-engage-eu.sitecorecloud.io", sandbox.base_url)
        .replace(" examples/", f" '{ROOT}'/examples/")
    )


def run(script: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    credentials = {"SITECORE_CDP_CLIENT_KEY": CLIENT_KEY, "SITECORE_CDP_API_TOKEN": API_TOKEN}
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=directory,
        env=os.environ | {"PATH": PATH} | credentials | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert API_TOKEN not in done.stdout + done.stderr
    assert [message for _, message in RECORD_ERRORS.values() if message in done.stdout + done.stderr] == []
    assert "http" not in (done.stdout + done.stderr).replace("--alertmanager.url=http://localhost:9093", "")
    return done


@pytest.mark.usefixtures("config")
def test_a_pipeline_uploads_and_waits_until_the_file_is_loaded(tmp_path: Path) -> None:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, speed=100) as sandbox:
        (tmp_path / "config.yaml").write_text(
            f"api: {{base_url: '{sandbox.base_url}', endpoint: inspect}}\n", encoding="utf-8"
        )
        done = run(pipeline(sandbox), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    [_, row] = done.stdout.splitlines()
    assert re.fullmatch(r"-  +[0-9a-f-]{36}  success  +2  +0  +\S+  -", row)


def put_a_corrupted_one(sandbox: Sandbox) -> None:
    sandbox.put_batch(REF, status="corrupted")


def put_an_expired_one(sandbox: Sandbox) -> None:
    sandbox.put_batch(REF, status="uploading", created_at=datetime.now(UTC) - timedelta(hours=2))


def kill_the_token(sandbox: Sandbox) -> None:
    put_a_partial_failure(sandbox)
    sandbox.set_api_token("another")


@pytest.mark.parametrize(
    ("prepare", "status", "reasons"),
    [
        (put_a_partial_failure, 3, ["  121,776     316  3h20m  identity_missing 300, validation 16\n", "amtool"]),
        (put_a_corrupted_one, 3, ["  corrupted  ", "  checksum_or_size_mismatch\n", "amtool"]),
        (put_an_expired_one, 3, ["  uploading  ", "  upload_expired\n", "run it again: it needs a new ref", "amtool"]),
        (kill_the_token, 1, ["  unauthorized\n", "refuses the credentials: unauthorized"]),
    ],
    ids=["partial failure", "corrupted", "expired", "dead token"],
)
def test_the_step_of_a_pipeline_fails_at_once_with_the_reason(
    prepare: Callable[[Sandbox], None],
    status: int,
    reasons: list[str],
    sandbox: Sandbox,
    config: Path,
    tmp_path: Path,
) -> None:
    prepare(sandbox)
    step = pipeline(sandbox).splitlines()[-1].replace("$ref", REF).replace("config.yaml", str(config))
    flags = [flag for flag in shlex.split(step)[1:] if flag != "--once"]
    with once(tmp_path, *flags) as program:
        assert program.process.wait() == status
        output = program.output()
    assert [reason for reason in reasons if reason not in output] == []


@pytest.mark.usefixtures("config")
def test_a_pipeline_ends_at_the_step_that_failed(sandbox: Sandbox, tmp_path: Path) -> None:
    put_a_corrupted_one(sandbox)
    step = pipeline(sandbox).splitlines()[-1]
    done = run(f"set -e\n{step}\necho and so on", tmp_path, ref=REF)
    assert (done.returncode, done.stderr) == (ExitStatus.FAILED, "")
    assert "checksum_or_size_mismatch" in done.stdout
    assert "and so on" not in done.stdout


@pytest.mark.usefixtures("config")
def test_ctrl_c_ends_the_wait_quietly(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.put_batch(REF, status="processing")
    step = pipeline(sandbox).splitlines()[-1]
    environment = {
        "PATH": PATH,
        "ref": REF,
        "SITECORE_CDP_CLIENT_KEY": CLIENT_KEY,
        "SITECORE_CDP_API_TOKEN": API_TOKEN,
    }
    with running(
        ["bash", "-c", f"exec {step}"], log=tmp_path / "log", environment=environment, directory=tmp_path
    ) as program:
        wait_until(lambda: sandbox.requests or program.process.poll() is not None)
        program.process.send_signal(signal.SIGINT)
        # A shell has 130 for it.
        assert program.process.wait() == -signal.SIGINT
        assert program.output() == ""


@pytest.mark.usefixtures("config")
def test_a_reader_that_leaves_ends_it_quietly(sandbox: Sandbox, tmp_path: Path) -> None:
    put_a_corrupted_one(sandbox)
    step = pipeline(sandbox).splitlines()[-1]
    # `true` reads nothing, and has ended long before the report is written.
    done = run(f"{step} | true; echo ${{PIPESTATUS[0]}}", tmp_path, ref=REF)
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_the_demo_shows_its_batches_without_a_config(tmp_path: Path) -> None:
    with once(tmp_path, "--demo", "--output=json") as program:
        status = program.process.wait()
        report = json.loads(program.output())
    assert report["exit_status"] == status
    # On a busy machine some may be repaired by then.
    causes = {batch["failure_cause"] for batch in report["batches"]}
    assert causes == {None, "records_rejected", "file_unreadable", "checksum_not_lowercase_hex"}
