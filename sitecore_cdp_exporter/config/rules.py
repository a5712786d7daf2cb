"""Rules of the config file that concern several of its keys or entries.

They look at the data, not at the models, so that other mistakes do not hide them.
"""

import re
from collections.abc import Iterator
from pathlib import PurePath

from sitecore_cdp_exporter.config.errors import given
from sitecore_cdp_exporter.config.values import REF, REF_PREFIX, to_ref_prefix
from sitecore_cdp_exporter.config.yaml import YamlDocument, YamlPath, YamlProblem


def broken_rules(document: YamlDocument) -> Iterator[YamlProblem]:
    """Find all that breaks a rule. What is no valid value anyway is left to the models."""
    yield from _duplicate_refs(document)
    yield from _duplicate_patterns(document)
    yield from _discovery_without_inspect(document)
    yield from _duplicate_feeds(document)
    yield from _overlapping_prefixes(document)


def _duplicate_refs(document: YamlDocument) -> Iterator[YamlProblem]:
    first: dict[str, int] = {}
    for index, item in enumerate(_items(document, "batches")):
        ref = item.get("ref") if isinstance(item, dict) else item
        if not isinstance(ref, str) or not re.fullmatch(REF, ref):
            continue
        if (earlier := first.setdefault(ref.lower(), index)) != index:
            path, place = document.locate(("batches", index, "ref"))
            yield YamlProblem(place.line, path, f"duplicate ref; batches[{earlier}] is the same batch ({ref})")


def _duplicate_patterns(document: YamlDocument) -> Iterator[YamlProblem]:
    first: dict[PurePath, int] = {}
    for index, pattern in enumerate(_items(document, "batch_files")):
        if isinstance(pattern, str) and (earlier := first.setdefault(PurePath(pattern), index)) != index:
            yield _problem(document, ("batch_files", index), f"duplicate; batch_files[{earlier}] is the same")


def _discovery_without_inspect(document: YamlDocument) -> Iterator[YamlProblem]:
    api, discovery = (_section(document, name) for name in ("api", "discovery"))
    if discovery.get("enabled") is True and api.get("endpoint") in (None, "batches"):
        yield _problem(document, ("discovery", "enabled"), "needs api.endpoint: inspect, whose list it reads")


def _duplicate_feeds(document: YamlDocument) -> Iterator[YamlProblem]:
    first: dict[str, int] = {}
    for index, feed in enumerate(_items(document, "feeds")):
        name = feed.get("name") if isinstance(feed, dict) else None
        if isinstance(name, str) and (earlier := first.setdefault(name, index)) != index:
            yield _problem(document, ("feeds", index, "name"), f"duplicate name; feeds[{earlier}] has it already")


def _overlapping_prefixes(document: YamlDocument) -> Iterator[YamlProblem]:
    """Find prefixes of which one begins with the other: a ref could belong to both feeds."""
    earlier: dict[str, int] = {}
    for index, feed in enumerate(_items(document, "feeds")):
        text = feed.get("ref_prefix") if isinstance(feed, dict) else None
        if not isinstance(text, str) or not re.fullmatch(REF_PREFIX, text):
            continue
        prefix = to_ref_prefix(text)
        for other, place in earlier.items():
            if prefix.startswith(other) or other.startswith(prefix):
                message = f"overlaps with feeds[{place}].ref_prefix: a ref could belong to both feeds"
                yield _problem(document, ("feeds", index, "ref_prefix"), message)
                break
        earlier.setdefault(prefix, index)


def _section(document: YamlDocument, name: str) -> dict[str, object]:
    section = document.data.get(name) if isinstance(document.data, dict) else None
    return section if isinstance(section, dict) else {}


def _items(document: YamlDocument, name: str) -> list[object]:
    items = document.data.get(name) if isinstance(document.data, dict) else None
    return items if isinstance(items, list) else []


def _problem(document: YamlDocument, path: YamlPath, message: str) -> YamlProblem:
    found, place = document.locate(path)
    return YamlProblem(place.line, found, message + given(found, place))
