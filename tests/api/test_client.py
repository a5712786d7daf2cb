"""What BatchApi makes of every answer and of every failure, over real HTTP."""

import asyncio
import gzip
import itertools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from sitecore_cdp_exporter import __version__
from sitecore_cdp_exporter.api import client as api
from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.api.errors import PollError, Reason
from tests.api.api_client import BASIC_AUTH, PRESIGNED_URL, REF, Client, assert_no_secret, count_received
from tests.conditions import wait_until
from tests.fake_api import Clock
from tools.raw_server import RawServer, answering, flooding
from tools.sandbox import Sandbox, faults

NewClient = Callable[..., Client]

# For requests that may be answered, and for those that never are.
SHORT_TIMEOUT = 1.0
MIN_TIMEOUT = 0.15
MEBIBYTE = 1024 * 1024
BODY = json.dumps({"ref": REF, "status": {"code": "error", "log": PRESIGNED_URL}}).encode()
URL = "http://127.0.0.1:1"
ELSEWHERE = "http://localhost:1/"


def reply(head: str, body: bytes = b"") -> bytes:
    return head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body


def padded(size: int) -> bytes:
    return BODY[:-1] + b" " * (size - len(BODY)) + b"}"


OK = reply(f"HTTP/1.1 200 OK\nContent-Length: {len(BODY)}", BODY)
CHUNKED = reply("HTTP/1.1 200 OK\nTransfer-Encoding: chunked")


def test_a_batch_is_read(api_sandbox: Sandbox, new_client: NewClient) -> None:
    batch = new_client(api_sandbox.base_url).read()
    assert (batch.ref, batch.status, batch.total_records) == (REF, BatchStatus.PROCESSING, 7)


@pytest.mark.parametrize(
    ("endpoint", "path", "status"),
    [
        ("batches", "/v2/batches/", BatchStatus.UPLOADING),
        ("inspect", "/v2/batches/inspect/", BatchStatus.FILE_UPLOADED),
    ],
)
def test_a_request_names_its_client_and_what_it_accepts(
    api_sandbox: Sandbox, new_client: NewClient, endpoint: str, path: str, status: BatchStatus
) -> None:
    api_sandbox.put_batch(REF, status="file_uploaded")
    client = new_client(api_sandbox.base_url, endpoint=endpoint)
    assert client.read().status is status
    [request] = api_sandbox.requests
    assert (request.method, request.path, request.query) == ("GET", path + REF, "")
    assert request.headers["User-Agent"] == f"sitecore-cdp-batch-exporter/{__version__}"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Accept-Encoding"] == "gzip"
    assert request.headers["Authorization"] == f"Basic {BASIC_AUTH}"
    assert client.requests() == {"200": 1}


