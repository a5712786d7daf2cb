"""Run the exporter under everything that production does to it, and show what it cost and what got lost.

    make soak
    make soak ARGS=--duration=1m

The real program watches a sandbox of the Batch API by discovery and by batch files, and two real Prometheus scrape it
each second. Meanwhile batches are uploaded and finish, the API fails, its token is rotated, the config and the batch
files are changed to good and to bad ones, and clients leave in the middle. In the end, what both Prometheus have stored
is compared with what the batches did. The exit code is 1 if something does not hold.
"""

import argparse
import logging
import shutil
import signal
import sys
from collections.abc import Sequence

from pydantic import TypeAdapter, ValidationError

from sitecore_cdp_exporter.config.values import Duration
from tools.soak.run import WARM_UP, soak

MIN_SOAK = 45.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Soak for `--duration`. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--duration", type=_duration, default="10m", help="for instance 90s or 1m; default %(default)s")
    options = parser.parse_args(arguments)
    if shutil.which("prometheus") is None:
        sys.stderr.write("prometheus not found on the PATH; Debian has it in its package `prometheus`\n")
        return 2
    # An upload of the demo that meets a fault is lost, as planned.
    logging.getLogger("sitecore_cdp_exporter.sandbox").addHandler(logging.NullHandler())
    # Whatever ends the soak, its programs end with it.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    rows = soak(options.duration, _report)
    _report("\n| what must hold | measured | verdict |\n|---|---|---|")
    for row in rows:
        _report(f"| {row.what} | {row.measured} | {'holds' if row.holds else 'FAILS'} |")
    return 0 if all(row.holds for row in rows) else 1


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _duration(text: str) -> float:
    try:
        seconds: float = TypeAdapter(Duration).validate_python(text)
    except ValidationError:
        raise argparse.ArgumentTypeError(f"expected a duration such as 10m, not {text!r}") from None
    if seconds < MIN_SOAK:
        raise argparse.ArgumentTypeError(f"at least {MIN_SOAK:.0f}s: the first {WARM_UP:.0f}s are the warm-up")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
