"""Makes the collection of the tests quick.

pytest compiles the tests, and Hypothesis, in a way of its own, for their assertions. What it compiles is kept beside
the installed packages, even if Python is set to write none. Of several processes, the first one compiles for all. The
first import of `conftest.py` begins, and the end of the collection ends it: what a test imports, or starts, is compiled
as by default, and kept beside the source.
"""

import gc
import importlib
import multiprocessing
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).absolute().parent.parent
FOLDER = Path(sys.prefix) / "bytecode"
# Its time is that of the last run that compiled the tests.
_STAMP = FOLDER / "stamp"
# Hypothesis writes its tables of Unicode on the first use of a codec, but not while pytest starts.
_MAKE_TABLES = """
from hypothesis import strategies as st
for codec in ("utf-8", "latin-1"):
    st.text(st.characters(codec=codec)).validate()
"""
_BEFORE = sys.pycache_prefix
sys.dont_write_bytecode, sys.pycache_prefix = False, str(FOLDER)
# Else each program that a test starts compiles the whole package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# What is imported and collected stays, so to look for garbage meanwhile finds none.
gc.disable()


def compile_ahead() -> None:
    """Import the test modules that are new or have changed, in processes of their own that write the bytecode."""
    now = time.time()
    last = _STAMP.stat().st_mtime if _STAMP.exists() else 0.0
    changed = [path for path in (ROOT / "tests").rglob("test_*.py") if path.stat().st_mtime >= last]
    if changed:
        modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in changed]
        with multiprocessing.get_context("fork").Pool(os.cpu_count()) as pool:
            tables = subprocess.Popen([sys.executable, "-c", _MAKE_TABLES])
            pool.map(_import, modules, chunksize=1)
            tables.wait()
    # Tests run without it, too, only more slowly.
    with suppress(OSError):
        FOLDER.mkdir(exist_ok=True)
        _STAMP.touch()
        os.utime(_STAMP, (now, now))


def end() -> None:
    sys.pycache_prefix = _BEFORE
    # The garbage collector need not look a thousand times at what stays to the end.
    gc.freeze()
    gc.enable()


def _import(module: str) -> None:
    # Whoever collects the tests reports what is wrong with one.
    with suppress(Exception, pytest.skip.Exception):
        importlib.import_module(module)
