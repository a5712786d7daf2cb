"""Reload a file that the exporter was started with: on a signal, over HTTP, or because it has changed."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from sitecore_cdp_exporter.config.files import BackgroundLook, ReadFiles
from sitecore_cdp_exporter.config.model import MAX_FILE_BYTES, ConfigError

logger = logging.getLogger(__name__)

# Reads a file; raises OSError.
ReadFile: TypeAlias = Callable[[Path], bytes]


@dataclass(frozen=True, slots=True)
class ReloadState:
    """Whether the last attempt to load the file succeeded, and when the last successful one was (Unix time)."""

    successful: bool
    last_success: float


class Reloader:
    """Reloads a file, together with the files that it names. Thread-safe.

    The first load is up to the caller, with `read`.

    Args:
        name: The name of the file in log messages.
        path: The file. None: no file, and reloading does nothing.
        load: Loads and applies the file, and returns what to log; or raises ConfigError and changes nothing.
        max_bytes: The maximum size of a file.
        clock: Seconds since the Unix epoch.

    """

    def __init__(
        self,
        name: str,
        path: Path | None,
        load: Callable[[ReadFile], Mapping[str, object]],
        *,
        max_bytes: int = MAX_FILE_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._name = name
        self._path = path
        self._load = load
        self._max_bytes = max_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._look = BackgroundLook(self._reload_if_changed)
        self._files = ReadFiles(max_bytes)
        self._state = ReloadState(successful=True, last_success=clock())

    @property
    def state(self) -> ReloadState:
        """The result of the last attempt."""
        return self._state

    def read(self, path: Path) -> bytes:
        """Return the content of a file, and watch it for changes from now on. Raises OSError."""
        return self._files.read(path)

    def reload(self) -> None:
        """Load the file. On errors, the previous config stays in use, and the errors are logged.

        Raises:
            ConfigError: The file is invalid.

        """
        with self._lock:
            self._reload()

    def reload_if_changed(self, timeout: float | None = None) -> None:
        """Load the file if any file that was read has changed. Errors are logged, once for each content.

        Args:
            timeout: How many seconds to wait for a slow disk. None: no limit.

        """
        if self._path is not None:
            self._look.wait(timeout)

    def _reload_if_changed(self) -> None:
        with self._lock, contextlib.suppress(ConfigError):
            if self._files.changed():
                self._reload()

    def _reload(self) -> None:
        if self._path is None:
            return
        self._files = ReadFiles(self._max_bytes)
        try:
            loaded = self._load(self._files.read)
        except ConfigError as error:
            self._state = ReloadState(successful=False, last_success=self._state.last_success)
            for line in error.errors:
                logger.error("cannot reload the %s: %s", self._name, line)  # noqa: TRY400  A traceback would add nothing.
            raise
        self._state = ReloadState(successful=True, last_success=self._clock())
        logger.info("reloaded the %s", self._name, extra={"file": str(self._path), **loaded})
