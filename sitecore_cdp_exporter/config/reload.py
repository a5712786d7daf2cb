"""Loading the config again, whatever asks for it: SIGHUP, `POST /-/reload`, or a changed file."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sitecore_cdp_exporter.config.files import BackgroundLook, ReadFiles
from sitecore_cdp_exporter.config.model import MAX_FILE_BYTES, Config, ConfigError, load_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReloadState:
    """Whether the last attempt to load the config succeeded, and when one last did, since the Unix epoch."""

    successful: bool
    last_success: float


class ConfigReloader:
    """Loads the config file again, and applies it if it has no error. Safe for use by many threads.

    Args:
        path: The config file. The caller loads it for the first time, next. None: there is none, and reloading does
            nothing.
        apply: Puts a config to use.
        clock: Seconds since the Unix epoch.

    """

    def __init__(
        self, path: Path | None, apply: Callable[[Config], None], *, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = path
        self._apply = apply
        self._clock = clock
        self._lock = threading.Lock()
        self._look = BackgroundLook(self._reload_if_changed)
        self._files = ReadFiles(MAX_FILE_BYTES)
        if path is not None:
            with contextlib.suppress(OSError):
                self._files.read(path)
        self._state = ReloadState(successful=True, last_success=clock())

    @property
    def state(self) -> ReloadState:
        """What came of the last attempt."""
        return self._state

    def reload(self) -> None:
        """Load the config and swap it whole; on an error the current one stays, and the error is logged and raised.

        Raises:
            ConfigError: The file cannot be used.

        """
        with self._lock:
            self._reload()

    def reload_if_changed(self, timeout: float | None = None) -> None:
        """Load the config if the content of the file has changed. An error is logged, once for each content.

        Args:
            timeout: How many seconds to wait for a slow disk. None: as long as it takes.

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
        self._files = ReadFiles(MAX_FILE_BYTES)
        try:
            config = load_config(self._path, self._files.read)
        except ConfigError as error:
            self._state = ReloadState(successful=False, last_success=self._state.last_success)
            for line in error.errors:
                logger.error("the config is not reloaded: %s", line)  # noqa: TRY400  The line says all; a traceback says nothing more.
            raise
        self._apply(config)
        self._state = ReloadState(successful=True, last_success=self._clock())
        logger.info("the config is reloaded", extra={"file": str(self._path), "batches": len(config.batches)})
