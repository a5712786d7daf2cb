"""Loading the config again, by whatever asks for it: SIGHUP, `POST /-/reload`, or a changed file."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sitecore_cdp_exporter.config.files import content_digest
from sitecore_cdp_exporter.config.model import LARGEST_FILE, Config, ConfigError, load_config

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReloadState:
    """Whether the last attempt to load the config succeeded, and when one last did, since the Unix epoch."""

    successful: bool
    last_success: float


class ConfigReloader:
    """Loads the config file again, and puts it to use if it is without an error.

    Args:
        path: The config file, which is loaded for the first time by the caller, next. None: there is none, and nothing
            is ever loaded again.
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
        self._digest = self._read_digest()
        self._state = ReloadState(successful=True, last_success=clock())

    @property
    def state(self) -> ReloadState:
        """What came of the last attempt."""
        return self._state

    def reload(self) -> None:
        """Load the config and swap it whole; on an error the one before stays, and the error is logged and raised.

        Raises:
            ConfigError: The file can not be used.

        """
        with self._lock:
            self._reload()

    def reload_if_changed(self) -> None:
        """Load the config if the content of the file has changed. An error is logged, once for each content."""
        with self._lock:
            if self._read_digest() != self._digest:
                try:
                    self._reload()
                except ConfigError:
                    return

    def _reload(self) -> None:
        if self._path is None:
            return
        self._digest = self._read_digest()
        try:
            config = load_config(self._path)
        except ConfigError as error:
            self._state = ReloadState(successful=False, last_success=self._state.last_success)
            for line in error.errors:
                logger.error("the config is not reloaded: %s", line)  # noqa: TRY400  The line says all; a traceback says nothing more.
            raise
        self._apply(config)
        self._state = ReloadState(successful=True, last_success=self._clock())
        logger.info("the config is reloaded", extra={"file": str(self._path), "batches": len(config.batches)})

    def _read_digest(self) -> bytes | None:
        return None if self._path is None else content_digest(self._path, LARGEST_FILE)
