import gzip
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sitecore_cdp_exporter.metrics.encoder import Encoder
from sitecore_cdp_exporter.web.negotiation import compress, encode_as_asked

TEXT = "text/plain; version=0.0.4"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def encode(_: Encoder) -> Iterator[bytes]:
    yield b"up "
    yield b"1\n"


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html", TEXT),
        (PROMETHEUS_2, OPENMETRICS),
        ("application/openmetrics-text", "application/openmetrics-text"),
        # scrape_protocols: [PrometheusText0.0.4, OpenMetricsText1.0.0]
        ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;version=1.0.0;q=0.4,*/*;q=0.3", TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0.4,text/plain;version=0.0.4;q=0.5", TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0,text/plain;version=0.0.4;q=0.1", TEXT),
        ("application/openmetrics-text;version=1.0.0; Q=0, */*", TEXT),
        # Equal wishes: the first counts.
        ("text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0", TEXT),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4", OPENMETRICS),
        # What is no quality refuses nothing.
        ("application/openmetrics-text;version=1.0.0;q=high", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0;q=nan", OPENMETRICS),
        ("application/openmetrics-text;version=one", TEXT),
    ],
)
def test_the_format_is_the_one_that_the_client_prefers(accept: str, content_type: str) -> None:
    _, headers = encode_as_asked(encode, {"Accept": accept})
    assert headers["Content-Type"].startswith(content_type)


@pytest.mark.parametrize(
    ("accept_encoding", "packed"),
    [
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000, identity", False),
        ("identity;q=1, gzip;q=0.5", False),
        ("*", True),
        ("*;q=0", False),
        ("gzip;q=0, *", False),
        ("br, identity", False),
    ],
)
def test_an_answer_is_packed_if_the_client_wants_it(accept_encoding: str, *, packed: bool) -> None:
    body, headers = encode_as_asked(encode, {"Accept-Encoding": accept_encoding})
    assert (headers.get("Content-Encoding") == "gzip") is packed
    assert (gzip.decompress(body) if packed else body) == b"up 1\n"


def test_caches_are_sent_what_the_answer_depends_on() -> None:
    _, headers = encode_as_asked(encode, {})
    assert headers["Vary"] == "Accept, Accept-Encoding"


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200)))
def test_what_is_compressed_can_be_unpacked(blocks: list[bytes]) -> None:
    assert gzip.decompress(b"".join(compress(blocks))) == b"".join(blocks)


@given(accept=st.text(st.characters(codec="latin-1", exclude_categories=["Cc"])))
def test_every_accept_header_gets_a_format(accept: str) -> None:
    for header in (accept, f"application/openmetrics-text;version={accept}", f"text/plain;version=1.0.0.{accept}"):
        body, headers = encode_as_asked(encode, {"Accept": header})
        assert headers["Content-Type"].partition(";")[0] in {"text/plain", "application/openmetrics-text"}
        assert body == b"up 1\n"
