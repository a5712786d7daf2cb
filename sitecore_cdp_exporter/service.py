"""Build the parts that answer scrapes from the config, and rebuild them on reload."""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry

from sitecore_cdp_exporter.api.client import BatchApi
from sitecore_cdp_exporter.api.credentials import credential_problems
from sitecore_cdp_exporter.config.model import Config, load_config
from sitecore_cdp_exporter.config.reload import ReadFile, Reloader
from sitecore_cdp_exporter.metrics.collector import GaugeCollector
from sitecore_cdp_exporter.metrics.definitions import EXPORTER_GAUGES, RequestMetrics
from sitecore_cdp_exporter.metrics.exporter_state import ExporterState
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.watch.batch_files import BatchFiles, find_missing

logger = logging.getLogger(__name__)


class Service:
    """The poller and its dependencies.

    Attributes:
        poller: Answers scrapes and probes.
        reloader: Reloads the config file.
        config: The config in use.

    Args:
        config: The config file, or a config that never changes.
        registry: Where metrics that do not come from a poll are registered.
        clock: A monotonic clock, in seconds.
        wall_clock: Seconds since the Unix epoch.

    Raises:
        ConfigError: The config file cannot be used.

    """

    def __init__(
        self,
        config: Path | Config,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        path = config if isinstance(config, Path) else None
        self.reloader = Reloader("config", path, self._reload, clock=wall_clock)
        if isinstance(config, Path):
            config = load_config(config, self.reloader.read)
        self._observe = RequestMetrics(registry).observe
        self._path = path or Path()
        self._batch_files = BatchFiles(config.batch_files, self._path.parent)
        self._batch_files.refresh()
        self._api = self._connect(config)
        self.poller = Poller(self._api, config, self._batch_files, clock=clock, wall_clock=wall_clock)
        self.config = config
        registry.register(GaugeCollector(EXPORTER_GAUGES, self._state))

    def close(self) -> None:
        """Close the connections to the API, and end the reading of an error log."""
        self._api.close()

    def _reload(self, read: ReadFile) -> Mapping[str, object]:
        config = load_config(self._path, read)
        self._apply(config)
        return {"batches": len(config.batches)}

    def _apply(self, config: Config) -> None:
        """Switch to a new config with the next poll, and close the old one's connections as they become idle."""
        before, self._api = self._api, self._connect(config)
        self.config = config
        self._batch_files.watch(config.batch_files)
        self.poller.reconfigure(self._api, config)
        before.close()

    def _state(self) -> ExporterState:
        return ExporterState(self.config.api, self.reloader.state, self._batch_files.errors)

    def _connect(self, config: Config) -> BatchApi:
        _log_what_will_not_work(config)
        return BatchApi(config.api, self._observe, error_logs=config.error_logs)


def _log_what_will_not_work(config: Config) -> None:
    """Log what is missing or unsafe. None of it is fatal: secrets and batch files may appear later."""
    if problems := credential_problems(config.api.basic_auth, os.environ):
        logger.error("cannot ask the Batch API without credentials: %s", "; ".join(problems))
    for path in find_missing(config.batch_files):
        logger.warning("batch_files: No such file or directory", extra={"path": f"{path}"})
    if config.api.tls_config.insecure_skip_verify:
        logger.warning(
            "api.tls_config.insecure_skip_verify is on: anybody on the network path can read the credentials"
        )
