"""The look-up of names, and the connection to one of their addresses."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from sitecore_cdp_exporter.api.deadline import Deadline
from sitecore_cdp_exporter.api.errors import Reason
from sitecore_cdp_exporter.api.resolver import Resolver
from sitecore_cdp_exporter.api.wire import connect
from tests.api.api_client import (
    API_TOKEN,
    CLIENT_KEY,
    REF,
    Client,
)
from tests.conditions import wait_until
from tests.fake_api import Clock
from tools.raw_server import RawServer
from tools.sandbox import Sandbox

NewClient = Callable[..., Client]

# For requests that are never answered.
MIN_TIMEOUT = 0.15
BODY = b'{"status": {"code": "processing"}}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


class FakeResolver:
    """Stands in for getaddrinfo: waits until it is open, then gives these addresses."""

    def __init__(self, *addresses: tuple[Any, ...]) -> None:
        self.open = threading.Event()
        self.addresses = addresses
        self.calls = 0

    def __call__(self, *_: object) -> list[tuple[Any, ...]]:
        self.calls += 1
        assert self.open.wait(30)
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", address) if isinstance(address[0], str) else address
            for address in self.addresses
        ]


def resolver_threads() -> int:
    return sum(thread.name == "resolver" for thread in threading.enumerate())


@pytest.fixture
def use_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[FakeResolver], None]]:
    resolvers: list[FakeResolver] = []

    def use(resolver: FakeResolver) -> None:
        resolvers.append(resolver)
        monkeypatch.setattr(socket, "getaddrinfo", resolver)

    yield use
    for resolver in resolvers:
        resolver.open.set()
    wait_until(lambda: resolver_threads() == 0)


def test_a_resolver_that_hangs_is_a_timeout_and_holds_one_thread(
    new_client: NewClient, use_resolver: Callable[[FakeResolver], None]
) -> None:
    resolver = FakeResolver()
    use_resolver(resolver)
    client = new_client("https://api.example", timeout=MIN_TIMEOUT)
    with ThreadPoolExecutor(16) as executor:
        failing = [executor.submit(client.fail, Reason.TIMEOUT) for _ in range(16)]
        for each in failing:
            each.result()
    client.fail(Reason.TIMEOUT)
    assert resolver_threads() == 1
    assert resolver.calls == 1


def test_a_name_is_looked_up_again_for_the_next_connection(
    api_sandbox: Sandbox, new_client: NewClient, use_resolver: Callable[[FakeResolver], None]
) -> None:
    port = int(api_sandbox.base_url.rpartition(":")[2])
    resolver = FakeResolver(("127.0.0.1", port))
    resolver.open.set()
    use_resolver(resolver)
    client = new_client(f"http://localhost:{port}")
    client.read()
    client.read()
    assert resolver.calls == 1
    client.api.close()
    client.read()
    assert resolver.calls == 2


@pytest.mark.parametrize(
    "host", ["no-such-host.invalid", "x" * 70 + ".invalid", "a..invalid"], ids=["unknown", "long label", "empty label"]
)
def test_a_name_without_an_address_is_a_failed_connection(new_client: NewClient, host: str) -> None:
    client = new_client(f"https://{host}")
    client.fail(Reason.CONNECTION)
    assert client.requests() == {"error": 1}


def test_a_lookup_that_could_not_start_does_not_block_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more_threads(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver = Resolver()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more_threads)
        with pytest.raises(RuntimeError):
            resolver.resolve("127.0.0.1", 80, Deadline(30.0))
    assert resolver.resolve("127.0.0.1", 80, Deadline(30.0))[0][4] == ("127.0.0.1", 80)


@pytest.fixture
def closed_address() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address: tuple[str, int] = listener.getsockname()
    return address


@pytest.fixture
def silent_address(nothing_is_left: None) -> Iterator[tuple[str, int]]:  # noqa: ARG001  It ends last.
    """Return an address that answers no connect: the backlog of its listener is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)  # noqa: FBT003  It has no keyword.
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


class Countdown(Deadline):
    """A deadline with a fixed time left, whatever the time is."""

    def __init__(self, *left: float) -> None:
        self._left = iter(left)

    def left(self) -> float:
        return next(self._left)


def test_a_dead_address_leaves_time_for_the_next(
    closed_address: tuple[str, int], silent_address: tuple[str, int]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        alive = (socket.AF_INET, socket.SOCK_STREAM, 0, "", listener.getsockname())
        for family, dead in ((socket.AF_INET, closed_address), (socket.AF_INET, silent_address), (9999, alive[4])):
            # Of 0.3 seconds for both the first gets half; the second gets as long as it may take here.
            wire = connect([(family, socket.SOCK_STREAM, 0, "", dead), alive], Countdown(0.3, 30.0, 30.0))
            wire.sendall(b"")
            wire.close()


def test_addresses_that_are_all_dead_share_one_timeout(
    new_client: NewClient,
    use_resolver: Callable[[FakeResolver], None],
    closed_address: tuple[str, int],
    silent_address: tuple[str, int],
) -> None:
    silent = FakeResolver(*[silent_address] * 5)
    closed = FakeResolver(*[closed_address] * 5)
    none = FakeResolver()
    for resolver in (silent, closed, none):
        resolver.open.set()
    use_resolver(silent)
    new_client("http://localhost:1", timeout=MIN_TIMEOUT).fail(Reason.TIMEOUT)
    for resolver in (closed, none):
        use_resolver(resolver)
        new_client("http://localhost:1").fail(Reason.CONNECTION)


def test_a_name_that_takes_long_leaves_less_for_the_answer(
    new_client: NewClient, use_resolver: Callable[[FakeResolver], None]
) -> None:
    clock = Clock()

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_head(reader)
        writer.write(OK[:-2])
        clock.now += 20
        writer.write(OK[-2:-1])
        await reader.read()

    with RawServer(script) as server:
        resolver = FakeResolver(("127.0.0.1", server.port))
        use_resolver(resolver)
        client = new_client(f"http://localhost:{server.port}", timeout=30.0, clock=clock)
        with ThreadPoolExecutor(1) as executor:
            failing = executor.submit(client.fail, Reason.TIMEOUT)
            wait_until(lambda: resolver.calls)
            clock.now += 20
            resolver.open.set()
            failing.result()
    assert len(server.heads) == 1


def test_ipv6_addresses_can_be_used(new_client: NewClient) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, host="::1") as sandbox:
        sandbox.put_batch(REF, status="success")
        client = new_client(sandbox.base_url)
        assert client.read().ref == REF
        client.close()
