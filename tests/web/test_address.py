import asyncio
import socket

import pytest

from sitecore_cdp_exporter.web.address import ListenAddress, ListenError, listen


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":10311", ListenAddress(None, 10311)),
        ("127.0.0.1:0", ListenAddress("127.0.0.1", 0)),
        ("[::1]:65535", ListenAddress("::1", 65535)),
        ("localhost:80", ListenAddress("localhost", 80)),
        ("[]:80", ListenAddress(None, 80)),
    ],
)
def test_an_address_is_read_and_written(text: str, address: ListenAddress) -> None:
    assert ListenAddress.parse(text) == address
    assert ListenAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text", ["", "10311", "host", "host:", "host:x", ":65536", ":-1", ": 1", "::1", "::1:80", ":\uff11", "a:1:2"]
)
def test_what_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected host:port|brackets"):
        ListenAddress.parse(text)


@pytest.mark.parametrize(
    "text", ["http://localhost:10311", "https://[::1]:10311/", "http://:80", "localhost:10311/metrics", "tcp://:1"]
)
def test_a_url_is_refused_with_what_to_write_instead(text: str) -> None:
    with pytest.raises(ValueError, match="without http://"):
        ListenAddress.parse(text)


def test_any_ipv6_address_answers_ipv4_too() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("needs IPv6")

    async def connect() -> None:
        async with await listen(ListenAddress("::", 0), asyncio.Protocol) as server:
            port = server.sockets[0].getsockname()[1]
            for host in ("127.0.0.1", "::1"):
                _, writer = await asyncio.open_connection(host, port)
                writer.close()
                await writer.wait_closed()

    asyncio.run(connect())


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_a_taken_address_is_named(host: str) -> None:
    async def twice() -> None:
        async with await listen(ListenAddress(host, 0), asyncio.Protocol) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(ListenError) as raised:
                await listen(ListenAddress(host, port), asyncio.Protocol)
            assert str(raised.value) == f"cannot listen on {ListenAddress(host, port)}: Address already in use"

    asyncio.run(twice())
