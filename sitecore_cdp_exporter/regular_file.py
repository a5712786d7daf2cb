"""Reading a file without ever waiting for somebody who writes to it."""

import os
import stat
from pathlib import Path


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
        content = file.read(largest + 1)
    if len(content) > largest:
        raise NotARegularFileError(f"larger than {largest:,} bytes")
    return content


def _open_without_waiting(path: str, flags: int) -> int:
    # A named pipe would make the exporter wait for somebody who writes to it.
    return os.open(path, flags | os.O_NONBLOCK)