def test_a_path_in_the_base_url_comes_first(new_client: NewClient) -> None:
    with answering(OK) as server:
        new_client(f"{server.url}/gateway").read()
    assert server.heads[0].startswith(f"GET /gateway/v2/batches/{REF} HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("fault", "expected", "code"),
    [
        (faults.Hang(), Reason.TIMEOUT, "error"),
        (faults.DripHeaders(0.05), Reason.TIMEOUT, "error"),
        (faults.DripBody(0.05), Reason.TIMEOUT, "error"),
        (faults.CutBody(), Reason.CONNECTION, "error"),
        (faults.CutConnection(), Reason.CONNECTION, "error"),
        (faults.CutConnection(reset=True), Reason.CONNECTION, "error"),
        (faults.Status(401), Reason.UNAUTHORIZED, "401"),
        (faults.Status(403), Reason.FORBIDDEN, "403"),
        (faults.Status(404), Reason.NOT_FOUND, "404"),
        (faults.Status(429), Reason.RATE_LIMITED, "429"),
        (faults.Status(500), Reason.SERVER_ERROR, "500"),
        (faults.Status(503), Reason.SERVER_ERROR, "503"),
        (faults.Status(599), Reason.SERVER_ERROR, "599"),
        (faults.Status(400), Reason.HTTP_ERROR, "400"),
        (faults.Status(407), Reason.HTTP_ERROR, "407"),
        (faults.Status(418, body=PRESIGNED_URL), Reason.HTTP_ERROR, "418"),
        (faults.Status(201), Reason.HTTP_ERROR, "201"),
        (faults.Status(204), Reason.HTTP_ERROR, "204"),
        (faults.Status(304), Reason.HTTP_ERROR, "304"),
        (faults.Html(), Reason.BAD_RESPONSE, "200"),
        (faults.Html(503), Reason.SERVER_ERROR, "503"),
        (faults.MalformedJson(), Reason.BAD_RESPONSE, "200"),
        (faults.Body(b""), Reason.BAD_RESPONSE, "200"),
        (faults.Body(b'{"location": {"href": "' + PRESIGNED_URL.encode() + b'"}'), Reason.BAD_RESPONSE, "200"),
        (faults.Body(b'{"status": {"code": "\xff"}}'), Reason.BAD_RESPONSE, "200"),
        (faults.LargeBody(5), Reason.BAD_RESPONSE, "error"),
        (faults.GzipBomb(16), Reason.BAD_RESPONSE, "error"),
        (
            faults.Body(gzip.compress(padded(5 * MEBIBYTE), mtime=0), status=503, content_encoding="gzip"),
            Reason.SERVER_ERROR,
            "503",
        ),
        (faults.Body(BODY, content_encoding="gzip"), Reason.BAD_RESPONSE, "error"),
        (faults.Body(gzip.compress(BODY, mtime=0)[:30], content_encoding="gzip"), Reason.BAD_RESPONSE, "error"),
        (
            faults.Body(gzip.compress(gzip.compress(BODY, mtime=0), mtime=0), content_encoding="gzip, gzip"),
            Reason.BAD_RESPONSE,
            "error",
        ),
        (faults.Body(BODY, content_encoding="br"), Reason.BAD_RESPONSE, "error"),
        (faults.Body(BODY, content_encoding=", ".join(["gzip"] * 99)), Reason.BAD_RESPONSE, "error"),
        (faults.Body(BODY, content_encoding="br", status=404), Reason.NOT_FOUND, "404"),
    ],
    ids=lambda value: repr(value)[:40] if not isinstance(value, type) else value.__name__,
)
def test_a_fault_has_its_reason_and_its_code(
    api_sandbox: Sandbox, new_client: NewClient, fault: faults.Fault, expected: Reason, code: str
) -> None:
    waits = expected is Reason.TIMEOUT
    client = new_client(api_sandbox.base_url, **({"timeout": SHORT_TIMEOUT} if waits else {}))
    api_sandbox.set_fault(fault)
    error = client.fail(expected)
    if error.status is not None:
        assert f"{error.status}" == code
        assert error.retry_after is None
    assert client.requests() == {code: 1}
    count, seconds = client.durations()
    assert count == 1
    assert seconds > 0
    assert len(api_sandbox.requests) == 1
    # The next request is none the worse for it.
    api_sandbox.clear_faults()
    assert client.read().total_records == 7


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(api_sandbox: Sandbox, new_client: NewClient, status: int) -> None:
    with Sandbox() as stranger:
        api_sandbox.set_fault(faults.Redirect(f"{stranger.base_url}/v2/batches/{REF}", status))
        error = new_client(api_sandbox.base_url).fail(Reason.HTTP_ERROR)
        assert error.status == status
        assert stranger.requests == []
        assert stranger.open_connections == 0


def test_a_redirect_to_the_same_host_is_not_followed(api_sandbox: Sandbox, new_client: NewClient) -> None:
    api_sandbox.set_fault(faults.Redirect(f"{api_sandbox.base_url}/v2/batches/inspect/{REF}"))
    new_client(api_sandbox.base_url).fail(Reason.HTTP_ERROR)
    assert len(api_sandbox.requests) == 1


@pytest.mark.parametrize("location", ["", "//", "http://[", "http://\xff\xfe/", "http://", ":", "ftp://x/", "\x00"])
def test_a_redirect_without_a_target_is_a_status_like_others(new_client: NewClient, location: str) -> None:
    head = f"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {location}\r\n\r\n"
    with answering(head.encode("latin-1")) as server:
        client = new_client(server.url)
        assert client.fail(Reason.HTTP_ERROR).status == 302
        assert client.requests() == {"302": 1}


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("302 Found\nLocation: /", Reason.HTTP_ERROR),
        ("404 Not Found", Reason.NOT_FOUND),
        ("200 OK", Reason.BAD_RESPONSE),
    ],
)
def test_a_body_without_end_is_not_read_to_its_end(new_client: NewClient, head: str, expected: Reason) -> None:
    with flooding(reply(f"HTTP/1.1 {head}"), b" " * 65536) as server:
        # The timeout is that of the test, too: what ends the request is the size.
        new_client(server.url, timeout=120.0).fail(expected)


