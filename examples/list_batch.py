#!/usr/bin/env python3
"""List a batch for the exporter: add its ref to the batch file of the day.

    python list_batch.py --feed=nightly-guests --label=team=crm batches.d 5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11

Any number of pipelines may do so at once: no entry is lost, and nobody ever reads half a file. It needs Linux or
another Unix, and nothing but Python, so copy it to where you need it.
"""

import argparse
import fcntl
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID


def list_batch(folder: Path, entry: dict[str, object]) -> None:
    """Add an entry to the batch file of today (UTC), and begin the file if it is the first of the day."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        # One at a time: who reads while another one writes would lose the other's entry.
        fcntl.flock(lock, fcntl.LOCK_EX)
        add_line(folder / f"{datetime.now(UTC).date()}.yaml", f"- {json.dumps(entry, ensure_ascii=False)}\n")
    finally:
        os.close(lock)


def add_line(file: Path, line: str) -> None:
    """Write the file anew with one line more, aside, and then put it in the place of the old one."""
    content = file.read_text(encoding="utf-8") if file.exists() else ""
    if content and not content.endswith("\n"):
        content += "\n"
    # In the same folder, because a file can be renamed on its own disk only; hidden, so that no glob matches it.
    aside = file.with_name(f".{file.name}")
    aside.unlink(missing_ok=True)
    with aside.open("x", encoding="utf-8") as written:
        written.write(content + line)
        written.flush()
        # Without it, a power cut could leave the new name with no content.
        os.fsync(written.fileno())
    aside.replace(file)


def label(text: str) -> tuple[str, str]:
    """Read `name=value`."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError("expected name=value")
    return name, value


def main() -> int:
    """Read the arguments and list the batch. Gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the batch files are; batch_files of the config matches them")
    parser.add_argument("ref", type=UUID, help="batch ref, a UUID")
    parser.add_argument("--feed", help="the recurring upload that the batch belongs to")
    parser.add_argument("--label", type=label, action="append", default=[], help="name=value; may be given repeatedly")
    options = parser.parse_args()
    entry = {"ref": str(options.ref), "feed": options.feed, "labels": dict(options.label)}
    try:
        list_batch(options.folder, {key: value for key, value in entry.items() if value})
    except OSError as error:
        sys.exit(f"{error.filename or options.folder}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
