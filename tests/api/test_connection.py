"""Which answers a connection may be used after, so that no batch ever shows the values of another."""

import asyncio
import gzip
import io
import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPResponse
from threading import Semaphore

import pytest

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.api.connection import _Reader
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason
from tests.api.api_client import Client
from tests.api.certificates import Certificates
from tools.raw_server import RawServer, answering

NewClient = Callable[..., Client]

REFS = [f"{number:08d}-0000-4000-8000-000000000000" for number in range(8)]


def reply(ref: str, *, named: bool = False, head: str = "HTTP/1.1 200 OK", padding: int = 0) -> bytes:
    """Answer for a batch, whose size is its number. Without its ref only the size shows whose answer it is."""
    body = json.dumps({"status": {"code": "error"}, "size": int(ref[:8])} | ({"ref": ref} if named else {}))
    body += " " * padding
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def ref_of(head: str) -> str:
    return head.split()[1].rpartition("/")[2]


def sizes(client: Client, refs: list[str]) -> list[int | Reason | None]:
    """Return the size of each batch, or why there is none."""

    def size(ref: str) -> int | Reason | None:
        try:
            return client.read(ref).size_bytes
        except PollError as error:
            return error.reason

    return [size(ref) for ref in refs]


class Answers(RawServer):
    """Answers each request with what `answer` makes of its ref, in parts; a part is sent when the one before was."""

    def __init__(self, answer: Callable[[str], list[bytes]], certificates: Certificates | None = None) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                for part in answer(ref_of(await self.read_head(reader))):
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)

        super().__init__(script, None if certificates is None else certificates.server())


INTERIM = {
    "100": b"HTTP/1.1 100 Continue\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    "102": b"HTTP/1.1 102 Processing\r\n\r\n",
    "103": b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
    "199": b"HTTP/1.1 199 Unknown\r\nContent-Length: 7\r\n\r\n",
}


@pytest.mark.parametrize("interim", [*([each] for each in INTERIM), ["100", "103", "102", "102"]], ids="-".join)
def test_an_interim_response_is_not_mistaken_for_the_answer(new_client: NewClient, interim: list[str]) -> None:
    with Answers(lambda ref: [*(INTERIM[each] for each in interim), reply(ref, named=True)]) as server:
        client = new_client(server.url)
        assert sizes(client, REFS) == [*range(8)]
        assert client.requests() == {"200": 8}
        assert server.connections == 1


def surplus_after(ref: str, kind: str) -> list[bytes]:
    whole, padded = reply(ref), reply(ref, padding=20_000)
    return {
        "sent twice": [whole + whole],
        "sent twice, large": [padded + padded],
        "a Content-Length that is too short": [whole + b"   "],
        "a chunked body and more": [
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + whole,
        ],
        "204 with a body": [reply(ref, head="HTTP/1.1 204 No Content")],
        "304 with a body": [reply(ref, head="HTTP/1.1 304 Not Modified")],
        "404 sent twice": [reply(ref, head="HTTP/1.1 404 Not Found") + whole],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("sent twice", None),
        ("sent twice, large", None),
        ("a Content-Length that is too short", None),
        ("a chunked body and more", Reason.BAD_RESPONSE),
        ("204 with a body", Reason.HTTP_ERROR),
        ("304 with a body", Reason.HTTP_ERROR),
        ("404 sent twice", Reason.NOT_FOUND),
    ],
)
@pytest.mark.parametrize("over_tls", [False, True])
def test_what_comes_after_an_answer_is_never_taken_for_another_batch(
    new_client: NewClient, certificates: Certificates, kind: str, expected: Reason | None, *, over_tls: bool
) -> None:
    with Answers(lambda ref: surplus_after(ref, kind), certificates if over_tls else None) as server:
        client = new_client(server.url, tls_config=certificates.trusted())
        assert sizes(client, REFS[:3]) == [number if expected is None else expected for number in range(3)]
        assert server.connections == 3


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ("HTTP/1.1 200 OK", False),
        ("HTTP/1.1 200 OK", True),
        ("HTTP/1.1 204 No Content", False),
        ("HTTP/1.1 304 Not Modified", False),
    ],
)
@pytest.mark.parametrize("over_tls", [False, True])
def test_what_comes_late_is_never_taken_for_another_batch(
    new_client: NewClient, certificates: Certificates, head: str, *, named: bool, over_tls: bool
) -> None:
    """A second copy, or a body that should not be there, is on its way while the next request is made."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = reply(ref_of(await server.read_head(reader)), head=head, named=named)
        length = whole.index(b"\r\n\r\n") + 4
        writer.write(whole if "200" in head else whole[:length])
        await writer.drain()
        # A connection that was closed needs no surplus. One that is kept gets it as the answer to the next request.
        if await reader.read(1):
            writer.write(whole if "200" in head else whole[length:])
            await reader.read()

    with RawServer(script, certificates.server() if over_tls else None) as server:
        client = new_client(server.url, tls_config=certificates.trusted())
        assert sizes(client, REFS[:3]) == ([0, 1, 2] if "200" in head else [Reason.HTTP_ERROR] * 3)
        assert server.connections == 3


def test_a_late_page_of_the_list_is_never_taken_for_another(new_client: NewClient) -> None:
    """A page does not say what was asked for, so only the connection shows whose it is."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = 1 if "processing" in await server.read_head(reader) else 2
        items = [{"ref": ref, "status": "success"} for ref in REFS[:count]]
        body = json.dumps({"totalCount": count, "items": items})
        page = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        writer.write(page)
        await writer.drain()
        if await reader.read(1):
            writer.write(page)
            await reader.read()

    with RawServer(script) as server:
        client = new_client(server.url)
        statuses = [BatchStatus.PROCESSING], [BatchStatus.SUCCESS]
        pages = [client.api.read_page(each, 0, 100, Credentials("key", "token")) for each in statuses]
        assert [page.total for page in pages] == [1, 2]