def test_a_cookie_is_never_sent_back(api_sandbox: Sandbox, new_client: NewClient) -> None:
    client = new_client(api_sandbox.base_url)
    api_sandbox.set_fault(faults.SetCookie())
    client.read()
    client.read()
    assert ["Cookie" in request.headers for request in api_sandbox.requests] == [False, False]


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\xff" * 10 + b"\r\n\r\n",
        b"220 mail.example ESMTP\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 " + b"2" * 70_000,
        reply("HTTP/1.1 200 OK\nContent-Length: 5, 6"),
        reply("HTTP/1.1 200 OK\n" + "\n".join(f"X-{number}: 1" for number in range(200))),
        reply("HTTP/1.1 200 OK\nX-Long: " + "x" * 70_000),
        reply(f"HTTP/1.1 200 OK\nthis is no header\nLocation: {PRESIGNED_URL}", BODY),
        reply(f"HTTP/1.1 200 OK\n : {PRESIGNED_URL}", BODY),
        CHUNKED + b"zz\r\n" + PRESIGNED_URL.encode(),
        CHUNKED + b"-5\r\n" + BODY,
        CHUNKED + b"-1\r\n" + BODY,
    ],
    ids=lambda sent: repr(sent[:60]),
)
def test_what_is_not_http_is_a_bad_response(new_client: NewClient, sent: bytes) -> None:
    with answering(sent) as server:
        new_client(server.url).fail(Reason.BAD_RESPONSE)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        reply("HTTP/1.1 100 Continue"),
        reply("HTTP/1.1 200 OK\nContent-Length: 5")[:-2],
        reply("HTTP/1.1 200 OK\nContent-Length: 500", BODY),
        CHUNKED,
        CHUNKED + b"ff\r\n" + BODY,
        CHUNKED + b"%x\r\n" % len(BODY) + BODY + b"\r\n",
    ],
    ids=lambda sent: repr(sent[-60:]),
)
def test_an_answer_that_is_cut_is_a_failed_connection(new_client: NewClient, sent: bytes) -> None:
    with answering(sent) as server:
        new_client(server.url).fail(Reason.CONNECTION)
        assert server.connections == 1


@pytest.mark.parametrize(
    ("beginning", "repeated", "interval"),
    [
        (b"", b"H", 0.01),
        (b"HTTP/1.1 200 OK\r\n", b"x", 0.01),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", None),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
        (CHUNKED, b"1\r\n \r\n", 0.01),
        (CHUNKED + b"0\r\n", b"X-Trailer: 1\r\n", None),
        (reply("HTTP/1.1 200 OK\nContent-Encoding: gzip"), gzip.compress(b"", mtime=0), 0.01),
    ],
    ids=repr,
)
def test_a_server_that_never_ends_does_not_hold_a_request(
    new_client: NewClient, beginning: bytes, repeated: bytes, interval: float | None
) -> None:
    # Time passes with each look at it: a flood proves no more if it goes on for longer.
    clock = itertools.count(0.0, 0.01).__next__
    with flooding(beginning, repeated, interval) as server:
        new_client(server.url, timeout=MIN_TIMEOUT, clock=clock).fail(Reason.TIMEOUT)


