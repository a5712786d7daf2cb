"""The first lines of the command, for all three ways to start it."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.exporter_program import ROOT
from tests.web.web_server_thread import PATIENCE

EXPORTER_PY = [sys.executable, str(ROOT / "exporter.py")]
WAYS_TO_START = [
    EXPORTER_PY,
    [sys.executable, "-m", "sitecore_cdp_exporter"],
    [str(Path(sys.executable).parent / "sitecore-cdp-batch-exporter")],
]
# Python imports it before anything else. When the command begins with its own imports it says what is loaded by then,
# and gets the signals.
SIGNALS_BEFORE_THE_IMPORTS = """
import os, signal, sys

class Signals:
    def find_spec(self, name, path=None, target=None):
        if name == "sitecore_cdp_exporter.cli":
            loaded = {module.partition(".")[0] for module in sys.modules}
            print(loaded & {"aiohttp", "prometheus_client", "pydantic", "requests", "structlog", "yaml"}, flush=True)
            for number in os.environ["TEST_SIGNALS"].split():
                os.kill(os.getpid(), int(number))

sys.meta_path.insert(0, Signals())
"""


def run(
    command: Sequence[str], *, directory: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=directory,
        env=os.environ | (environment or {}),
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("command", WAYS_TO_START, ids=["exporter.py", "module", "installed"])
def test_signals_are_set_before_the_imports(command: list[str], number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SIGNALS_BEFORE_THE_IMPORTS, encoding="utf-8")
    ended = run(command, environment={"PYTHONPATH": str(tmp_path), "TEST_SIGNALS": f"{signal.SIGHUP:d} {number:d}"})
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "set()\n", "")


@pytest.mark.parametrize(
    ("flag", "number"),
    [
        ("--config.check", signal.SIGINT),
        ("--once", signal.SIGTERM),
        ("--once", signal.SIGHUP),
        ("--write-assets=folder", signal.SIGTERM),
    ],
)
def test_an_interrupted_command_does_not_exit_with_0(flag: str, number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SIGNALS_BEFORE_THE_IMPORTS, encoding="utf-8")
    environment = {"PYTHONPATH": str(tmp_path), "TEST_SIGNALS": f"{number:d}"}
    ended = run([*EXPORTER_PY, flag], environment=environment)
    assert (ended.returncode, ended.stderr) == (-number, "")


def test_the_first_process_of_a_container_can_be_interrupted_too() -> None:
    # Signals that it does not handle never reach it, as if they were blocked.
    code = (
        "import signal; from sitecore_cdp_exporter import __main__; "
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT}); __main__._interrupt(signal.SIGINT, None)"
    )
    ended = run([sys.executable, "-c", code])
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGINT, "")


# Without the site module Python finds no installed package.
@pytest.mark.parametrize("how", [["-S", "exporter.py"], ["-S", "-m", "sitecore_cdp_exporter"]])
def test_without_its_requirements_it_says_in_one_line_what_to_do(how: list[str]) -> None:
    ended = run([sys.executable, *how, "--demo"], directory=ROOT)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert "make demo" in line
    assert sys.executable in line


def test_without_a_standard_error_nothing_of_that_is_in_the_output() -> None:
    ended = run(["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-S", "exporter.py", "--demo"], directory=ROOT)
    assert (ended.returncode, ended.stdout) == (1, "")


# Both signals come after it has stopped, at the last moment at which Python runs code of ours.
ENDING = """
import atexit, gc, os, signal, sys
gc.disable()
from sitecore_cdp_exporter import __main__, serve as server

async def serve(flags, demo):
    print(gc.isenabled(), gc.get_freeze_count() > 10_000, flush=True)
    with server._handling({number: lambda: None for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)}):
        return 0

def send():
    for number in (signal.SIGHUP, signal.SIGTERM):
        os.kill(os.getpid(), number)

server._serve = serve
atexit.register(send)
print([name for name in sys.modules if ".sandbox" in name], flush=True)
sys.exit(__main__.main())
"""


@pytest.fixture(scope="module")
def ended() -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-c", ENDING])


def test_a_signal_while_it_ends_does_not_change_its_status(ended: subprocess.CompletedProcess[str]) -> None:
    assert (ended.returncode, ended.stderr) == (0, "")


def test_only_the_demo_imports_the_sandbox(ended: subprocess.CompletedProcess[str]) -> None:
    assert ended.stdout.splitlines()[0] == "[]"


def test_garbage_is_collected_again_after_the_imports_but_not_among_what_they_made(
    ended: subprocess.CompletedProcess[str],
) -> None:
    assert ended.stdout.splitlines()[1:] == ["True True"]
