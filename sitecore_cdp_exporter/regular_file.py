"""Reading a file without ever waiting for somebody who writes to it."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

CHUNK = 64 * 1024


class NotARegularFileError(Exception):
    """The path names a folder, a pipe or a device, or a file that is too large."""


def read_regular_file(path: Path, largest: int) -> bytes:
    """Return the content of a file of at most `largest` bytes.

    Raises:
        NotARegularFileError: It is no file, or larger. The message is fit for `path: message`.
        OSError: It can not be read.

    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NotARegularFileError("not a file")
        chunks = list(_chunks(file, largest + 1))
    content = b"".join(chunks)
    if len(content) > largest:
        raise NotARegularFileError(f"larger than {largest:,} bytes")
    return content


def _chunks(file: BinaryIO, most: int) -> Iterator[bytes]:
    """Yield the content, up to so many bytes. To read that many at once would take the memory for them first."""
    while most > 0 and (chunk := file.read(min(most, CHUNK))):
        yield chunk
        most -= len(chunk)


def _open_without_waiting(path: str, flags: int) -> int:
    # A named pipe would make the exporter wait for somebody who writes to it.
    return os.open(path, flags | os.O_NONBLOCK)
