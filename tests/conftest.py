from tests import collecting

# isort: split
import os
import signal
import sys
from pathlib import Path

import pytest

from tests import tiers

# The tables of Unicode of Hypothesis, which take seconds to make, stay beside the installed packages; its default is a
# folder here.
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = str(Path(sys.prefix) / "hypothesis")
# Each program would look for plugins of pydantic in all that is installed for development; there are none.
os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(tiers)
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        # Its workers run the tests, and begin a second earlier if it imports nothing that only tests need.
        collecting.compile_ahead()
    else:
        config.pluginmanager.import_plugin("tests.fixtures")
    # nohup has SIGHUP ignored, and a script that runs the tests in the background SIGINT. A program that a test starts
    # would inherit that, but not a handler.
    for number in (signal.SIGHUP, signal.SIGINT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_collection_finish() -> None:
    collecting.end()
