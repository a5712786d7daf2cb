"""The command: its flags, and what they start."""

import argparse
import logging
import re
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from sitecore_cdp_exporter import __version__
from sitecore_cdp_exporter.assets import write_assets
from sitecore_cdp_exporter.check import check, missing_config
from sitecore_cdp_exporter.config.model import ConfigError
from sitecore_cdp_exporter.config.names import REF
from sitecore_cdp_exporter.config.values import Duration
from sitecore_cdp_exporter.logs import LOG_LEVELS, configure_logging
from sitecore_cdp_exporter.output import print_errors
from sitecore_cdp_exporter.web.address import ListenAddress, ListenError

if TYPE_CHECKING:
    from sitecore_cdp_exporter.demo import Demo

logger = logging.getLogger(__name__)

PORT = 10311
# With --demo --once, the demo's two minutes take two seconds.
ONCE_SPEED = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments; None: those of the process.

    Returns:
        The exit status: 0 after SIGTERM or SIGINT, 1 when the config or an address cannot be used; with --once that
        of its report. Wrong flags end the process with 2.

    """
    flags = _parse_flags(argv)
    # The report of --once includes everything worth a warning.
    configure_logging(flags.log_level or ("error" if flags.once else "info"), flags.log_format)
    if flags.config_check:
        return check(flags.config_file, flags.web_config_file)
    if flags.assets_folder:
        return write_assets(flags.assets_folder)
    if flags.once:
        return _once(flags)
    from sitecore_cdp_exporter.serve import serve  # noqa: PLC0415  One-shot commands need no server.

    try:
        with _start_demo() if flags.demo else nullcontext() as demo:
            return serve(flags, demo)
    except ConfigError as error:
        return _fail(missing_config(flags.config_file) or error.errors)
    except ListenError as error:
        flag = "--web.health-listen-address" if error.address == flags.health_listen_address else "--web.listen-address"
        return _fail([f"{error}; choose another with {flag}=HOST:PORT, with make by ARGS={flag}=HOST:PORT"])


def _once(flags: argparse.Namespace) -> int:
    from sitecore_cdp_exporter.once import once  # noqa: PLC0415  Nothing else needs it.

    try:
        if flags.demo:
            with _start_demo(speed=ONCE_SPEED) as demo:
                demo.upload_round()
                return once(demo.config, flags.refs, wait=flags.wait or 0.0, output=flags.output or "table")
        return once(flags.config_file, flags.refs, wait=flags.wait or 0.0, output=flags.output or "table")
    except ConfigError as error:
        print_errors(*(missing_config(flags.config_file) or error.errors))
        return 1


def _start_demo(speed: float = 1.0) -> AbstractContextManager["Demo"]:
    from sitecore_cdp_exporter.demo import start_demo  # noqa: PLC0415  Only the demo needs the sandbox.

    return start_demo(speed=speed)


def _parse_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sitecore-cdp-batch-exporter",
        usage="%(prog)s [FLAGS] | %(prog)s --once [FLAGS] [REF ...]; --help lists the flags",
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
        "--once",
        action="store_true",
        help="poll once, print a report and end: 0 all finished and accepted, 1 config, credentials or API, 3 a batch "
        "has failed, 4 a batch is unfinished or unreadable",
    )
    add(
        "refs",
        nargs="*",
        type=_ref,
        metavar="REF",
        help="with --once: the batches to poll (default: all that are watched)",
    )
    add(
        "--wait",
        type=_duration,
        metavar="DURATION",
        help="with --once: wait up to this long for the batches to finish, such as 30m (default: 0)",
    )
    add("--output", choices=("table", "json"), help="with --once: format of the report (default: table)")
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
        "--web.disable-exporter-metrics",
        dest="disable_exporter_metrics",
        action="store_true",
        help="leave out the metrics about the exporter's process: process_* and python_*",
    )
    add(
        "--log.level",
        dest="log_level",
        choices=LOG_LEVELS,
        help="log messages of this level and above (default: info, with --once error)",
    )
    add(
        "--log.format",
        dest="log_format",
        choices=("logfmt", "json"),
        default="logfmt",
        help="format of the log lines (default: %(default)s)",
    )
    add(
        "--write-assets",
        dest="assets_folder",
        type=_path,
        metavar="DIR",
        help="write this version's alert rules, dashboards, example configs and scripts to a folder, and exit; "
        "existing files that differ are never overwritten",
    )
    add("--version", action="version", version=f"%(prog)s {__version__}")
    flags = parser.parse_intermixed_args(argv)
    if not flags.once and (flags.refs or flags.wait is not None or flags.output is not None):
        parser.error("REF, --wait and --output require --once")
    if flags.once and flags.config_check:
        parser.error("--once and --config.check cannot be combined")
    if flags.assets_folder and (flags.once or flags.config_check or flags.demo):
        parser.error("--write-assets cannot be combined with --once, --config.check or --demo")
    if (flags.once or flags.assets_folder) and (unused := _first_for_serving(sys.argv[1:] if argv is None else argv)):
        parser.error(f"{unused} has no effect with --once or --write-assets")
    if flags.demo and (flags.config_file or flags.config_check):
        parser.error("--demo takes no config file")
    if not flags.demo:
        flags.config_file = flags.config_file or Path("config.yaml")
    flags.listen_addresses = flags.listen_addresses or [ListenAddress("127.0.0.1" if flags.demo else None, PORT)]
    return flags


def _first_for_serving(arguments: Sequence[str]) -> str | None:
    """Return the first flag that only matters to an exporter that serves scrapes."""
    names = (argument.partition("=")[0] for argument in arguments)
    return next((name for name in names if name.startswith("--web.") or name == "--config.auto-reload"), None)


def _ref(text: str) -> str:
    if not re.fullmatch(REF, text):
        raise argparse.ArgumentTypeError("expected a UUID such as 12af3453-62da-4b31-b646-631b7b5f3009")
    return text


def _duration(text: str) -> float:
    try:
        seconds: float = TypeAdapter(Duration).validate_python(text)
    except ValidationError:
        raise argparse.ArgumentTypeError("expected a duration such as 30m, 90s or 1h30m") from None
    return seconds


def _path(text: str) -> Path:
    # Path("") is the current folder.
    if not text:
        raise argparse.ArgumentTypeError("expected a path")
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
