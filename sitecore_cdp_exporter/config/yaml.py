"""Parse YAML into plain data that remembers the line of each value.

This consumes PyYAML's events rather than its objects: only events show duplicate keys and the line of an alias, and no
tag in a file can instantiate a class. It uses the C parser, which is twenty times as fast, and whose messages never
quote the file, which may hold a password. For the same reason no repr here shows the content of a file.
"""

import re
from typing import NamedTuple, Self

import yaml
from yaml.constructor import SafeConstructor
from yaml.reader import Reader
from yaml.resolver import Resolver

YamlPath = tuple[str | int, ...]

# The config file has five levels. Without a limit, a file of a million brackets would exhaust the stack.
MAX_DEPTH = 32

# Stands in a path for a key that is not a string, as `?` marks a complex key in YAML.
NO_STRING = "?"

_TAG = "tag:yaml.org,2002:"
_NUMBERS = {_TAG + "int", _TAG + "float"}
_CONVERTED = {_TAG + "null", _TAG + "bool", *_NUMBERS}
_MERGE = "<<"

# A number in YAML 1.2 and JSON. YAML 1.1 reads some of these as text.
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
# Numbers that YAML 1.1 reads differently from most people, and the remedy.
_MISREAD = (
    (re.compile(r".*_"), "write the number without _"),
    (re.compile(r".*:"), "YAML reads digits with colons in base 60; write a duration as 1m30s, and a time in quotes"),
    (re.compile(r"[-+]?0[bx]"), "write the number in decimal, not in binary or hexadecimal"),
    (re.compile(r"[-+]?0[0-9]+$"), "a leading zero makes a number octal in YAML; write it without the zero"),
)


class DecimalText(str):
    """An unquoted scalar that YAML 1.2 reads as a number and YAML 1.1 as text: `5e-2`."""

    __slots__ = ()


class Place(NamedTuple):
    """The location of a value: the line of its key, or of the list item.

    `is_plain`: an unquoted scalar, which YAML may read as a number. `is_empty`: no value at all.
    """

    line: int
    is_plain: bool = False
    is_empty: bool = False

    @classmethod
    def of(cls, event: yaml.Event) -> Self:
        """Return where a PyYAML event starts."""
        line = event.start_mark.line + 1  # type: ignore[union-attr]  # The parser sets it.
        if not isinstance(event, yaml.ScalarEvent) or not event.implicit[0]:
            return cls(line)
        return cls(line, is_plain=bool(event.value), is_empty=not event.value)


class YamlMapping(dict[str, object]):
    """A mapping that knows the place of each value."""

    def __init__(self) -> None:
        super().__init__()
        self.places: dict[str, Place] = {}

    def __repr__(self) -> str:
        return f"<YamlMapping of {len(self)} keys>"


class YamlList(list[object]):
    """A list that knows the place of each item."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[Place] = []

    def __repr__(self) -> str:
        return f"<YamlList of {len(self)} items>"


class YamlProblem(NamedTuple):
    """A mistake in a document. A syntax error has a `column` and an empty `path`.

    `is_unread`: the value could not be read and was replaced by None.
    """

    line: int
    path: YamlPath
    message: str
    column: int | None = None
    is_unread: bool = False

    def __repr__(self) -> str:
        # A key in the path may be a secret whose own key got lost.
        return f"YamlProblem(line={self.line}, message={self.message!r})"


class YamlDocument(NamedTuple):
    """The data of one document: mappings, lists, strings, numbers, booleans and None. None if it is empty."""

    data: object
    place: Place
    problems: list[YamlProblem]

    def __repr__(self) -> str:
        return f"YamlDocument(place={self.place!r}, problems={self.problems!r})"

    def value(self, path: YamlPath) -> object:
        """Return the value at a path, or None."""
        found, data, _ = self._follow(path)
        return data if found == path else None

    def locate(self, path: YamlPath) -> tuple[YamlPath, Place]:
        """Follow a path as far as it exists. Return that part of it, and the place where it ends."""
        found, _, place = self._follow(path)
        return found, place

    def _follow(self, path: YamlPath) -> tuple[YamlPath, object, Place]:
        data, place = self.data, self.place
        for depth, part in enumerate(path):
            match data, part:
                case YamlMapping() as mapping, str() as key if key in mapping:
                    data, place = mapping[key], mapping.places[key]
                case YamlList() as items, int() as index:
                    data, place = items[index], items.places[index]
                case _:
                    return path[:depth], data, place
        return path, data, place


def read_yaml(content: str | bytes) -> YamlDocument:
    """Read a single YAML document. Mistakes go into its `problems`; nothing is raised."""
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        return YamlDocument(None, Place(1, is_empty=True), [YamlProblem(line, (), "not UTF-8", is_unread=True)])
    if unprintable := Reader.NON_PRINTABLE.search(text):
        problem = _unprintable_problem(text, unprintable.start())
        return YamlDocument(None, Place(1, is_empty=True), [problem])
    reader = _Reader(text)
    try:
        data, place = reader.document()
    except yaml.MarkedYAMLError as error:
        return YamlDocument(None, Place(1, is_empty=True), [*reader.problems, _syntax_problem(error)])
    return YamlDocument(data, place, reader.problems)


def _unprintable_problem(text: str, position: int) -> YamlProblem:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return YamlProblem(
        line, (), f"character U+{ord(text[position]):04X} is not allowed in YAML", column, is_unread=True
    )


def _syntax_problem(error: yaml.MarkedYAMLError) -> YamlProblem:
    """Keep the parser's message, but not the snippet of the file that comes with it."""
    line, column = (mark.line + 1, mark.column + 1) if (mark := error.problem_mark) else (1, 1)
    message = f"not valid YAML: {error.problem}"
    if error.context_mark and error.context_mark.line + 1 != line:
        message += f" {error.context} that starts on line {error.context_mark.line + 1}"
    message += "; check the indentation (no tabs), and put values with special characters in quotes"
    return YamlProblem(line, (), message, column, is_unread=True)


