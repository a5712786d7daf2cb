"""Resource usage of a running process, from Linux's /proc."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

MEBIBYTE = 1024**2


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a process uses at a moment.

    Attributes:
        moment: When that was, in seconds of the monotonic clock.
        threads: How many it has.
        files: How many it has open, the sockets among them.
        sockets: How many of these are sockets.
        resident_bytes: Its memory that is in RAM.
        most_resident_bytes: The most that this ever was.
        virtual_bytes: Its address space.
        processor_seconds: The processor time of all its threads so far, which the system counts in steps of 10 ms.

    """

    moment: float
    threads: int
    files: int
    sockets: int
    resident_bytes: int
    most_resident_bytes: int
    virtual_bytes: int
    processor_seconds: float


def usage_of(pid: int) -> Usage:
    """Look at a process.

    Raises:
        ProcessLookupError: It has ended.

    """
    process = Path("/proc") / str(pid)
    try:
        status = dict(line.split(":", 1) for line in (process / "status").read_text(encoding="utf-8").splitlines())
        resident, most_resident, virtual = (
            1024 * int(status[name].removesuffix("kB")) for name in ("VmRSS", "VmHWM", "VmSize")
        )
        # The name in front is in parentheses, and may have spaces and parentheses itself.
        times = (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[11:13]
        links = [_target(link) for link in (process / "fd").iterdir()]
    # A process that has ended and that nobody has waited for still has a status, but no memory.
    except (OSError, KeyError):
        raise ProcessLookupError(f"process {pid} has ended") from None
    return Usage(
        moment=time.monotonic(),
        threads=int(status["Threads"]),
        files=len(links),
        sockets=sum(link.startswith("socket:") for link in links),
        resident_bytes=resident,
        most_resident_bytes=most_resident,
        virtual_bytes=virtual,
        processor_seconds=sum(map(int, times)) / os.sysconf("SC_CLK_TCK"),
    )


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except FileNotFoundError:
        return "closed meanwhile"
