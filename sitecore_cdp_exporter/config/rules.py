"""Rules across several keys or entries of the config file.

They check the raw data, not the models, so that other mistakes do not hide them.
"""

import re
from collections.abc import Hashable, Iterable, Iterator
from pathlib import PurePath

from sitecore_cdp_exporter.config.names import REF, REF_PREFIX, to_ref_prefix
from sitecore_cdp_exporter.config.yaml import YamlDocument, YamlPath, YamlProblem

# Pairs of keys that exclude each other. Errors are reported at the first.
EXCLUSIVE: tuple[tuple[YamlPath, YamlPath], ...] = (
    (("api", "basic_auth", "username_file"), ("api", "basic_auth", "username")),
    (("api", "basic_auth", "password_file"), ("api", "basic_auth", "password")),
    (("api", "proxy_from_environment"), ("api", "proxy_url")),
)


def broken_rules(document: YamlDocument) -> Iterator[YamlProblem]:
    """Yield everything that breaks a rule. Invalid values are left to the models."""
    yield from _exclusive_keys(document)
    yield from _half_a_certificate(document)
    yield from _proxy_without_tls(document)
    yield from _discovery_without_inspect(document)
    yield from _duplicates(document, "duplicate ref", _refs(document))
    yield from _duplicates(document, "duplicate", _patterns(document))
    yield from _duplicates(document, "duplicate name", _feed_names(document))
    yield from _overlapping_prefixes(document)


def _exclusive_keys(document: YamlDocument) -> Iterator[YamlProblem]:
    of_feeds = [
        (("feeds", index, "expect_success_by"), ("feeds", index, "expect_success_every"))
        for index in range(len(_items(document, "feeds")))
    ]
    for key, other in (*EXCLUSIVE, *of_feeds):
        if document.value(key) not in (None, False) and document.value(other) is not None:
            yield _problem(document, key, f"cannot be combined with {other[-1]}; remove one of the two")


def _half_a_certificate(document: YamlDocument) -> Iterator[YamlProblem]:
    certificate, key = ("api", "tls_config", "cert_file"), ("api", "tls_config", "key_file")
    for path, other in ((certificate, key), (key, certificate)):
        if document.value(path) is not None and document.value(other) is None:
            yield _problem(document, path, f"needs {other[-1]}, which is missing")


def _proxy_without_tls(document: YamlDocument) -> Iterator[YamlProblem]:
    """Reject a proxy for an http:// base_url: it would see the token in plain text."""
    proxy_url, base_url = ("api", "proxy_url"), document.value(("api", "base_url"))
    if document.value(proxy_url) is not None and isinstance(base_url, str) and base_url.lower().startswith("http://"):
        yield _problem(
            document, proxy_url, "cannot be combined with an http:// base_url, which is on this machine; remove it"
        )


def _discovery_without_inspect(document: YamlDocument) -> Iterator[YamlProblem]:
    enabled = ("discovery", "enabled")
    if document.value(enabled) is True and document.value(("api", "endpoint")) in (None, "batches"):
        yield _problem(document, enabled, "needs api.endpoint: inspect, whose list it reads")


def _duplicates(
    document: YamlDocument, message: str, entries: Iterable[tuple[YamlPath, Hashable]]
) -> Iterator[YamlProblem]:
    """Yield the entries that repeat an earlier one."""
    first: dict[Hashable, int] = {}
    for path, identity in entries:
        found, place = document.locate(path)
        if identity in first:
            yield YamlProblem(place.line, found, f"{message}; already on line {first[identity]}")
        else:
            first[identity] = place.line


def _refs(document: YamlDocument) -> Iterator[tuple[YamlPath, Hashable]]:
    for index, item in enumerate(_items(document, "batches")):
        ref = item.get("ref") if isinstance(item, dict) else item
        if isinstance(ref, str) and re.fullmatch(REF, ref):
            yield ("batches", index, "ref"), ref.lower()


def _patterns(document: YamlDocument) -> Iterator[tuple[YamlPath, Hashable]]:
    for index, pattern in enumerate(_items(document, "batch_files")):
        if isinstance(pattern, str):
            yield ("batch_files", index), PurePath(pattern)


def _feed_names(document: YamlDocument) -> Iterator[tuple[YamlPath, Hashable]]:
    for index in range(len(_items(document, "feeds"))):
        name = document.value(("feeds", index, "name"))
        if isinstance(name, str):
            yield ("feeds", index, "name"), name


def _overlapping_prefixes(document: YamlDocument) -> Iterator[YamlProblem]:
    """Reject prefixes that begin with another: a ref could belong to both feeds."""
    earlier: dict[str, int] = {}
    for index in range(len(_items(document, "feeds"))):
        text = document.value(("feeds", index, "ref_prefix"))
        if not isinstance(text, str) or not re.fullmatch(REF_PREFIX, text):
            continue
        prefix = to_ref_prefix(text)
        for other, place in earlier.items():
            if prefix.startswith(other) or other.startswith(prefix):
                message = f"overlaps with feeds[{place}].ref_prefix: a ref could belong to both feeds"
                yield _problem(document, ("feeds", index, "ref_prefix"), message)
                break
        earlier.setdefault(prefix, index)


def _items(document: YamlDocument, name: str) -> list[object]:
    items = document.value((name,))
    return items if isinstance(items, list) else []


def _problem(document: YamlDocument, path: YamlPath, message: str) -> YamlProblem:
    found, place = document.locate(path)
    return YamlProblem(place.line, found, message)
