"""What the soak, the faults and the benchmarks see of a process."""

import os
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tools.process import MEBIBYTE, usage_of


def test_what_a_process_takes_is_seen_and_so_is_that_it_gives_it_back(tmp_path: Path) -> None:
    before = usage_of(os.getpid())
    with ExitStack() as stack:
        for name in ("one", "two"):
            stack.enter_context((tmp_path / name).open("w"))
        for end in socket.socketpair():
            stack.enter_context(end)
        go_on = threading.Event()
        thread = threading.Thread(target=go_on.wait)
        thread.start()
        stack.callback(thread.join)
        stack.callback(go_on.set)
        during = usage_of(os.getpid())
    after = usage_of(os.getpid())
    assert (during.threads - before.threads, during.files - before.files, during.sockets - before.sockets) == (1, 4, 2)
    assert (after.threads, after.files, after.sockets) == (before.threads, before.files, before.sockets)
    assert before.moment < during.moment < after.moment


def test_memory_is_in_bytes_and_its_peak_stays() -> None:
    before = usage_of(os.getpid())
    taken = b"x" * (100 * MEBIBYTE)
    during = usage_of(os.getpid())
    del taken
    after = usage_of(os.getpid())
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


def test_a_process_that_has_ended_can_not_be_looked_at() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError, match=f"process {process.pid} has ended"):
            usage_of(process.pid)
    with pytest.raises(ProcessLookupError, match=f"process {process.pid} has ended"):
        usage_of(process.pid)
