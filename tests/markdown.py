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


def block(document: Path, heading: str, language: str, number: int = 0) -> str:
    """Return the text of one block: of those with this heading and language, the one with this number."""
    found = [block.text for block in blocks(document) if (block.heading, block.language) == (heading, language)]
    return found[number]


def rows(document: Path) -> list[list[str]]:
    """Return the cells of all rows of tables, the headings included."""
    lines = re.findall(r"(?m)^\| *(.*?) *\|$", prose(document))
    return [re.split(r" *\| *", line) for line in lines]


def prose(document: Path) -> str:
    """Return a document without its fenced blocks."""
    return re.sub(r"(?ms)^( *)```\w*\n.*?^\1```$", "", document.read_text(encoding="utf-8"))


def headings(document: Path) -> list[str]:
    """Return the headings of a document, from the top."""
    return re.findall(r"(?m)^#+ (.+)$", prose(document))


def anchor(heading: str) -> str:
    """Return the anchor that the usual renderers make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
