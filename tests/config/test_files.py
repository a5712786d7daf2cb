import os
import tracemalloc
from pathlib import Path

import pytest

from sitecore_cdp_exporter.config.files import (
    CHUNK,
    UnusableFileError,
    content_digest,
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


def test_what_is_not_read_is_told_in_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"large")
    told = {}
    for name in ("none", "pipe", "large", "folder"):
        path = tmp_path if name == "folder" else tmp_path / name
        with pytest.raises(OSError) as raised:  # noqa: PT011  Whatever the system raises, it is told.
            read_regular_file(path, 4)
        told[name] = why_unread(raised.value)
    assert told == {
        "none": "cannot be read: No such file or directory",
        "pipe": "not a file",
        "large": "larger than 4 bytes",
        "folder": "cannot be read: Is a directory",
    }


def test_a_digest_is_of_the_content_and_none_of_what_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert content_digest(path, 10) is None
    path.write_bytes(b"one")
    one = content_digest(path, 10)
    path.write_bytes(b"two")
    assert None not in (one, two := content_digest(path, 10))
    assert one != two
    path.write_bytes(b"one")
    assert content_digest(path, 10) == one
    assert content_digest(path, 2) is None