def test_the_status_counts_though_its_body_never_comes(new_client: NewClient, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, received = Clock(), count_received(monkeypatch)
    sent = reply("HTTP/1.1 404 Not Found\nContent-Length: 9", b"1234567")

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_head(reader)
        writer.write(sent)
        await asyncio.to_thread(wait_until, lambda: received() == len(sent))
        clock.now += 60
        writer.write(b"8")
        await reader.read()

    with RawServer(script) as server:
        new_client(server.url, timeout=30.0, clock=clock).fail(Reason.NOT_FOUND)


def test_the_large_body_of_an_error_is_not_waited_for(new_client: NewClient) -> None:
    with flooding(reply("HTTP/1.1 404 Not Found\nContent-Length: 99999"), b"", 0.01) as server:
        # The timeout is that of the test, too: what ends the request is the length.
        new_client(server.url, timeout=120.0).fail(Reason.NOT_FOUND)


def test_a_port_where_nobody_listens_is_a_failed_connection(new_client: NewClient) -> None:
    with answering() as server:
        url = server.url
    client = new_client(url)
    assert f"{client.fail(Reason.CONNECTION)}" == "Connection refused"
    assert client.requests() == {"error": 1}
    assert client.durations()[0] == 1


PIECES = st.sampled_from(
    [
        *(b"HTTP/1.1 200 OK", b"HTTP/1.1 302 Found", b"\r\n", b"Content-Length: 9", b"Location: ", b"http://["),
        *(b"Content-Encoding: gzip", b"Transfer-Encoding: chunked", b"Retry-After: ", b"-1", b"0", b"9", b": ", b" "),
        *(b"Set-Cookie: a=b", b"Connection: close", b"Content-Type: a/b; charset=", b"{}", b"\x00", b"\xff", BODY),
    ]
)
GOOD_REPLIES = [OK, reply("HTTP/1.1 429 No\nRetry-After: 7"), CHUNKED + b"2\r\n{}\r\n0\r\n\r\n"]


@st.composite
def damaged_replies(draw: st.DrawFn) -> bytes:
    good = draw(st.sampled_from(GOOD_REPLIES))
    begin, end = sorted(draw(st.tuples(st.integers(0, len(good)), st.integers(0, len(good)))))
    junk = draw(st.lists(PIECES | st.binary(max_size=9), max_size=9))
    return good[:begin] + b"".join(junk) + good[end:]


def test_any_bytes_of_a_server_are_a_batch_or_a_poll_error(new_client: NewClient) -> None:
    replies: list[bytes] = []

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_head(reader)
        writer.write(replies[-1])

    with RawServer(script) as server:
        client = new_client(server.url)

        @settings(deadline=None)
        @given(damaged_replies())
        def check(sent: bytes) -> None:
            replies.append(sent)
            try:
                client.read()
            except PollError as error:
                assert_no_secret(f"{error!r}")

        check()


@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_the_limit_of_a_body_counts_unpacked_bytes(
    api_sandbox: Sandbox, new_client: NewClient, encoding: str | None
) -> None:
    def pack(content: bytes) -> bytes:
        return gzip.compress(content) if encoding else content

    client = new_client(api_sandbox.base_url)
    api_sandbox.set_fault(faults.Body(pack(padded(MEBIBYTE)), content_encoding=encoding))
    assert client.read().status is BatchStatus.ERROR
    api_sandbox.set_fault(faults.Body(pack(padded(MEBIBYTE + 1)), content_encoding=encoding))
    assert f"{client.fail(Reason.BAD_RESPONSE)}" == "the answer is larger than 1048576 bytes"


def in_an_hour() -> str:
    return format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)


@pytest.mark.parametrize("status", [429, 503, 401])
@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        (" 120 ", 120),
        ("300", 300),
        ("301", 300),
        ("9" * 400, 300),
        ("9" * 5000, None),
        pytest.param(in_an_hour(), 300, id="in an hour"),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 300),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("7, 9", None),
        ("\N{ARABIC-INDIC DIGIT SEVEN}", None),
    ],
    ids=lambda value: f"{value}"[:40],
)
def test_retry_after_is_in_seconds(new_client: NewClient, status: int, value: str, seconds: float | None) -> None:
    expected = {429: Reason.RATE_LIMITED, 503: Reason.SERVER_ERROR, 401: Reason.UNAUTHORIZED}[status]
    head = f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nRetry-After: {value}\r\n\r\n"
    with answering(head.encode()) as server:
        assert new_client(server.url).fail(expected).retry_after == seconds


@given(st.text() | st.dates().map("{:%a, %d %b %Y} 10:00:00 GMT".format))
def test_retry_after_is_never_more_than_five_minutes(value: str) -> None:
    response = requests.Response()
    response.headers["Retry-After"] = value
    seconds = api._retry_after(response)
    assert seconds is None or 0 <= seconds <= 300


def test_wrong_credentials_are_unauthorized(api_sandbox: Sandbox, new_client: NewClient) -> None:
    api_sandbox.set_api_token("regenerated")
    new_client(api_sandbox.base_url).fail(Reason.UNAUTHORIZED)


def test_a_closed_client_can_be_used_but_keeps_no_connection(api_sandbox: Sandbox, new_client: NewClient) -> None:
    client = new_client(api_sandbox.base_url)
    client.read()
    assert api_sandbox.open_connections == 1
    client.api.close()
    wait_until(lambda: api_sandbox.open_connections == 0)
    client.read()
    wait_until(lambda: api_sandbox.open_connections == 0)


def test_closing_lets_requests_in_flight_finish(api_sandbox: Sandbox, new_client: NewClient) -> None:
    client = new_client(api_sandbox.base_url)
    api_sandbox.set_fault(faults.Hang())
    with ThreadPoolExecutor() as executor:
        reading = executor.submit(client.read)
        wait_until(lambda: bool(api_sandbox.requests))
        client.api.close()
        api_sandbox.clear_faults()
        assert reading.result().ref == REF
    wait_until(lambda: api_sandbox.open_connections == 0)


def test_closing_twice_or_before_any_use_is_harmless(new_client: NewClient) -> None:
    client = new_client(URL)
    client.api.close()
    client.api.close()
