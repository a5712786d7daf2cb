"""Content negotiation of a scrape: the format and compression that the client prefers (RFC 9110, section 12.5)."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

# What the exporter can write. Any other media type, `*/*` included, gets the text format.
FORMATS = ("application/openmetrics-text", "text/plain")
# Encodes a scrape with what `choose_encoder` chooses.
Encode: TypeAlias = Callable[[Callable[[Collector], bytes]], Iterator[bytes]]

# Better compression would take more time than it saves.
_COMPRESSION_LEVEL = 1
_GZIP = 31


def encode_as_asked(encode: Encode, request_headers: Mapping[str, str]) -> tuple[bytes, dict[str, str]]:
    """Return the body of the answer, and the headers that describe it.

    Args:
        encode: Encodes the scrape with the given encoder.
        request_headers: `Accept` and `Accept-Encoding` are used.

    """
    accepted = _by_quality(request_headers.get("Accept", ""))
    # prometheus_client picks the first OpenMetrics that it finds, so pass it only what the client prefers.
    preferred = next((each for each in accepted if each.partition(";")[0].strip().lower() in FORMATS), "")
    try:
        encoder, content_type = choose_encoder(preferred)
    except TypeError:  # It compares a version that is not numeric with numbers.
        encoder, content_type = choose_encoder("")
    blocks = encode(encoder)
    headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
    if _accepts_gzip(request_headers.get("Accept-Encoding", "")):
        blocks = compress(blocks)
        headers["Content-Encoding"] = "gzip"
    return b"".join(blocks), headers


def compress(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Pack blocks with gzip, one after the other, so that they need not be there all at once."""
    compressor = zlib.compressobj(_COMPRESSION_LEVEL, wbits=_GZIP)
    for block in blocks:
        yield compressor.compress(block)
    yield compressor.flush()


def _accepts_gzip(accept_encoding: str) -> bool:
    quality = {name.partition(";")[0].strip().lower(): value for name, value in _with_quality(accept_encoding)}
    gzip = quality.get("gzip", quality.get("*", 0.0))
    return gzip > 0 and gzip >= quality.get("identity", 0.0)


def _by_quality(header: str) -> list[str]:
    """Return what a header accepts, most preferred first, without what it excludes (q=0)."""
    wanted = [(name, quality) for name, quality in _with_quality(header) if quality > 0]
    return [name for name, _ in sorted(wanted, key=lambda each: -each[1])]


def _with_quality(header: str) -> Iterator[tuple[str, float]]:
    for part in header.split(","):
        quality = 1.0
        for parameter in part.split(";")[1:]:
            name, _, value = parameter.partition("=")
            if name.strip().lower() == "q":
                quality = _quality(value.strip())
        yield part.strip(), quality


def _quality(text: str) -> float:
    """Return a quality from 0 to 1; an unreadable one counts as 1."""
    try:
        quality = float(text)
    except ValueError:
        return 1.0
    return quality if 0 <= quality <= 1 else 1.0
