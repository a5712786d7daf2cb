"""Print what the changelog says of a version, for the release of its tag.

    python -m tools.release_notes v1.2.3

It runs before anything is installed, so it imports the standard library only.
"""

import re
import sys
from pathlib import Path

from sitecore_cdp_exporter import __version__

CHANGELOG = Path(__file__).parent.parent / "CHANGELOG.md"


def notes(changelog: str, version: str) -> str:
    """Return the section of a version, without its heading.

    Raises:
        ValueError: There is none, it has no date or nothing in it, or something is still unreleased.

    """
    sections = re.split(r"(?m)^## ", changelog)[1:]
    texts = {heading: body.strip() for heading, _, body in (section.partition("\n") for section in sections)}
    if texts.pop("Unreleased", ""):
        raise ValueError("the changelog has unreleased entries: move them into the section of this version")
    dated = rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d"
    found = [text for heading, text in texts.items() if re.fullmatch(dated, heading)]
    if found in ([], [""]):
        raise ValueError(f"the changelog says nothing under '## [{version}] - YYYY-MM-DD'")
    return found[0]


def main(tag: str) -> int:
    """Print the notes and return 0, or say why this cannot be released and return 1."""
    if tag != f"v{__version__}":
        print(f"release_notes: the tag {tag} is not v{__version__}, the version of the package", file=sys.stderr)
        return 1
    try:
        print(notes(CHANGELOG.read_text(encoding="utf-8"), __version__))
    except ValueError as error:
        print(f"release_notes: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
