"""The parts that answer scrapes, made from the config file, and made anew when it is loaded again."""

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry

from sitecore_cdp_exporter.api.client import BatchApi
from sitecore_cdp_exporter.api.credentials import credential_problems
from sitecore_cdp_exporter.config.model import Config, load_config
from sitecore_cdp_exporter.config.reload import ConfigReloader
from sitecore_cdp_exporter.metrics.collector import EXPORTER_GAUGES, ExporterState, RequestMetrics
from sitecore_cdp_exporter.metrics.family import GaugeCollector
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.watch.batch_files import BatchFiles, find_missing

logger = logging.getLogger(__name__)


class Service:
    """The poller and what it needs.

    Attributes:
        poller: Answers scrapes and probes.
        reloader: Puts a changed config to use.
        config: The config in use.

    Args:
        config: The config file, or a config that never changes.
        registry: Where the metrics are registered that are not of a poll.
        clock: A monotonic clock, in seconds.
        wall_clock: Seconds since the Unix epoch.

    Raises:
        ConfigError: The config file can not be used.

    """

    def __init__(
        self,
        config: Path | Config,
        registry: CollectorRegistry,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        # It looks at the file first, so that a change while the exporter starts is not overlooked.
        path = config if isinstance(config, Path) else None
        self.reloader = ConfigReloader(path, self._apply, clock=wall_clock)
        if isinstance(config, Path):
            config = load_config(config)
        self._observe = RequestMetrics(registry).observe
        self._batch_files = BatchFiles(config.batch_files, Path() if path is None else path.parent)
        self._batch_files.refresh()
        self._api = self._connect(config)
        self.poller = Poller(self._api, config, self._batch_files, clock=clock, wall_clock=wall_clock)
        self.config = config
        registry.register(GaugeCollector(EXPORTER_GAUGES, self._state))

    def close(self) -> None:
        """Close the connections to the API."""
        self._api.close()

    def _apply(self, config: Config) -> None:
        """Use another config from the next poll on; connections of the one before are closed when they are free."""
        before, self._api = self._api, self._connect(config)
        self.config = config
        self._batch_files.watch(config.batch_files)
        self.poller.reconfigure(self._api, config)
        before.close()

    def _state(self) -> ExporterState:
        return ExporterState(self.config.api, self.reloader.state, self._batch_files.errors)

    def _connect(self, config: Config) -> BatchApi:
        """Make a client, and log what will not work as the config stands. It may come right later, so nothing ends."""
        if problems := credential_problems(config.api.basic_auth, os.environ):
            logger.error("cannot ask the Batch API without credentials: %s", "; ".join(problems))
        for path in find_missing(config.batch_files):
            logger.warning("nothing is there for batch_files", extra={"path": f"{path}"})
        if config.api.tls_config.insecure_skip_verify:
            logger.warning("api.tls_config.insecure_skip_verify is on: credentials can be read on the way")
        return BatchApi(config.api, self._observe)
