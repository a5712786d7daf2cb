"""What the package takes from the environment when it is imported: nothing."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# As each command does it, in the order that matters: its own package comes first. aiohttp makes such a context when it
# is imported.
PROGRAM = """
import sitecore_cdp_exporter
import ssl
from prometheus_client import CollectorRegistry, Counter
ssl.create_default_context()
Counter("requests", "Requests.", registry=CollectorRegistry()).inc()
"""


@pytest.mark.parametrize("is_there", [True, False])
def test_files_that_libraries_would_write_are_neither_needed_nor_written(tmp_path: Path, *, is_there: bool) -> None:
    folder = tmp_path / "folder"
    if is_there:
        folder.mkdir()
    variables = {
        "SSLKEYLOGFILE": f"{folder / 'keys.log'}",
        "PROMETHEUS_MULTIPROC_DIR": f"{folder}",
        "prometheus_multiproc_dir": f"{folder}",
    }
    subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, **variables}, check=True)
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"] * is_there
