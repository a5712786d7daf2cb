"""What the tests upload, and how."""

import gzip
import json
import sys
from pathlib import Path

from tools.exporter_program import ROOT

GUEST = {"schema": "guest", "mode": "upsert", "value": {"guestType": "customer", "email": "guest@example.com"}}


def batch_file(directory: Path, *, good: int, bad: int = 0) -> Path:
    """Write a file of guests; the bad ones have a mode that does not exist."""
    records = [GUEST] * good + [GUEST | {"mode": "unheard-of"}] * bad
    lines = [
        json.dumps({"ref": f"00000000-0000-4000-8000-{number:012}", **record}) for number, record in enumerate(records)
    ]
    path = directory / "guests.json.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    return path


def upload_command(url: str, ref: str, file: Path) -> list[str]:
    """Return the command that uploads the file."""
    return [sys.executable, str(ROOT / "examples" / "upload.py"), f"--ref={ref}", url, str(file)]