def test_what_came_while_a_connection_was_idle_shows_that_it_is_out_of_step(new_client: NewClient) -> None:
    idle = Semaphore(0)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        whole = reply(ref_of(await server.read_head(reader)), named=True)
        writer.write(whole)
        await writer.drain()
        await asyncio.to_thread(idle.acquire)
        writer.write(whole)
        await reader.read()

    with RawServer(script) as server:
        client = new_client(server.url)
        for ref, size in zip(REFS[:3], range(3), strict=True):
            assert sizes(client, [ref]) == [size]
            idle.release()
            _wait_for_surplus(client)
        # None was asked for twice.
        assert client.requests() == {"200": 3}
        assert server.connections == 3


def _wait_for_surplus(client: Client) -> None:
    """Wait until the idle connection has received something."""
    session = client.api._session
    assert session is not None
    [connection] = session.adapter._idle
    below = connection._wire._socket
    assert isinstance(below, socket.socket)
    below.settimeout(None)
    # Without TLS, which shows nothing without taking it.
    assert socket.socket.recv(below, 1, socket.MSG_PEEK)


def test_a_whole_404_does_not_cost_a_handshake(new_client: NewClient, certificates: Certificates) -> None:
    with Answers(lambda ref: [reply(ref, head="HTTP/1.1 404 Not Found")], certificates) as server:
        client = new_client(server.url, tls_config=certificates.trusted())
        assert sizes(client, REFS * 4) == [Reason.NOT_FOUND] * 32
        assert server.connections == 1


BROKEN = {
    "a chunk of no size": b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a chunk of negative size": b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
    "larger than is read for nothing": b"HTTP/1.1 404 Not Found\r\nContent-Length: 99999\r\n\r\n" + b" " * 99_999,
    "without a length": b"HTTP/1.1 404 Not Found\r\n\r\n",
    "the server wants to close": b"HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.0": b"HTTP/1.0 404 Not Found\r\nContent-Length: 0\r\n\r\n",
}


@pytest.mark.parametrize("sent", BROKEN.values(), ids=BROKEN)
def test_a_404_that_is_not_whole_is_the_last_of_its_connection(new_client: NewClient, sent: bytes) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_head(reader)
        writer.write(sent)
        if b"Content-Length" not in sent and b"chunked" not in sent:
            return
        await reader.read()

    with RawServer(script) as server:
        assert sizes(new_client(server.url), REFS[:3]) == [Reason.NOT_FOUND] * 3
        assert server.connections == 3


