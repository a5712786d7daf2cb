#!/usr/bin/env python3
"""List a batch for the exporter: add its ref to the batch file of the day.

    python3 list_batch.py --feed=nightly-guests --label=team=crm batches.d 5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11

What the exporter would refuse is refused here, with the same words and exit code 1, and nothing is written. A
batch that is listed already is no mistake. Any number of pipelines may run this at once: no entry is lost, and nobody
ever reads half a file. It needs Linux or another Unix and only Python 3.11, so copy it to where you need it.
"""

import argparse
import fcntl
import json
import os
import re
import sys
import unicodedata
from datetime import UTC, datetime
from pathlib import Path

REF = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
RESERVED_LABELS = (
    "ref",
    "feed",
    "status",
    "reason",
    "cause",
    "kind",
    "of",
    "result",
    "field",
    "job",
    "instance",
    "le",
    "alertname",
    "alertstate",
    "severity",
    "why",
)
# Where the ref ends in a line.
REF_END = len('- {"ref": "12af3453-62da-4b31-b646-631b7b5f3009"')
# The exporter reads these files as another user, so the umask of the pipeline must not matter.
FILE_MODE = 0o644
FOLDER_MODE = 0o755


def problems_of(options: argparse.Namespace) -> list[str]:
    """List what the exporter would refuse, as `key: what is wrong`."""
    problems = []
    for key, ref in [("ref", options.ref), *(("replaces", ref) for ref in options.replaces)]:
        if not REF.fullmatch(ref):
            problems.append(f"{key}: expected a UUID such as 12af3453-62da-4b31-b646-631b7b5f3009")
    if options.ref.lower() in map(str.lower, options.replaces):
        problems.append("replaces: must name other batches, not this one")
    if options.feed is not None and (not options.feed or has(options.feed, "Cc", "Cs")):
        problems.append("feed: must have at least one character, and no control characters")
    names = [name for name, _ in options.label]
    for index, (name, value) in enumerate(options.label):
        if not LABEL_NAME.fullmatch(name):
            problems.append("labels: a label name has only letters, digits and _, and does not start with a digit")
        elif name in RESERVED_LABELS or name.startswith("__"):
            reserved = ", ".join(RESERVED_LABELS)
            problems.append(f"labels.{name}: this label name is reserved, like {reserved} and all that start with __")
        elif name in names[:index]:
            problems.append(f"labels.{name}: duplicate key")
        if has(value, "Cs"):
            problems.append("labels: expected valid Unicode")
    return problems


def has(text: str, *categories: str) -> bool:
    """Whether a text has a character of one of these Unicode categories. Bytes that are not UTF-8 are Cs."""
    return any(unicodedata.category(character) in categories for character in text)


def entry_line(options: argparse.Namespace) -> str:
    """Write the entry as a line of YAML that every reader takes for the same texts."""
    entry = {"ref": options.ref.lower(), "feed": options.feed, "labels": dict(options.label)}
    if options.replaces:
        entry["replaces"] = [ref.lower() for ref in options.replaces]
    quoted = json.dumps({key: value for key, value in entry.items() if value}, ensure_ascii=False)
    # JSON is YAML, except for characters that YAML drops, changes or rejects unless they are escaped.
    return "- " + "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted) + "\n"


def list_batch(folder: Path, line: str) -> None:
    """Add a line to the batch file of today (UTC); make the folder and the file if they are not there."""
    try:
        folder.mkdir()
        folder.chmod(FOLDER_MODE)
    except FileExistsError:
        pass
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # One at a time: who reads while another one writes would lose the other's entry.
        fcntl.flock(lock, fcntl.LOCK_EX)
        add_line(folder / f"{datetime.now(UTC).date()}.yaml", line.encode())
    finally:
        os.close(lock)


def add_line(file: Path, line: bytes) -> None:
    """Write a copy of the file with one more line, and rename it over the old one."""
    content = file.read_bytes() if file.exists() else b""
    for other in content.splitlines(keepends=True):
        if other.startswith(line[:REF_END]):
            if other == line:
                return
            sys.exit("ref: duplicate ref with a different feed, labels or replaces")
    if content and not content.endswith(b"\n"):
        content += b"\n"
    # In the same folder, because a file can only be renamed within its disk; hidden, so that no glob matches it.
    aside = file.with_name(f".{file.name}")
    aside.unlink(missing_ok=True)
    with aside.open("xb") as written:
        os.fchmod(written.fileno(), FILE_MODE)
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
    """Read the arguments and list the batch. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the batch files are; batch_files of the config matches them")
    parser.add_argument("ref", help="batch ref, a UUID")
    parser.add_argument("--feed", help="the recurring upload that the batch belongs to")
    parser.add_argument("--label", type=label, action="append", default=[], help="name=value; may be given repeatedly")
    parser.add_argument(
        "--replaces",
        action="append",
        default=[],
        metavar="REF",
        help="a failed batch that this one makes good once it is accepted; may be given repeatedly",
    )
    options = parser.parse_args()
    if problems := problems_of(options):
        sys.exit("\n".join(problems))
    try:
        list_batch(options.folder, entry_line(options))
    except OSError as error:
        sys.exit(f"{error.filename or options.folder}: {error.strerror}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
