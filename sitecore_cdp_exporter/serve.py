"""Serve scrapes until a signal ends it: the signals, and the wiring of the parts."""

import argparse
import asyncio
import logging
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING

import prometheus_client
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from sitecore_cdp_exporter import __version__, systemd
from sitecore_cdp_exporter.config.model import ConfigError
from sitecore_cdp_exporter.config.reload import Reloader
from sitecore_cdp_exporter.service import Service
from sitecore_cdp_exporter.web.address import ListenAddress
from sitecore_cdp_exporter.web.security.file import WebConfigFile
from sitecore_cdp_exporter.web.server import WebServer, WebSettings

if TYPE_CHECKING:
    from sitecore_cdp_exporter.demo import Demo

logger = logging.getLogger(__name__)


def serve(flags: argparse.Namespace, demo: "Demo | None") -> int:
    """Serve until SIGTERM or SIGINT, and return the exit status.

    Args:
        flags: Those of `cli`.
        demo: What is served instead of a config file.

    Raises:
        ConfigError: The config file or the web config cannot be used.
        ListenError: An address cannot be listened on.

    """
    # A `_created` series for each counter is of no use here, and doubles what counters cost.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    return asyncio.run(_serve(flags, demo))


async def _serve(flags: argparse.Namespace, demo: "Demo | None") -> int:
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    actions: dict[int, Callable[[], object]] = {
        signal.SIGTERM: stopping.set,
        signal.SIGINT: stopping.set,
        # The loop runs it, so there is a service by then; a SIGHUP while the config is read is not lost.
        signal.SIGHUP: lambda: loop.run_in_executor(None, _reload, service.reloader),
    }
    with _handling(actions):
        _raise_open_file_limit()
        registry = CollectorRegistry()
        if not flags.disable_exporter_metrics:
            for collector in (ProcessCollector, PlatformCollector, GCCollector):
                collector(registry=registry)
        web_config = None if flags.web_config_file is None else WebConfigFile(flags.web_config_file)
        service = Service(flags.config_file if demo is None else demo.config, registry)
        settings = WebSettings(
            telemetry_path=flags.telemetry_path,
            auto_reload=flags.auto_reload,
            lifecycle_enabled=flags.enable_lifecycle,
            max_requests=flags.max_requests,
        )
        web = WebServer(service.poller, service.reloader, registry, settings, web_config)
        has_tls = web_config is not None and web_config.has_tls
        with ExitStack() as uploads:
            try:
                addresses = await web.start(flags.listen_addresses, flags.health_listen_address)
                systemd.notify("READY=1")
                for address in addresses:
                    logger.info(
                        "listening",
                        extra={
                            "version": __version__,
                            "address": str(address),
                            "tls": has_tls,
                            "basic_auth": web_config is not None and web_config.has_users,
                            "base_url": service.config.api.base_url,
                            "endpoint": service.config.api.endpoint,
                            "watched_batches": len(service.poller.watched),
                        },
                    )
                if demo is not None:
                    uploads.enter_context(demo.uploads(service.poller))
                    url = f"{'https' if has_tls else 'http'}://{_reachable(addresses[0])}"
                    print(demo.banner(url, flags.telemetry_path), flush=True)  # noqa: T201  The output of the command.
                await stopping.wait()
                systemd.notify("STOPPING=1")
                logger.info("stopping")
            finally:
                await web.stop()
                service.close()
                if web_config is not None:
                    web_config.close()
    return 0


@contextmanager
def _handling(actions: Mapping[int, Callable[[], object]]) -> Iterator[None]:
    """Run an action on the loop for each signal, and leave the signals as they were."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in actions}
    for number, action in actions.items():
        loop.add_signal_handler(number, action)
    try:
        yield
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


def _reload(reloader: Reloader) -> None:
    # The reloader has logged it.
    with suppress(ConfigError):
        reloader.reload()


def _reachable(address: ListenAddress) -> ListenAddress:
    any_address = address.host in {None, "0.0.0.0", "::"}  # noqa: S104  Nothing is bound here.
    return ListenAddress("localhost" if any_address else address.host, address.port)


def _raise_open_file_limit() -> None:
    """Raise the limit of open files as far as the system allows, as programs in Go do by themselves."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # macOS reports a limit that it then does not grant.
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
