import os
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sitecore_cdp_exporter.config.files import (
    CHUNK,
    BackgroundLook,
    ReadFiles,
    UnusableFileError,
    read_regular_file,
    why_unread,
)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_a_file_that_is_not_too_large_is_read_whole(size: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    content = bytes(number % 251 for number in range(size))
    path.write_bytes(content)
    assert read_regular_file(path, size) == content
    if size:
        with pytest.raises(UnusableFileError, match="larger than"):
            read_regular_file(path, size - 1)


def test_a_small_file_takes_little_memory_however_large_it_may_be(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"small")
    tracemalloc.start()
    try:
        read_regular_file(path, 100 * CHUNK)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * CHUNK


def test_what_is_not_read_is_reported_in_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"large")
    reasons = {}
    for name in ("none", "pipe", "large", "folder"):
        path = tmp_path if name == "folder" else tmp_path / name
        with pytest.raises(OSError) as raised:  # noqa: PT011  Whatever the system raises, it is reasons.
            read_regular_file(path, 4)
        reasons[name] = why_unread(raised.value)
    assert reasons == {
        "none": "cannot be read: No such file or directory",
        "pipe": "not a file",
        "large": "larger than 4 bytes",
        "folder": "cannot be read: Is a directory",
    }


def test_a_change_of_content_is_seen_and_nothing_else(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.write_bytes(b"one")
    files = ReadFiles(10)
    assert not files.changed()
    assert files.read(one) == b"one"
    with pytest.raises(FileNotFoundError):
        files.read(other)
    one.write_bytes(b"one")
    assert not files.changed()
    other.write_bytes(b"")
    assert files.changed()
    other.unlink()
    one.write_bytes(b"two")
    assert files.changed()
    one.write_bytes(b"one" * 10)
    assert files.changed()
    one.unlink()
    assert files.changed()


class SlowDisk:
    """A look at files that lasts until somebody lets it end. Each look is counted when it begins."""

    def __init__(self) -> None:
        self.begun = 0
        self.begins = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)

    def look(self) -> None:
        self.begun += 1
        self.begins.release()
        self.may_end.acquire()


def test_a_hanging_disk_delays_nobody_beyond_their_timeout() -> None:
    disk = SlowDisk()
    look = BackgroundLook(disk.look)
    assert not look.wait(0)
    disk.begins.acquire()
    # However many come, one look is under way and one is yet to begin.
    assert not any(look.wait(0.001) for _ in range(50))
    assert disk.begun == 1
    disk.may_end.release(2)
    disk.begins.acquire()
    disk.may_end.release()
    assert look.wait(None)
    assert disk.begun == 3


def test_waiting_returns_after_a_look_that_started_later() -> None:
    disk = SlowDisk()
    look = BackgroundLook(disk.look)
    assert not look.wait(0)
    disk.begins.acquire()
    with ThreadPoolExecutor() as threads:
        waiting = [threads.submit(look.wait, None) for _ in range(4)]
        disk.may_end.release()
        disk.begins.acquire()
        assert not all(each.done() for each in waiting)
        disk.may_end.release(5)
        assert all(each.result() for each in waiting)


def test_a_look_that_raises_is_logged_and_the_next_one_runs(caplog: pytest.LogCaptureFixture) -> None:
    looks = []

    def fail() -> None:
        looks.append(1)
        raise RuntimeError("a bug")

    look = BackgroundLook(fail)
    assert look.wait(None)
    assert look.wait(None)
    assert len(looks) == 2
    assert caplog.text.count("RuntimeError: a bug") == 2
