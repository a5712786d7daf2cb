"""The command: flags, signals, and the wiring of the parts."""

import argparse
import asyncio
import logging
import re
import resource
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import prometheus_client
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from sitecore_cdp_exporter import __version__, systemd
from sitecore_cdp_exporter.check import check, missing_config
from sitecore_cdp_exporter.config.model import ConfigError
from sitecore_cdp_exporter.config.reload import Reloader
from sitecore_cdp_exporter.logs import LOG_LEVELS, configure_logging
from sitecore_cdp_exporter.service import Service
from sitecore_cdp_exporter.web.address import ListenAddress, ListenError
from sitecore_cdp_exporter.web.security.file import WebConfigFile
from sitecore_cdp_exporter.web.server import WebServer, WebSettings

if TYPE_CHECKING:
    from sitecore_cdp_exporter.demo import Demo

logger = logging.getLogger(__name__)

PORT = 10311


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; None: those of the process.

    Returns:
        The exit status: 0 after SIGTERM or SIGINT, 1 when the config or an address cannot be used. Wrong flags end
        the process with 2.

    """
    flags = _parse_flags(argv)
    configure_logging(flags.log_level, flags.log_format)
    # A `_created` series for each counter is of no use here, and doubles what counters cost.
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    if flags.config_check:
        return check(flags.config_file, flags.web_config_file)
    try:
        with _start_demo() if flags.demo else nullcontext() as demo:
            return asyncio.run(_serve(flags, demo))
    except ConfigError as error:
        return _fail(missing_config(flags.config_file) or error.errors)
    except ListenError as error:
        flag = "--web.health-listen-address" if error.address == flags.health_listen_address else "--web.listen-address"
        return _fail([f"{error}; choose another with {flag}=HOST:PORT, with make by ARGS={flag}=HOST:PORT"])


def _start_demo() -> AbstractContextManager["Demo"]:
    from sitecore_cdp_exporter.demo import start_demo  # noqa: PLC0415  Only the demo needs the sandbox.

    return start_demo()


def _parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sitecore-cdp-batch-exporter",
        description="Prometheus exporter for the Batch API of Sitecore CDP.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config.file", dest="config_file", type=_path, metavar="PATH", help="config file (default: config.yaml)")
    add(
        "--config.check",
        dest="config_check",
        action="store_true",
        help="validate the config file and the files that it names, print what would be watched, and exit with 0 or 1",
    )
    add(
        "--config.auto-reload",
        dest="auto_reload",
        action="store_true",
        help="before each scrape, reload the config file if it changed",
    )
    add(
        "--demo",
        action="store_true",
        help="run without a config file against a sandbox of the Batch API in this process; listen on loopback",
    )
    add(
        "--web.listen-address",
        dest="listen_addresses",
        action="append",
        type=_listen_address,
        metavar="ADDRESS",
        help=f"host:port to listen on; may be repeated (default: :{PORT}, with --demo 127.0.0.1:{PORT})",
    )
    add(
        "--web.health-listen-address",
        dest="health_listen_address",
        type=_listen_address,
        metavar="ADDRESS",
        help="host:port that serves only /-/healthy and /-/ready (default: none)",
    )
    add(
        "--web.telemetry-path",
        dest="telemetry_path",
        type=_telemetry_path,
        default="/metrics",
        metavar="PATH",
        help="path of the metrics (default: %(default)s)",
    )
    add(
        "--web.max-requests",
        dest="max_requests",
        type=_positive,
        default=64,
        metavar="N",
        help="how many scrapes may run at once; more get 503 (default: %(default)s)",
    )
    add(
        "--web.config.file",
        dest="web_config_file",
        type=_path,
        metavar="PATH",
        help="file that enables TLS and basic auth, as in the official exporters (default: none)",
    )
    add(
        "--web.enable-lifecycle",
        dest="enable_lifecycle",
        action="store_true",
        help="reload the config file on POST /-/reload (SIGHUP always does)",
    )
    add(
        "--log.level",
        dest="log_level",
        choices=LOG_LEVELS,
        default="info",
        help="log messages of this level and above (default: %(default)s)",
    )
    add(
        "--log.format",
        dest="log_format",
        choices=("logfmt", "json"),
        default="logfmt",
        help="format of the log lines (default: %(default)s)",
    )
    add("--version", action="version", version=f"%(prog)s {__version__}")
    flags = parser.parse_args(argv)
    if flags.demo and (flags.config_file or flags.config_check):
        parser.error("--demo takes no config file")
    if not flags.demo:
        flags.config_file = flags.config_file or Path("config.yaml")
    flags.listen_addresses = flags.listen_addresses or [ListenAddress("127.0.0.1" if flags.demo else None, PORT)]
    return flags


def _path(text: str) -> Path:
    # Path("") is the current folder.
    if not text:
        raise argparse.ArgumentTypeError("expected the path of a file")
    return Path(text)


def _listen_address(text: str) -> ListenAddress:
    try:
        return ListenAddress.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _telemetry_path(text: str) -> str:
    # Each part begins with a letter or a digit, so none is `..`, and no path is one of those below `/-/`.
    if text == "/probe" or not re.fullmatch(r"(/[A-Za-z0-9][A-Za-z0-9._~-]*)+/?", text):
        raise argparse.ArgumentTypeError("expected a path such as /metrics, other than /probe")
    return text


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError("expected a whole number from 1 up")
    return int(text)


def _fail(errors: Sequence[str]) -> int:
    for error in errors:
        logger.error("%s", error)
    return 1


async def _serve(flags: argparse.Namespace, demo: "Demo | None") -> int:
    """Serve until a signal says to stop."""
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
