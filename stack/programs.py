"""Programs that run side by side until one of them ends."""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

# Then it is killed. Prometheus writes what it has in memory to disk first.
SECONDS_TO_END = 15.0
SHOWN_LOG_LINES = 10


@dataclass(frozen=True)
class Program:
    """A running program.

    `log` has its output; None: it goes to the terminal. Where `ready_url` answers 200, the program is ready.
    """

    name: str
    process: subprocess.Popen[bytes]
    ready_url: str
    log: Path | None

    def has_ended(self) -> bool:
        """Tell whether it has."""
        return self.process.poll() is not None

    def is_ready(self) -> bool:
        """Tell whether it serves; that it does not yet is no error."""
        with requests.Session() as session:
            # Proxies of the environment have no say on loopback.
            session.trust_env = False
            try:
                return session.get(self.ready_url, timeout=1).ok
            except requests.RequestException:
                return False

    def how_it_ended(self) -> str:
        """Give its exit code and the last lines of its log, once it has ended."""
        lines = [f"{self.name} has ended with exit code {self.process.returncode}"]
        if self.log is not None:
            text = self.log.read_text(encoding="utf-8", errors="replace")
            lines += [f"the end of {self.log}:", *(f"    {line}" for line in text.splitlines()[-SHOWN_LOG_LINES:])]
        return "\n".join(lines)


@contextmanager
def running(name: str, command: Sequence[str], *, ready_url: str, log: Path | None, lock: int) -> Iterator[Program]:
    """Start a program, and end it with the block.

    It inherits `lock`, a descriptor, and so keeps what is locked by it even if it is left alone.
    """
    with ExitStack() as stack:
        output = None if log is None else stack.enter_context(log.open("wb"))
        process = subprocess.Popen(  # noqa: S603  Nothing of it is a stranger's.
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[lock]
        )
    with terminating(process):
        yield Program(name, process, ready_url, log)


@contextmanager
def terminating(process: subprocess.Popen[bytes]) -> Iterator[None]:
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
