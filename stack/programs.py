"""The servers of the stack, which run side by side until one of them ends."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tools import program

SHOWN_LOG_LINES = 10


@dataclass(frozen=True)
class Server:
    """A running server. It is ready as soon as `ready_url` answers 200."""

    name: str
    program: program.Program
    ready_url: str

    def has_ended(self) -> bool:
        """Return whether it has."""
        return self.program.process.poll() is not None

    def is_ready(self) -> bool:
        """Return whether it serves."""
        return program.answers_ok(self.ready_url, timeout=1)

    def how_it_ended(self) -> str:
        """Return its exit status and the last lines of its log, once it has ended."""
        lines = [f"{self.name} has ended with exit code {self.program.process.returncode}"]
        if self.program.log is not None:
            last = self.program.output().splitlines()[-SHOWN_LOG_LINES:]
            lines += [f"the end of {self.program.log}:", *(f"    {line}" for line in last)]
        return "\n".join(lines)


@contextmanager
def running(name: str, command: Sequence[str], *, ready_url: str, log: Path | None, lock: int) -> Iterator[Server]:
    """Start a server, and end it with the block.

    It inherits `lock`, a descriptor, and so keeps what is locked by it even if it is left alone.
    """
    with program.running(command, log=log, pass_fds=[lock]) as started:
        yield Server(name, started, ready_url)
