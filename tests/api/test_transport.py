"""Connections: one deadline for all of a request, and which of them are used again."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from sitecore_cdp_exporter.api.errors import PollError, Reason
from tests.api.api_client import (
    API_TOKEN,
    BASIC_AUTH,
    PRESIGNED_URL,
    PROXY_AUTH,
    REF,
    Client,
    assert_no_secret,
    count_received,
    prime,
)
from tests.api.certificates import Certificates
from tests.conditions import wait_until
from tests.fake_api import Clock
from tools.raw_server import RawServer, answering, reset
from tools.sandbox import Sandbox, faults

NewClient = Callable[..., Client]

BODY = f'{{"ref": "{REF}", "status": {{"code": "processing"}}}}'.encode()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


def test_connections_are_kept_and_used_again(api_sandbox: Sandbox, new_client: NewClient) -> None:
    client = new_client(api_sandbox.base_url)
    for status in (200, 404, 503, 429, 200):
        api_sandbox.set_fault(faults.Status(status, body=BODY.decode()))
        if status == 200:
            client.read()
        else:
            with pytest.raises(Exception, match=f"HTTP status {status}"):
                client.read()
    assert len({request.peer_port for request in api_sandbox.requests}) == 1


def test_no_more_idle_connections_are_kept_than_there_may_be_requests(
    api_sandbox: Sandbox, new_client: NewClient
) -> None:
    client = new_client(api_sandbox.base_url, concurrency=3)
    prime(client, api_sandbox, 8)
    wait_until(lambda: api_sandbox.open_connections <= 3)
    client.read()
    assert api_sandbox.open_connections == 3


def test_a_connection_that_was_closed_while_idle_is_replaced(api_sandbox: Sandbox, new_client: NewClient) -> None:
    client = new_client(api_sandbox.base_url)
    client.read()
    api_sandbox.close_idle_connections()
    wait_until(lambda: api_sandbox.open_connections == 0)
    client.read()
    assert len({request.peer_port for request in api_sandbox.requests}) == 2
    assert client.requests()["200"] == 2


@pytest.mark.parametrize("count", [1, 5])
@pytest.mark.parametrize("over_tls", [False, True])
def test_a_reused_connection_closed_unanswered_is_retried_once_on_a_new_one(
    request: pytest.FixtureRequest, new_client: NewClient, certificates: Certificates, count: int, *, over_tls: bool
) -> None:
    sandbox: Sandbox = request.getfixturevalue("tls_sandbox" if over_tls else "api_sandbox")
    client = new_client(sandbox.base_url, tls_config=certificates.trusted())
    prime(client, sandbox, count)
    sandbox.set_fault(faults.CloseReusedConnection())
    with ThreadPoolExecutor(count) as executor:
        # All of them read before the first of them ends.
        barrier = threading.Barrier(count)
        reading = [executor.submit(lambda: (barrier.wait(), client.read())[1]) for _ in range(count)]
        assert [each.result().total_records for each in reading] == [7] * count
    ports = [each.peer_port for each in sandbox.requests]
    answered = [each.peer_port for each in sandbox.requests[count:] if each.status == 200]
    # One that comes late may find a fresh connection of another, which is closed unanswered as well.
    assert len({*answered} - {*ports[:count]}) == len(answered) == count
    # Each request is counted, those that were closed unanswered included.
    closed = len(ports) - 2 * count
    assert closed >= 1
    assert client.requests() == {"200": 2 * count, "error": closed}
    assert client.durations()[0] == len(ports)


def test_a_new_connection_closed_unanswered_is_not_retried(api_sandbox: Sandbox, new_client: NewClient) -> None:
    client = new_client(api_sandbox.base_url)
    client.read()
    api_sandbox.set_fault(faults.CutConnection())
    client.fail(Reason.CONNECTION)
    # That was one reused and one fresh connection; this is a fresh one.
    assert client.requests() == {"200": 1, "error": 2}
    client.fail(Reason.CONNECTION)
    assert client.requests() == {"200": 1, "error": 3}


@pytest.mark.parametrize(
    "sent",
    [b"H", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 100 Continue\r\n\r\n", OK[:-1], b"HTTP/1.1 500 X\r\n\r\n"],
)
@pytest.mark.parametrize("by_reset", [False, True])
def test_a_reused_connection_closed_after_some_bytes_is_not_retried(
    new_client: NewClient, monkeypatch: pytest.MonkeyPatch, sent: bytes, *, by_reset: bool
) -> None:
    received = count_received(monkeypatch)

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_head(reader)
        writer.write(OK)
        await server.read_head(reader)
        writer.write(sent)
        await writer.drain()
        if by_reset:
            # A reset would take the bytes with it that the client has not read yet.
            await asyncio.to_thread(wait_until, lambda: received() == len(OK + sent))
            reset(writer)

    with RawServer(script) as server:
        client = new_client(server.url)
        client.read()
        with pytest.raises(PollError) as caught:
            client.read()
        assert caught.value.reason in {Reason.CONNECTION, Reason.BAD_RESPONSE, Reason.SERVER_ERROR}
        assert server.connections == 1
        assert client.durations()[0] == 2


def test_what_becomes_of_the_fresh_connection_decides(api_sandbox: Sandbox, new_client: NewClient) -> None:
    client = new_client(api_sandbox.base_url)
    client.read()
    api_sandbox.set_fault(faults.CloseReusedConnection(), ref=REF)
    api_sandbox.set_fault(faults.Status(503))
    client.fail(Reason.SERVER_ERROR)
    assert client.requests() == {"200": 1, "error": 1, "503": 1}


def test_the_fresh_connection_gets_no_time_of_its_own(new_client: NewClient) -> None:
    clock = Clock()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_head(reader)
        if server.connections == 1:
            writer.write(OK)
            await server.read_head(reader)
            clock.now += 20
            # Now the reused connection is closed unanswered.
            return
        writer.write(OK[:-2])
        clock.now += 20
        writer.write(OK[-2:-1])
        await reader.read()

    with RawServer(script) as server:
        client = new_client(server.url, timeout=30.0, clock=clock)
        client.read()
        client.fail(Reason.TIMEOUT)
        assert server.connections == 2


def test_secrets_are_found_by_the_check_for_them() -> None:
    for secret in (API_TOKEN, ascii(API_TOKEN), BASIC_AUTH, PRESIGNED_URL, PROXY_AUTH):
        with pytest.raises(AssertionError):
            assert_no_secret(f"an error with {secret} in it")


def test_a_stale_answer_in_the_pool_is_not_mistaken_for_the_next(new_client: NewClient) -> None:
    with answering(OK + OK.replace(b"processing", b"corrupted"), OK) as server:
        client = new_client(server.url)
        client.read()
        assert client.read().status == "processing"


@pytest.mark.parametrize(
    "length", [1, 12, len("HTTP/1.1 200 OK\r\n"), 25, OK.index(b"\r\n\r\n") + 2, OK.index(b"\r\n\r\n") + 3]
)
def test_an_answer_that_is_cut_in_its_headers_is_a_failed_connection(new_client: NewClient, length: int) -> None:
    with answering(OK[:length]) as server:
        message = f"{new_client(server.url).fail(Reason.CONNECTION)}"
    assert message == "the connection was closed before the answer was whole"
