"""A page of the exporter, as a test reads it."""

from html.parser import HTMLParser

WITHOUT_END = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """Reads a page, and refuses one whose elements are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.links: list[str] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self._open: list[str] = []
        assert text.startswith("<!DOCTYPE html>")
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        if tag not in WITHOUT_END:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag == "a":
            self.links += [value for name, value in attrs if name == "href" and value is not None]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    @property
    def cells(self) -> list[dict[str, str]]:
        """The rows of the batches, by column."""
        return self._table("Ref")

    @property
    def feeds(self) -> list[dict[str, str]]:
        """The rows of the feeds, by column."""
        return self._table("State")

    def _table(self, second: str) -> list[dict[str, str]]:
        """Return the rows below the head whose second column has this name."""
        heads = [number for number, row in enumerate(self.rows) if row[0] == "Feed"]
        for number, end in zip(heads, [*heads[1:], len(self.rows)], strict=True):
            head, *rows = self.rows[number:end]
            if head[1] == second:
                return [dict(zip(head, row, strict=True)) for row in rows]
        return []
