"""Reading files that people and pipelines may change, replace or break at any time, on a disk that may be slow."""

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
    """The path names a folder, a pipe or a device, or a file that is too large. `strerror` says which."""

    strerror: str


def why_unread(error: OSError) -> str:
    """Say in one line why a file could not be read, fit for `path: reason`."""
    return error.strerror if isinstance(error, UnusableFileError) else f"cannot be read: {error.strerror}"


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file of at most `max_bytes`.

    Raises:
        UnusableFileError: It is no file, or larger.
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
    """The files that something was loaded from. It knows whether one of them has changed since.

    Args:
        max_bytes: How large a file may be.

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
        """Read the files again; return whether one of them has another content than before, or none."""
        return any(self._digest(path) != known for path, known in self._digests.items())

    def _digest(self, path: Path) -> bytes | None:
        try:
            return digest(read_regular_file(path, self._max_bytes))
        except OSError:
            return None


# How much of a scrape's time a slow disk may take. After that the files count as they were.
MAX_SHARE_OF_A_SCRAPE = 0.25


class BackgroundLook:
    """Looks at files in a thread of its own, so that a slow disk delays nobody for longer than they want to wait.

    Args:
        look: Looks at the files. It never runs twice at the same time. What it raises is logged.

    """

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self._looking = threading.Lock()
        self._lock = threading.Lock()
        self._next: threading.Thread | None = None

    def wait(self, timeout: float | None) -> bool:
        """Wait for a look that begins from now on; return False if that takes longer than `timeout` seconds.

        Callers that wait for the same look share it. None waits for as long as it takes.
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
                logger.exception("the files could not be looked at")


def _chunks(file: BinaryIO, limit: int) -> Iterator[bytes]:
    """Yield up to `limit` bytes. Reading that many at once would allocate the memory for them first."""
    while limit > 0 and (chunk := file.read(min(limit, CHUNK))):
        yield chunk
        limit -= len(chunk)


def _open_without_waiting(path: str, flags: int) -> int:
    # A named pipe would make the exporter wait for somebody who writes to it.
    return os.open(path, flags | os.O_NONBLOCK)
