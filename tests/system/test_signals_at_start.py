"""Signals at every moment of the start, from the first one at which the program handles them."""

import signal
import time
from pathlib import Path

import pytest

from tests.conditions import wait_until
from tests.test_main import EXPORTER_PY, WAYS_TO_START
from tests.web.web_server_thread import PATIENCE
from tools.program import Program, running

pytestmark = pytest.mark.slow(reason="starts the program some 30 times; test_main sends signals before its imports")


def handles(program: Program, number: signal.Signals) -> bool:
    """Whether the signal no longer does to the process what it does by default."""
    status = Path(f"/proc/{program.process.pid}/status").read_text(encoding="ascii")
    masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Sig"))
    return bool((int(masks["SigIgn"], 16) | int(masks["SigCgt"], 16)) >> (number - 1) & 1)


def started(command: list[str], tmp_path: Path) -> list[str]:
    config = tmp_path / "config.yaml"
    config.write_text("api: {base_url: 'http://127.0.0.1:9'}\n", encoding="utf-8")
    return [*command, f"--config.file={config}", "--web.listen-address=127.0.0.1:0"]


@pytest.mark.parametrize("command", WAYS_TO_START, ids=["exporter.py", "module", "installed"])
def test_no_sighup_ends_it(command: list[str], tmp_path: Path) -> None:
    with running(started(command, tmp_path), log=tmp_path / "log") as program:
        wait_until(lambda: handles(program, signal.SIGHUP))
        sent = 0
        while "msg=listening" not in program.output():
            program.process.send_signal(signal.SIGHUP)
            sent += 1
            time.sleep(0.005)
            assert program.process.poll() is None, program.output()
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(PATIENCE) == 0
        assert sent > 1
        assert "Traceback" not in program.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_quietly_at_any_moment(number: signal.Signals, tmp_path: Path) -> None:
    delay, is_listening = 0.01, False
    while not is_listening:
        with running(started(EXPORTER_PY, tmp_path), log=tmp_path / "log") as program:
            # The last one of those that it sets.
            wait_until(lambda program=program: handles(program, signal.SIGTERM))  # type: ignore[misc]
            time.sleep(delay)
            program.process.send_signal(number)
            assert program.process.wait(PATIENCE) == 0, (delay, program.output())
            assert "Traceback" not in program.output()
            is_listening = "msg=listening" in program.output()
        delay *= 1.5
