"""Reading a file without ever waiting for somebody who writes to it."""

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK = 64 * 1024


class UnusableFileError(OSError):
    """The path names a folder, a pipe or a device, or a file that is too large. `strerror` says which."""

    strerror: str


def why_unread(error: OSError) -> str:
    """Say in one line why a file could not be read, fit for `path: reason`."""
    return error.strerror if isinstance(error, UnusableFileError) else f"cannot be read: {error.strerror}"


def read_regular_file(path: Path, largest: int) -> bytes:
    """Return the content of a file of at most `largest` bytes.

    Raises:
        UnusableFileError: It is no file, or larger.
        OSError: It can not be read.

    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UnusableFileError(errno.EINVAL, "not a file", str(path))
        chunks = list(_chunks(file, largest + 1))
    content = b"".join(chunks)
    if len(content) > largest:
        raise UnusableFileError(errno.EFBIG, f"larger than {largest:,} bytes", str(path))
    return content


def content_digest(path: Path, largest: int) -> bytes | None:
    """Return what tells one content of a file from another; None if it can not be read."""
    try:
        return digest(read_regular_file(path, largest))
    except OSError:
        return None


def digest(content: bytes) -> bytes:
    """Return what tells one content from another."""
    return hashlib.sha256(content).digest()


def _chunks(file: BinaryIO, most: int) -> Iterator[bytes]:
    """Yield the content, up to so many bytes. To read that many at once would take the memory for them first."""
    while most > 0 and (chunk := file.read(min(most, CHUNK))):
        yield chunk
        most -= len(chunk)


def _open_without_waiting(path: str, flags: int) -> int:
    # A named pipe would make the exporter wait for somebody who writes to it.
    return os.open(path, flags | os.O_NONBLOCK)
