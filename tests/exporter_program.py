"""The exporter of `tools.exporter_program`, forked from an interpreter that has imported it.

To start an interpreter and import everything takes half a second of processor time, to fork one a hundredth of that.
What is forked is a process like any other: with its own id, signals, log, environment and exit status. Tests of how
it starts use the real command.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from sitecore_cdp_exporter.api import tls
from tools import exporter_program
from tools.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, Exporter, LabelSet, wait_until_listening
from tools.program import Program, terminating

__all__ = [
    "API_TOKEN",
    "CLIENT_KEY",
    "ROOT",
    "Exporter",
    "LabelSet",
    "forked",
    "running_demo",
    "running_exporter",
    "running_with_config",
    "start_fork_server",
    "wait_until_listening",
]

Command = Callable[[Sequence[str]], int]

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "sitecore_cdp_exporter.cli",
        "sitecore_cdp_exporter.serve",
        "tests.exporter_program",
        # Each process loads the module that started this one again: pytest, except in the workers of pytest-xdist.
        *([] if getattr(sys.modules["__main__"], "__spec__", None) is None else ["pytest"]),
    ]
)


def start_fork_server() -> None:
    """Start the interpreter that forks, unless it runs. It opens pipes that stay."""
    forkserver.ensure_running()


class ForkedProcess:
    """A process of `multiprocessing` with the methods of `subprocess.Popen`."""

    def __init__(self, process: ForkServerProcess) -> None:
        self._process = process
        self._lock = threading.Lock()
        self.pid = process.pid or 0
        self.returncode: int | None = None

    def poll(self) -> int | None:
        # Its exit status can be read only once.
        with self._lock:
            if self.returncode is None:
                self.returncode = self._process.exitcode
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            connection.wait([self._process.sentinel], timeout)
        if (status := self.poll()) is None:
            raise subprocess.TimeoutExpired("the forked exporter", timeout or 0)
        return status

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, sig)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@contextmanager
def forked(
    flags: Sequence[str],
    *,
    log: Path,
    own_session: bool = False,
    environment: Mapping[str, str] | None = None,
    command: Command | None = None,
) -> Iterator[Program]:
    """Start the exporter with these flags, and end it with the block.

    `command` runs instead of it; its module is imported there. The other arguments are those of `running`.
    """
    log.write_bytes(b"")
    variables = {**os.environ, **(environment or {})}
    process = _CONTEXT.Process(target=_run, args=(command, flags, log, variables, own_session, tls.USUAL_CA_FILE))
    process.start()
    program = Program(ForkedProcess(process), log)
    with terminating(program.process):
        yield program
    process.close()


def _run(
    command: Command | None,
    flags: Sequence[str],
    log: Path,
    variables: Mapping[str, str],
    own_session: bool,  # noqa: FBT001
    ca_file: str,
) -> None:
    from sitecore_cdp_exporter.cli import main  # noqa: PLC0415  Only what is forked needs it.

    if own_session:
        os.setsid()
    os.environ.clear()
    os.environ.update(variables)
    tls.USUAL_CA_FILE = ca_file
    with log.open("wb") as output:
        os.dup2(output.fileno(), sys.stdout.fileno())
        os.dup2(output.fileno(), sys.stderr.fileno())
    sys.exit((command or main)(flags))


running_exporter = partial(exporter_program.running_exporter, start=forked)
running_with_config = partial(exporter_program.running_with_config, start=forked)
running_demo = partial(exporter_program.running_demo, start=forked)
