"""Commands of the documentation, run by bash."""

import shlex
import subprocess
import sys
from pathlib import Path

from tools.exporter_program import ROOT

# As words of a shell: the path of a clone may have blanks.
_PYTHON = shlex.quote(sys.executable)
_EXAMPLES = shlex.quote(str(ROOT / "examples"))
_EXPORTER = shlex.quote(str(ROOT / "exporter.py"))


def from_elsewhere(commands: str) -> str:
    """Let commands for the folder of a clone do the same in another one."""
    commands = commands.replace(".venv/bin/python", _PYTHON).replace(" exporter.py", f" {_EXPORTER}")
    return commands.replace(" examples/", f" {_EXAMPLES}/")


def run_bash(script: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a script to its end; raise CalledProcessError if one of its commands fails."""
    return subprocess.run(["bash", "-e", "-c", script], cwd=directory, capture_output=True, text=True, check=True)
