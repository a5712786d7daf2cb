"""Content negotiation of a scrape: the format and compression that the client prefers (RFC 9110, section 12.5)."""

from collections.abc import Iterator, Mapping

from prometheus_client.exposition import choose_encoder

from sitecore_cdp_exporter.metrics.encoder import Encode, compress

# What the exporter can write. Any other media type, `*/*` included, gets the text format.
FORMATS = ("application/openmetrics-text", "text/plain")


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
