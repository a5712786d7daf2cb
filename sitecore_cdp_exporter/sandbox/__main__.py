"""Run the sandbox by itself: a local stand-in for Sitecore CDP's Batch API, a service that nobody can run locally.

It is not Sitecore CDP, and it keeps everything in memory. It prints the client key and the API token that it accepts.
With --client-key, the token is read from the environment variable SITECORE_CDP_API_TOKEN, if set.
"""

import argparse
import math
import os
import signal
import sys
from collections.abc import Sequence

from sitecore_cdp_exporter.sandbox import faults
from sitecore_cdp_exporter.sandbox.control import FAULTS_PATH
from sitecore_cdp_exporter.sandbox.server import API_TOKEN, CLIENT_KEY, LOOPBACK, Sandbox

TOKEN_VARIABLE = "SITECORE_CDP_API_TOKEN"  # noqa: S105  The variable's name is no secret.
MAX_PORT = 65535
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit code."""
    options = _parser().parse_args(arguments)
    host, port = options.listen_address
    # Without --client-key, the variable may hold the token of the real API, for an exporter in the same shell.
    token = os.environ.get(TOKEN_VARIABLE) if options.client_key else None
    client_key = options.client_key or CLIENT_KEY
    sandbox = Sandbox(client_key=client_key, api_token=token or API_TOKEN, host=host, port=port, speed=options.speed)
    # Blocked before any thread starts, so that only sigwait below receives them.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        sandbox.start()
    except OSError as error:
        sys.stderr.write(f"Cannot listen on {host}:{port}: {error.strerror or error}\n")
        return 1
    sys.stdout.write(
        "This is a sandbox of the Batch API, a stand-in for a service that nobody can run locally. "
        "It is not Sitecore CDP.\n"
        f"Base URL:   {sandbox.base_url}\n"
        f"Client key: {client_key}\n"
        f"API token:  {f'as in {TOKEN_VARIABLE}' if token else API_TOKEN}\n"
        f"Faults:     PUT and DELETE {sandbox.base_url}{FAULTS_PATH}, see --help\n"
    )
    sys.stdout.flush()
    signal.sigwait(STOP_SIGNALS)
    sandbox.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sitecore_cdp_exporter.sandbox",
        description=__doc__,
        epilog=faults.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--listen-address",
        type=_address,
        default=f"{LOOPBACK}:10312",
        metavar="HOST:PORT",
        help="default: %(default)s; without a host, loopback; port 0 picks a free port",
    )
    parser.add_argument(
        "--speed",
        type=_speed,
        default=1.0,
        help="speed up queueing and processing by this factor; default: %(default)s",
    )
    parser.add_argument(
        "--client-key", help=f"default: {CLIENT_KEY}, with the token {API_TOKEN}, ignoring the environment"
    )
    return parser


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"must be HOST:PORT, not {text!r}")
    return host.removeprefix("[").removesuffix("]") or LOOPBACK, int(port)


def _speed(text: str) -> float:
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not math.isfinite(speed) or speed <= 0:
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return speed


if __name__ == "__main__":
    sys.exit(main())