@pytest.mark.parametrize(
    "head",
    [
        "Content-Length: 2\r\nContent-Length: 3",
        "Content-Length: 2, 2",
        "Content-Length: +2",
        "Content-Length: 0_2",
        "Content-Length: -2",
        "Content-Length: two",
        "Content-Length: \u0662",
        "Content-Length: ",
        "Transfer-Encoding: gzip, chunked\r\nContent-Length: 2",
        "Transfer-Encoding: identity\r\nContent-Length: 2",
    ],
)
@pytest.mark.parametrize("status", ["200 OK", "404 Not Found"])
def test_an_answer_with_ambiguous_framing_is_refused(new_client: NewClient, status: str, head: str) -> None:
    with answering(f"HTTP/1.1 {status}\r\n{head}\r\n\r\n{{}}".encode()) as server:
        new_client(server.url).fail(Reason.BAD_RESPONSE)


def test_an_answer_for_another_batch_is_retried_once_on_a_new_connection(new_client: NewClient) -> None:
    """The first connection is one answer behind from its second request on."""

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_behind = server.connections == 1
        before: str | None = None
        while True:
            ref = ref_of(await server.read_head(reader))
            writer.write(reply(before if is_behind and before else ref, named=True))
            before = ref

    with RawServer(script) as server:
        client = new_client(server.url)
        assert sizes(client, REFS) == [*range(8)]
        # The one that was out of step was closed.
        assert server.connections == 2
        assert client.requests() == {"200": 9}


def test_an_answer_for_another_batch_on_a_fresh_connection_too_is_a_bad_response(new_client: NewClient) -> None:
    with Answers(lambda _: [reply(REFS[7], named=True)]) as server:
        client = new_client(server.url)
        error = client.fail(Reason.BAD_RESPONSE, REFS[0])
        assert f"{error}" == "ref is not the one that was asked for"
        assert server.connections == 2


def test_many_threads_never_get_the_value_of_another_batch(new_client: NewClient) -> None:
    """Every third answer is sent twice, every fifth has a hint before it, every seventh is for another batch."""
    count = 0

    def answer(ref: str) -> list[bytes]:
        nonlocal count
        count += 1
        if count % 7 == 0:
            return [reply(REFS[(REFS.index(ref) + 1) % 8], named=True)]
        return [*([INTERIM["103"]] if count % 5 == 0 else []), reply(ref) * (2 if count % 3 == 0 else 1)]

    with Answers(answer) as server, ThreadPoolExecutor(8) as executor:
        client = new_client(server.url, concurrency=8)
        # All three meet at the 105th answer.
        read = executor.map(lambda ref: sizes(client, [ref])[0], REFS * 14)
        assert [
            (size, number % 8) for number, size in enumerate(read) if size not in {number % 8, Reason.BAD_RESPONSE}
        ] == []


def test_a_body_that_ends_with_the_connection_is_whole_without_close_notify(
    new_client: NewClient, certificates: Certificates
) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ref = ref_of(await server.read_head(reader))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + reply(ref).partition(b"\r\n\r\n")[2])
        await writer.drain()
        # No close_notify, as many servers do it.
        writer.get_extra_info("socket").shutdown(socket.SHUT_WR)

    with RawServer(script, certificates.server()) as server:
        client = new_client(server.url, tls_config=certificates.trusted())
        assert sizes(client, REFS[:3]) == [0, 1, 2]
        assert server.connections == 3


def test_a_large_answer_in_many_tls_records_is_read(new_client: NewClient, certificates: Certificates) -> None:
    packed = gzip.compress(
        f'{{"ref": "{REFS[3]}", "status": {{"code": "error"}}, "size": 3}}'.encode() + b" " * 900_000, compresslevel=0
    )
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
    with Answers(lambda _: [head + packed], certificates) as server:
        client = new_client(server.url, tls_config=certificates.trusted())
        assert sizes(client, [REFS[3]] * 3) == [3, 3, 3]
        assert server.connections == 1


def test_http_client_still_reads_answers_from_what_it_takes_for_a_socket() -> None:
    """HTTPResponse is meant for http.client itself. Here is what of it the connection relies on."""
    reader = _Reader(io.BytesIO(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 201"))
    answer = HTTPResponse(reader, method="GET")  # type: ignore[arg-type]
    answer.begin()
    assert (answer.status, answer.headers["Content-Length"], answer.length) == (200, "2", 2)
    assert (answer.chunked, answer.will_close, answer.isclosed()) == (False, False, False)
    assert (answer.read(99), answer.isclosed(), answer.length) == (b"{}", True, 0)
    assert reader.peek(1) == b"HTTP/1.1 201"
