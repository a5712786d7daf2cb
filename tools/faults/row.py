"""A row of the table: a fault, what must hold under it, and how that is tried."""

import ctypes
import enum
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

# Of <sched.h>; the module `os` knows them from Python 3.12 on.
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000


class NotHeldError(Exception):
    """What must hold did not. The message says what was found instead."""


class NeedsError(Exception):
    """This machine cannot produce the fault. The message names what it lacks."""


class Verdict(enum.StrEnum):
    """The outcome of a row."""

    HOLDS = "holds"
    FAILED = "FAILED"
    NOT_TRIED = "not tried"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A fault and its trial.

    Attributes:
        fault: What happens.
        must_hold: What must hold, in one sentence.
        attempt: Tries it in an empty folder and returns what was measured. Whatever it raises is a failure, save
            NeedsError. It can be pickled.
        isolated: Whether it is tried in a network and a mount namespace of its own, which takes root.

    """

    fault: str
    must_hold: str
    attempt: Callable[[Path], str]
    isolated: bool = False

    def run(self) -> "Result":
        """Try it."""
        try:
            with tempfile.TemporaryDirectory() as directory:
                measured = self._run_isolated(Path(directory)) if self.isolated else self.attempt(Path(directory))
        except NeedsError as error:
            return Result(self, Verdict.NOT_TRIED, f"needs {error}")
        except Exception as error:  # noqa: BLE001  Any failure is a verdict.
            return Result(self, Verdict.FAILED, f"{type(error).__name__}: {error}")
        return Result(self, Verdict.HOLDS, measured)

    def _run_isolated(self, directory: Path) -> str:
        # A process of its own, because nobody comes back from a namespace, and it has to be new: threads stay outside.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            return process.submit(_attempt_isolated, self.attempt, directory).result()


@dataclass(frozen=True)
class Result:
    """The result of a row: the verdict, and what was measured, or what was wrong."""

    row: Row
    verdict: Verdict
    measured: str


def expect(what: str, found: object, wanted: object) -> None:
    """Raise NotHeldError unless what was found is what was wanted."""
    if found != wanted:
        raise NotHeldError(f"{what}: {found} instead of {wanted}")


def hold(what: str, holds: object) -> None:
    """Raise NotHeldError unless it holds."""
    if not holds:
        raise NotHeldError(what)


def require_root() -> None:
    """Raise NeedsError unless this is root."""
    if os.geteuid() != 0:
        raise NeedsError("root")


def command(*words: str | Path) -> None:
    """Run a program of the machine; raise NeedsError where it is missing."""
    try:
        subprocess.run(words, check=True, capture_output=True, text=True)  # noqa: S603  The rows name the programs.
    except FileNotFoundError:
        raise NeedsError(f"{words[0]}") from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(map(str, words))}: {error.stderr.strip()}") from None


def _attempt_isolated(attempt: Callable[[Path], str], directory: Path) -> str:
    """Try in new namespaces: only a loopback interface, and mounts that nobody else sees."""
    require_root()
    if sys.platform != "linux":
        raise NeedsError("Linux")
    if ctypes.CDLL(None).unshare(CLONE_NEWNET | CLONE_NEWNS) != 0:
        raise NeedsError("root that may make namespaces")
    # Else the mounts would be seen outside.
    command("mount", "--make-rprivate", "/")
    command("ip", "link", "set", "lo", "up")
    return attempt(directory)
