"""Take the pictures of the documentation from a running demo, with headless Chromium.

    make pictures

The demo needs about two minutes until batches of every status are there.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import requests

from tests.e2e.program import running, wait_for

DOCS = Path(__file__).parent
STATUSES = ("uploading", "processing", "success", "corrupted", "error")

BATCHES = 9


def shows_enough(page: str) -> bool:
    """Tell whether batches of every status are there, and an upload that failed and was repaired."""
    return all(f">{status}<" in page for status in STATUSES) and page.count("<tr><td>") >= BATCHES


def main() -> None:
    """Write docs/landing-page.png."""
    command = [sys.executable, str(DOCS.parent / "exporter.py"), "--demo", "--web.listen-address=127.0.0.1:0"]
    with (
        tempfile.TemporaryDirectory() as directory,
        running(command, log=Path(directory) / "demo.log") as demo,
    ):
        url = wait_for(
            "the demo", lambda: re.search(r"http://127\.0\.0\.1:\d+/(?= )", demo.output()), programs=[demo]
        ).group()
        wait_for(
            "batches of every status",
            lambda: shows_enough(requests.get(url, timeout=10).text),
            programs=[demo],
            seconds=300,
        )
        subprocess.run(  # noqa: S603  The command is written out here.
            [  # noqa: S607  Chromium is found on the PATH.
                "chromium",
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
                "--hide-scrollbars",
                "--force-device-scale-factor=2",
                f"--user-data-dir={directory}/chromium",
                "--window-size=1240,640",
                f"--screenshot={DOCS / 'landing-page.png'}",
                url,
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )


if __name__ == "__main__":
    main()
