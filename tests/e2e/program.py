"""Programs that run for the time of a test, with their logs at hand when something goes wrong."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
import requests

from stack.programs import terminating

T = TypeVar("T")

# Only ends a wait that would never end; no test judges how fast something is.
LONGEST_WAIT = 90.0


@dataclass(frozen=True)
class Program:
    """A running program; its standard output and error go to `log`."""

    process: subprocess.Popen[bytes]
    log: Path

    def output(self) -> str:
        """Give what it has printed so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")


@contextmanager
def running(
    command: Sequence[str], *, log: Path, directory: Path | None = None, own_session: bool = False
) -> Iterator[Program]:
    """Start a program, and end it with the block.

    Args:
        command: The program and its arguments.
        log: Where its standard output and error go; what is there is lost.
        directory: Where it runs; here by default.
        own_session: Whether Ctrl-C ends only what started the program, and not the program too.

    """
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=directory,
            start_new_session=own_session,
        )
    with terminating(process):
        yield Program(process, log)


def wait_for(
    what: str, attempt: Callable[[], T | None], *, programs: Sequence[Program], seconds: float = LONGEST_WAIT
) -> T:
    """Repeat `attempt` until it gives something true.

    Fails with the logs of the programs when one of them ends, or when time is up.
    """
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up and all(program.process.poll() is None for program in programs):
        if result := attempt():
            return result
        time.sleep(0.1)
    logs = [f"{program.log.name}, exit code {program.process.poll()}:\n{program.output()}" for program in programs]
    pytest.fail("\n".join([f"Waited in vain for: {what}", *logs]))


def wait_for_address(program: Program) -> str:
    """Wait until the exporter, Prometheus or Alertmanager logs where it listens, and give it as `host:port`."""
    listening = wait_for(
        "the address that it listens on",
        lambda: re.search(r'msg=(?:listening|"?Listening on"?) .*address=(\S+)', program.output()),
        programs=[program],
    )
    return listening[1]


def wait_until_ready(program: Program) -> str:
    """Wait until Prometheus or Alertmanager is ready, and give its URL."""
    url = f"http://{wait_for_address(program)}"
    wait_for("readiness", lambda: answers_ok(f"{url}/-/ready"), programs=[program])
    return url


def answers_ok(url: str) -> bool:
    """Tell whether a GET of `url` answers 200; a server that does not listen yet is no error."""
    try:
        return requests.get(url, timeout=LONGEST_WAIT).ok
    except requests.ConnectionError:
        return False
