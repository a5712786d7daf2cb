"""The parts of a Markdown document that tests look at."""

import re
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent


@dataclass(frozen=True)
class Block:
    """A fenced block: the nearest heading above it, its language, and its text."""

    heading: str
    language: str
    text: str


def blocks(document: Path) -> list[Block]:
    """Return the fenced blocks of a document, from the top."""
    found, heading = [], ""
    for match in re.finditer(
        r"^#+ (?P<heading>[^\n]+)$|^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
        document.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    ):
        heading = match["heading"] or heading
        if match["text"]:
            found.append(Block(heading, match["language"], dedent(match["text"])))
    return found


def prose(document: Path) -> str:
    """Return a document without its fenced blocks."""
    return re.sub(r"(?ms)^( *)```\w*\n.*?^\1```$", "", document.read_text(encoding="utf-8"))


def headings(document: Path) -> list[str]:
    """Return the headings of a document, from the top."""
    return re.findall(r"(?m)^#+ (.+)$", prose(document))


def anchor(heading: str) -> str:
    """Return the anchor that the usual renderers make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def broken_links(document: Path) -> list[str]:
    """Return the relative links whose file or anchor does not exist."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if re.match(r"\w+://", link):
            continue
        path, _, fragment = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (fragment and fragment not in map(anchor, headings(target))):
            broken.append(link)
    return broken
