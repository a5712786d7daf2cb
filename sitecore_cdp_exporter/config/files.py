"""Read files that may change, disappear or break at any time, on a disk that may be slow."""

import errno
import hashlib
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

logger = logging.getLogger(__name__)

CHUNK = 64 * 1024


class UnusableFileError(OSError):
    """The path is a directory, a pipe or a device, or the file is too large. `strerror` says which."""

    strerror: str


def why_unread(error: OSError) -> str:
    """Return the reason in one line, for `path: reason`."""
    return error.strerror if isinstance(error, UnusableFileError) else f"cannot be read: {error.strerror}"


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file.

    Raises:
        UnusableFileError: It is not a regular file, or larger than `max_bytes`.
        OSError: It cannot be read.

    """
    with open(path, "rb", opener=_open_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UnusableFileError(errno.EINVAL, "not a file", str(path))
        chunks = list(_chunks(file, max_bytes + 1))
    content = b"".join(chunks)
    if len(content) > max_bytes:
        raise UnusableFileError(errno.EFBIG, f"larger than {max_bytes:,} bytes", str(path))
    return content


def digest(content: bytes) -> bytes:
    """Return the SHA-256 of a file's content."""
    return hashlib.sha256(content).digest()


class ReadFiles:
    """The files that something was loaded from, and whether one of them has changed since.

    Args:
        max_bytes: The maximum size of a file.

    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # None: the file could not be read.
        self._digests: dict[Path, bytes | None] = {}

    def read(self, path: Path) -> bytes:
        """Return the content of a file, and remember its digest. Raises OSError."""
        self._digests[path] = None
        content = read_regular_file(path, self._max_bytes)
        self._digests[path] = digest(content)
        return content

    def changed(self) -> bool:
        """Read the files again, and return whether the content of any has changed. Files that cannot be read count."""
        return any(self._digest(path) != known for path, known in self._digests.items())

    def _digest(self, path: Path) -> bytes | None:
        try:
            return digest(read_regular_file(path, self._max_bytes))
        except OSError:
            return None


# The share of a scrape's time that a slow disk may take. After that, the scrape uses what was read last.
MAX_SHARE_OF_A_SCRAPE = 0.25


class BackgroundLook:
    """Runs a look at files in a background thread, so that callers can stop waiting for a slow disk.

    Args:
        look: Looks at the files. Never runs twice at the same time. Exceptions are logged.

    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._looking = threading.Lock()
        self._lock = threading.Lock()
        self._next: threading.Thread | None = None

    def wait(self, timeout: float | None) -> bool:
        """Wait for a look that starts after this call. Return False if it takes longer than `timeout` seconds.

        Concurrent callers share a look that has not started yet. None: no time limit.
        """
        with self._lock:
            if self._next is None:
                # A daemon, because a disk that hangs must not keep the process from ending.
                thread = threading.Thread(target=self._run, name="files", daemon=True)
                thread.start()
                self._next = thread
            thread = self._next
        thread.join(timeout)
        return not thread.is_alive()

    def _run(self) -> None:
        with self._looking:
            with self._lock:
                self._next = None
            try:
                self._look()
            except Exception:
                logger.exception("checking the files for changes failed")


def _chunks(file: BinaryIO, limit: int) -> Iterator[bytes]:
    """Yield up to `limit` bytes. A single read of that size would allocate all of it up front."""
    while limit > 0 and (chunk := file.read(min(limit, CHUNK))):
        yield chunk
        limit -= len(chunk)


def _open_without_waiting(path: str, flags: int) -> int:
    # Opening a named pipe would otherwise block until somebody writes to it.
    return os.open(path, flags | os.O_NONBLOCK)
