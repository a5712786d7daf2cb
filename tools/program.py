"""Programs that run until the end of a block, with their logs at hand when something goes wrong."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import requests

T = TypeVar("T")

# Only ends a wait that would never end: nothing here judges how fast something is.
MAX_WAIT = 90.0
# After SIGTERM; then the program is killed. Prometheus writes what it has in memory to disk first.
SECONDS_TO_END = 15.0


class NeverCameError(AssertionError):
    """What was waited for did not come. The message has the logs of the programs."""


class Process(Protocol):
    """The part of `subprocess.Popen` that is used of a running program."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def returncode(self) -> int | None:
        """Its exit status as `poll` or `wait` last found it; minus the number of the signal that ended it."""

    def poll(self) -> int | None:
        """Return its exit status, or None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, and return its exit status. Raises subprocess.TimeoutExpired."""

    def send_signal(self, sig: int) -> None:
        """Send it a signal, unless it has ended."""

    def terminate(self) -> None:
        """Send it SIGTERM."""

    def kill(self) -> None:
        """Send it SIGKILL."""


@dataclass(frozen=True)
class Program:
    """A running program. Its standard output and error go to `log`, or to those of this process if that is None."""

    process: Process
    log: Path | None

    def output(self) -> str:
        """Return what it has printed to its log so far."""
        return "" if self.log is None else self.log.read_text(encoding="utf-8", errors="replace")


@contextmanager
def running(
    command: Sequence[str],
    *,
    log: Path | None,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
    own_session: bool = False,
    pass_fds: Sequence[int] = (),
) -> Iterator[Program]:
    """Start a program, and end it with the block.

    Args:
        command: The program and its arguments.
        log: Where its standard output and error go, overwriting what is there; None: to those of this process.
        directory: Where it runs; here by default.
        environment: Variables that it gets besides those of this process.
        own_session: Whether Ctrl-C at the terminal leaves it alone.
        pass_fds: File descriptors that it inherits.

    """
    with ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("wb"))
        process = subprocess.Popen(  # noqa: S603  Only our own code names programs.
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=directory,
            env={**os.environ, **(environment or {})},
            start_new_session=own_session,
            pass_fds=pass_fds,
        )
    with terminating(process):
        yield Program(process, log)


@contextmanager
def terminating(process: Process) -> Iterator[None]:
    """End a program with the block, by SIGTERM, or by SIGKILL if that does not end it."""
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(
    what: str, attempt: Callable[[], T | None], *, programs: Sequence[Program], seconds: float = MAX_WAIT
) -> T:
    """Repeat `attempt` until it returns something true, and return that.

    Raises:
        NeverCameError: One of the programs ended, or time is up.

    """
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up and all(program.process.poll() is None for program in programs):
        if result := attempt():
            return result
        time.sleep(0.02)
    logs = [f"{program.log}, exit status {program.process.poll()}:\n{program.output()}" for program in programs]
    raise NeverCameError("\n".join([f"gave up waiting for {what}", *logs]))


def wait_for_address(program: Program) -> str:
    """Wait until the exporter, Prometheus or Alertmanager logs where it listens, and return it as `host:port`."""
    listening = wait_for(
        "the address that it listens on",
        lambda: re.search(r'msg=(?:listening|"?Listening on"?) .*address=(\S+)', program.output()),
        programs=[program],
    )
    return listening[1]


def wait_until_ready(program: Program) -> str:
    """Wait until Prometheus or Alertmanager is ready, and return its URL."""
    url = f"http://{wait_for_address(program)}"
    wait_for("readiness", lambda: answers_ok(f"{url}/-/ready"), programs=[program])
    return url


def answers_ok(url: str, *, timeout: float = MAX_WAIT) -> bool:
    """Return whether a GET of `url` answers 200; a server that does not listen yet is no error."""
    with requests.Session() as session:
        # Ignore proxy variables on loopback.
        session.trust_env = False
        try:
            return session.get(url, timeout=timeout).ok
        except requests.RequestException:
            return False
