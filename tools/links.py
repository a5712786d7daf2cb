"""Find links that lead nowhere, without a network: `python -m tools.links`.

In Markdown, a relative link or picture must lead to a file of this repository, and its fragment to a heading. URLs of
this repository must do so wherever they are: in Markdown, alert rules, dashboards, manifests and code.
"""

import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).absolute().parents[1]
DOCUMENTS = ("*.md", "docs/*.md", ".github/**/*.md")
# Where else URLs of this repository are, and in which files.
FOLDERS = (
    ".github",
    "alertmanager",
    "deploy",
    "docs",
    "examples",
    "grafana",
    "prometheus",
    "sitecore_cdp_exporter",
    "stack",
)
SUFFIXES = {".json", ".md", ".py", ".service", ".tmpl", ".tpl", ".txt", ".yaml", ".yml"}


def main() -> int:
    """Print the broken links; the exit status is 1 if there are any."""
    broken = broken_links(ROOT)
    print("\n".join(broken) or "No link is broken.")
    return 1 if broken else 0


def broken_links(root: Path) -> list[str]:
    """Return the broken links of a repository, each as `file:line: link`; the line is that of its paragraph."""
    return [f"{place}: {link}" for place, link, target in _links(root) if not _exists(root, target)]


def _links(root: Path) -> Iterator[tuple[str, str, str]]:
    """Yield where each link is, the link, and its target as a path with a fragment."""
    for document in documents(root):
        for line, link in _markdown_links(document.read_text(encoding="utf-8")):
            if not re.match(r"[\w+.-]+:", link):
                name, hash_, fragment = link.partition("#")
                target = document.parent / unquote(name) if name else document
                yield f"{document.relative_to(root)}:{line}", link, f"{target}{hash_}{fragment}"
    url = re.compile(rf"{re.escape(_repository(root))}/(?:blob|tree|raw)/[\w.-]+/([\w./-]*\w(?:#[\w-]+)?)")
    for path in [*documents(root), *_other_files(root)]:
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            for match in url.finditer(text):
                yield f"{path.relative_to(root)}:{number}", match[0], str(root / match[1])


def documents(root: Path) -> list[Path]:
    """Return the Markdown documents of a repository."""
    return sorted(path for pattern in DOCUMENTS for path in root.glob(pattern))


def _other_files(root: Path) -> list[Path]:
    paths = (path for folder in FOLDERS for path in (root / folder).rglob("*") if path.suffix in SUFFIXES)
    return sorted({*paths} - {*documents(root)})


def _repository(root: Path) -> str:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["urls"]["Source"])


def _markdown_links(text: str) -> Iterator[tuple[int, str]]:
    """Yield the links and pictures of a document, each with its line or that of its paragraph."""
    for token in _tokens(text):
        for child in token.children or ():
            if child.type in {"link_open", "image"}:
                link = child.attrGet("href" if child.type == "link_open" else "src")
                yield (token.map or [0])[0] + 1, str(link)


def _exists(root: Path, target: str) -> bool:
    name, _, fragment = target.partition("#")
    path = Path(name).resolve()
    if not path.is_relative_to(root.resolve()) or not path.exists():
        return False
    return not fragment or (path.suffix == ".md" and fragment in _anchors(path))


@cache
def _anchors(document: Path) -> frozenset[str]:
    return frozenset(anchors(document.read_text(encoding="utf-8")))


def anchors(text: str) -> list[str]:
    """Return the anchors of the headings of a document, as GitHub makes them."""
    found: list[str] = []
    times: Counter[str] = Counter()
    for heading, content in pairwise(_tokens(text)):
        if heading.type == "heading_open":
            shown = "".join(child.content for child in content.children or ())
            anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
            found.append(f"{anchor}-{times[anchor]}" if times[anchor] else anchor)
            times[anchor] += 1
    return found


@cache
def _tokens(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


if __name__ == "__main__":
    sys.exit(main())
