"""What the soak, the faults and the benchmarks see of a process."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tools.process import MEBIBYTE, Usage, usage_of

# A process in which nothing else happens. It takes something, then gives it back, each time that it reads a line.
PROGRAM = """
import os, socket, sys, threading

def step():
    print(flush=True)
    sys.stdin.readline()

step()
files = [open(sys.executable) for _ in range(2)]
sockets = socket.socketpair()
thread = threading.Thread(target=sys.stdin.readline)
thread.start()
print(flush=True)
thread.join()
while len(os.listdir("/proc/self/task")) > 1:
    pass  # Python lets go of a thread just before the system does.
for each in (*files, *sockets):
    each.close()
step()
memory = b"x" * (100 * 1024**2)
step()
del memory
step()
"""


class Steps:
    """The usage of that process, one look after each step."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def next(self) -> Usage:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdout.readline()
        usage = usage_of(self._process.pid)
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return usage


@pytest.fixture
def steps() -> Iterator[Steps]:
    command = [sys.executable, "-S", "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Steps(process)


def test_what_a_process_takes_is_seen_and_so_is_that_it_gives_it_back(steps: Steps) -> None:
    before, during, after = (steps.next() for _ in range(3))
    assert (during.threads - before.threads, during.files - before.files, during.sockets - before.sockets) == (1, 4, 2)
    assert (after.threads, after.files, after.sockets) == (before.threads, before.files, before.sockets)
    assert before.moment < during.moment < after.moment


def test_memory_is_in_bytes_and_its_peak_stays(steps: Steps) -> None:
    _, _, before, during, after = (steps.next() for _ in range(5))
    assert 90 * MEBIBYTE < during.resident_bytes - before.resident_bytes < 110 * MEBIBYTE
    assert during.virtual_bytes > during.resident_bytes
    assert after.resident_bytes < during.resident_bytes - 90 * MEBIBYTE
    # The kernel counts on each processor, so a peak may be some pages off.
    assert after.most_resident_bytes > before.resident_bytes + 90 * MEBIBYTE


def test_processor_time_is_that_of_all_threads() -> None:
    def work() -> None:
        started = time.thread_time()
        while time.thread_time() < started + 0.1:
            pass

    before = usage_of(os.getpid())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    # The system counts in steps of 10 ms, for user and kernel alone.
    assert usage_of(os.getpid()).processor_seconds - before.processor_seconds >= 0.1 - 2 * 0.01
    assert usage_of(os.getpid()).processor_seconds == pytest.approx(time.process_time(), abs=0.1)


def test_a_process_that_has_ended_cannot_be_measured() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError, match=f"process {process.pid} has ended"):
            usage_of(process.pid)
    with pytest.raises(ProcessLookupError, match=f"process {process.pid} has ended"):
        usage_of(process.pid)
