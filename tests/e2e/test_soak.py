"""The soak, for one minute: what it shows holds, it can be ended early, and it leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tools.exporter_program import ROOT
from tools.program import Program, wait_for

pytestmark = pytest.mark.e2e

COMMAND = (sys.executable, "-m", "tools.soak", "--duration=1m")
MAX_SOAK = 300.0


@contextmanager
def soaking(directory: Path) -> Iterator[Program]:
    """Run the soak with a folder for temporary files of its own, which must be empty in the end."""
    temporary = directory / "temporary"
    temporary.mkdir()
    log = directory / "soak.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            COMMAND, cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary)}, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield Program(process, log)
    finally:
        process.terminate()
        process.wait(MAX_SOAK)
    assert list(temporary.iterdir()) == []
    assert [command for command in commands() if str(temporary) in command] == []


def commands() -> Iterator[str]:
    """Return the command line of every process of the machine."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield file.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue


def verdicts(output: str) -> dict[str, str]:
    """Return the verdict on each thing that must hold."""
    return dict(re.findall(r"(?m)^\| (.*?) \| .* \| (holds|FAILS) \|$", output))


@pytest.mark.timeout(MAX_SOAK)
def test_everything_holds_for_a_minute(tmp_path: Path) -> None:
    with soaking(tmp_path) as soak:
        soak.process.wait(MAX_SOAK)
    assert soak.process.returncode == 0, soak.output()
    assert len(verdicts(soak.output())) == 19
    assert set(verdicts(soak.output()).values()) == {"holds"}


@pytest.mark.timeout(MAX_SOAK)
def test_ended_early_it_shows_what_it_knows(tmp_path: Path) -> None:
    with soaking(tmp_path) as soak:
        wait_for("some seconds", lambda: re.search(r"(?m)^ +1[4-9] s ", soak.output()), programs=[soak])
        soak.process.send_signal(signal.SIGINT)
        soak.process.wait(MAX_SOAK)
    assert soak.process.returncode == 1
    failed = [what for what, verdict in verdicts(soak.output()).items() if verdict == "FAILS"]
    assert failed == ["resource use ends where it began"], soak.output()


@pytest.mark.parametrize("duration", ["10", "1s", "forever"])
def test_a_duration_that_is_too_short_is_refused(duration: str) -> None:
    refused = subprocess.run(
        [*COMMAND[:-1], f"--duration={duration}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert "--duration" in refused.stderr


@pytest.mark.parametrize(
    ("command", "arguments"), [("make soak", ""), ("make soak ARGS=--duration=1m", "--duration=1m")]
)
def test_the_commands_of_the_documentation_run_it(command: str, arguments: str) -> None:
    assert f"\n{command}\n" in (ROOT / "docs" / "soak.md").read_text(encoding="utf-8")
    planned = subprocess.run(
        [*command.split(), "--dry-run", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert planned.stdout.endswith(f"/python' -m tools.soak {arguments}\n")
