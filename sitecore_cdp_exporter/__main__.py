"""The first lines of the command, however it is started: signals first, then the imports that take time."""

import gc
import os
import signal
import sys
from importlib import import_module

from sitecore_cdp_exporter.output import print_errors

# These end by themselves. An interrupt must not look like success.
ONE_SHOT_FLAGS = {"--config.check", "--once", "--write-assets"}


def main() -> int:
    """Run the command with the arguments of the process, and return its exit status."""
    is_one_shot = not ONE_SHOT_FLAGS.isdisjoint(word.partition("=")[0] for word in sys.argv)
    if not is_one_shot:
        # A reload may be requested before there is anything to reload.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt if is_one_shot else _end)
    # What the imports create stays. Searching it for garbage takes an eighth of the startup, and 30 ms each time later.
    gc.disable()
    try:
        from sitecore_cdp_exporter import cli  # noqa: PLC0415  Imports take a third of a second.

        if not is_one_shot:
            import_module("sitecore_cdp_exporter.serve")
    except ModuleNotFoundError as error:
        # Logging is not set up yet.
        print_errors(
            f"sitecore-cdp-batch-exporter needs the Python module {error.name}, which {sys.executable} does not have. "
            "In a checkout, use `make demo` or `make run`, which install what is needed into .venv; "
            "elsewhere, pip install --no-deps -r requirements.txt in a virtual environment."
        )
        return 1
    gc.freeze()
    gc.enable()
    return cli.main()


def _interrupt(number: int, _: object) -> None:
    """End by the signal, as shells expect; where that does nothing, as in a container, by the status of one."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
    os._exit(128 + number)


def _end(*_: object) -> None:
    """End at once and quietly. Raising would leave a traceback wherever an import or a destructor was under way."""
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
