"""Keeps what is compiled for the tests beside the installed packages, even if Python is set to write none.

pytest compiles the tests, and Hypothesis, in a way of its own, for their assertions. That takes four seconds, in each
of its processes. The first import of `conftest.py` begins, and the end of the collection ends it: what a test
imports, or starts, is compiled as anywhere.
"""

import sys
from pathlib import Path

_BEFORE = sys.dont_write_bytecode, sys.pycache_prefix
sys.dont_write_bytecode, sys.pycache_prefix = False, str(Path(sys.prefix) / "bytecode")


def keep_no_more() -> None:
    sys.dont_write_bytecode, sys.pycache_prefix = _BEFORE