class _Reader:
    """Builds data from PyYAML's events, and collects the problems that it can recover from."""

    def __init__(self, text: str) -> None:
        self.problems: list[YamlProblem] = []
        self._events = yaml.parse(text, Loader=yaml.CSafeLoader)
        self._anchors: dict[str, object] = {}
        self._resolver = Resolver()
        self._constructor = SafeConstructor()

    def document(self) -> tuple[object, Place]:
        next(self._events)  # The stream begins.
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return None, Place(1, is_empty=True)
        event = next(self._events)
        data, place = self._value(event, ()), Place.of(event)
        next(self._events)  # The document ends.
        if not isinstance(after := next(self._events), yaml.StreamEndEvent):
            self._note(after, (), "a second YAML document begins here; expected only one")
        return data, place

    def _value(self, event: yaml.Event, path: YamlPath) -> object:
        if len(path) > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem="nested too deeply",
                problem_mark=event.start_mark,  # type: ignore[arg-type]  # The stubs only know the Python parser's marks.
            )
        value: object
        match event:
            case yaml.AliasEvent():
                return self._anchored(event, path)
            case yaml.ScalarEvent():
                value = self._scalar(event, path)
            case yaml.SequenceStartEvent():
                value = self._list(path)
            case yaml.MappingStartEvent():
                value = self._mapping(path)
            case _:
                raise AssertionError("no other event begins a node")
        if event.tag not in (None, _TAG + "str"):
            return self._unread(event, path, "YAML tags are not supported; quote a value that begins with !")
        if event.anchor and Place.of(event).is_empty:
            return self._unread(event, path, "an anchor without a value; quote a value that begins with &")
        if event.anchor:
            # Not before, so that nothing can contain itself.
            self._anchors[event.anchor] = value
        return value

    def _anchored(self, alias: yaml.AliasEvent, path: YamlPath) -> object:
        if alias.anchor not in self._anchors:
            return self._unread(alias, path, "an alias without an anchor above it; quote a value that begins with *")
        return self._anchors[alias.anchor]

    def _scalar(self, event: yaml.ScalarEvent, path: YamlPath) -> object:
        """Convert nulls, booleans and numbers as YAML 1.1 does. Everything else, such as a date, stays text."""
        tag = self._resolver.resolve(yaml.ScalarNode, event.value, event.implicit)  # type: ignore[no-untyped-call]
        if tag not in _CONVERTED:
            is_decimal = event.implicit[0] and _DECIMAL.fullmatch(event.value)
            return DecimalText(event.value) if is_decimal else event.value
        if tag in _NUMBERS:
            for pattern, remedy in _MISREAD:
                if pattern.match(event.value):
                    return self._unread(event, path, f"{remedy}; put it in quotes if it is text")
        try:
            return self._constructor.construct_object(yaml.ScalarNode(tag, event.value))
        except ValueError:
            return self._unread(event, path, "a number with too many digits; put it in quotes if it is text")

    def _list(self, path: YamlPath) -> YamlList:
        items = YamlList()
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._value(event, (*path, len(items))))
            items.places.append(Place.of(event))
        return items

    def _mapping(self, path: YamlPath) -> YamlMapping:
        mapping = YamlMapping()
        merge = YamlMapping()
        while not isinstance(key_event := next(self._events), yaml.MappingEndEvent):
            key = self._value(key_event, (*path, NO_STRING))
            key_place = Place.of(key_event)
            value_event = next(self._events)
            value_path = (*path, key if isinstance(key, str) else NO_STRING)
            value = self._value(value_event, value_path)
            if not isinstance(key, str):
                self._note(key_event, path, "a key that is not a string; quote it if it is meant to be one")
                continue
            target = merge if key == _MERGE and key_place.is_plain else mapping
            if key in target:
                self._note(key_event, value_path, f"duplicate key; already on line {target.places[key].line}")
            else:
                target[key] = value
                target.places[key] = Place.of(value_event)._replace(line=key_place.line)
        if merge:
            self._merge(mapping, merge[_MERGE], merge.places[_MERGE], path)
        return mapping

    def _merge(self, mapping: YamlMapping, merged: object, place: Place, path: YamlPath) -> None:
        """Resolve the merge key: the mapping's own keys win, then those of the first mapping named."""
        for source in merged if isinstance(merged, YamlList) else [merged]:
            if not isinstance(source, YamlMapping):
                self.problems.append(YamlProblem(place.line, path, "<< expects a mapping or a list of mappings"))
                continue
            for key in [key for key in source if key not in mapping]:
                mapping[key] = source[key]
                mapping.places[key] = source.places[key]

    def _unread(self, event: yaml.Event, path: YamlPath, message: str) -> object:
        self.problems.append(YamlProblem(Place.of(event).line, path, message, is_unread=True))
        return None

    def _note(self, event: yaml.Event, path: YamlPath, message: str) -> None:
        self.problems.append(YamlProblem(Place.of(event).line, path, message))
