"""Where requests go: proxies of the config and of the environment, and no password of netrc."""

import asyncio
import ssl
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from pydantic import SecretStr

from sitecore_cdp_exporter.api.errors import Reason
from sitecore_cdp_exporter.api.route import find_proxy
from sitecore_cdp_exporter.config.model import ApiConfig, ConfigError, load_config
from tests.api.api_client import (
    BASIC_AUTH,
    PRESIGNED_URL,
    PROXY_AUTH,
    PROXY_PASSWORD,
    PROXY_USER,
    Client,
)
from tests.api.certificates import Certificates
from tests.fake_api import Clock
from tools.raw_server import Proxy, RawServer
from tools.sandbox import Sandbox

NewClient = Callable[..., Client]

# For requests that may be answered, and for those that never are.
MIN_TIMEOUT = 0.15
BODY = b'{"status": {"code": "processing"}}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


API = "https://api.example:{port}"


def api_port(sandbox: Sandbox) -> int:
    return int(sandbox.base_url.rpartition(":")[2])


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_proxy_variables_are_ignored_unless_the_config_enables_them(
    new_tls_sandbox: Callable[[ssl.SSLContext], Sandbox],
    new_client: NewClient,
    certificates: Certificates,
    variable: str,
    scheme: str,
) -> None:
    sandbox = new_tls_sandbox(certificates.server("api.example"))
    url = API.format(port=api_port(sandbox))
    with Proxy() as proxy:
        settings: dict[str, Any] = {
            "environ": {variable: proxy.url.replace("http://", scheme)},
            "tls_config": certificates.trusted(),
        }
        # Nobody but the proxy knows where api.example is.
        new_client(url, **settings).fail(Reason.CONNECTION)
        assert proxy.connections == 0
        client = new_client(url, proxy_from_environment=True, **settings)
        assert client.read().total_records == 7
        assert proxy.connections == 1
        # Its connection ends before the proxy, which would otherwise have to end it.
        client.close()


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"])
def test_a_token_for_loopback_never_goes_to_a_proxy_of_the_environment(
    api_sandbox: Sandbox, new_client: NewClient, variable: str
) -> None:
    with Proxy() as proxy:
        for host in ("localhost", "127.0.0.1"):
            url = f"http://{host}:{api_port(api_sandbox)}"
            assert new_client(url, proxy_from_environment=True, environ={variable: proxy.url}).read().total_records == 7
        assert proxy.connections == 0


@pytest.mark.parametrize("url", ["https://localhost", "https://127.0.0.2:8443", "https://[::1]", "http://[::1]:8080"])
def test_loopback_is_never_proxied(url: str) -> None:
    environ = {"HTTP_PROXY": "http://proxy.example:3128", "HTTPS_PROXY": "http://proxy.example:3128"}
    assert find_proxy(ApiConfig(base_url=url, proxy_from_environment=True), environ, url) is None


@pytest.mark.parametrize(
    ("environ", "host"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy.example:3128"}, "proxy.example"),
        ({"HTTPS_PROXY": "proxy.example:3128"}, "proxy.example"),
        ({"HTTPS_PROXY": "https://proxy.example"}, "proxy.example"),
        ({"HTTPS_PROXY": "http://upper.example", "https_proxy": "http://lower.example"}, "lower.example"),
        ({"HTTPS_PROXY": "http://upper.example", "https_proxy": ""}, None),
        # As in Prometheus, which does not know it.
        ({"ALL_PROXY": "socks5://proxy.example:1080"}, None),
        ({"all_proxy": "http://proxy.example"}, None),
        ({"HTTP_PROXY": "http://proxy.example"}, None),
    ],
)
def test_the_proxy_of_the_environment_is_that_of_https(environ: dict[str, str], host: str | None) -> None:
    config = ApiConfig(base_url="https://api.example", proxy_from_environment=True)
    proxy = find_proxy(config, environ, config.base_url)
    assert (proxy and proxy.server.host) == host


@pytest.mark.parametrize("variable", ["NO_PROXY", "no_proxy"])
@pytest.mark.parametrize(
    ("value", "is_bypassed"),
    [("example.org,api.example", True), (".example", True), ("*", True), ("example.org", False), ("", False)],
)
def test_no_proxy_variables_are_respected(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, *, is_bypassed: bool
) -> None:
    monkeypatch.setenv(variable, value)
    config = ApiConfig(base_url="https://api.example", proxy_from_environment=True)
    proxy = find_proxy(config, {"HTTPS_PROXY": "http://proxy.example:3128"}, config.base_url)
    assert (proxy is None) == is_bypassed


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize(
    "value",
    [
        f"socks5://{PROXY_USER}:{PROXY_PASSWORD}@127.0.0.1:1",
        f"http://{PROXY_USER}@127.0.0.1:port",
        "http://",
        " http://127.0.0.1:9",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
    ],
)
def test_a_proxy_of_the_environment_that_cannot_be_used_is_named_by_its_variable(
    new_client: NewClient, variable: str, value: str
) -> None:
    client = new_client("https://api.example", proxy_from_environment=True, environ={variable: value})
    message = f"{client.fail(Reason.CONNECTION)}"
    assert message.startswith(f"the proxy: the environment variable {variable}: ")
    assert client.requests() == {}


@pytest.mark.parametrize(
    ("userinfo", "sent"),
    [("", None), ("user@", "user:"), ("user:@", "user:"), ("us%3Aer:p%C3%A4ss@", "us:er:p\u00e4ss"), (":pw@", ":pw")],
)
def test_the_user_of_a_proxy_is_sent_with_and_without_a_password(
    new_client: NewClient, userinfo: str, sent: str | None
) -> None:
    with Proxy(refusal=b"HTTP/1.1 407 No\r\n\r\n") as proxy:
        url = proxy.url.replace("http://", f"http://{userinfo}")
        new_client("https://api.example", proxy_url=SecretStr(url)).fail(Reason.CONNECTION)
    lines = [line for line in proxy.heads[0].splitlines() if line.startswith("Proxy-Authorization")]
    assert lines == ([] if sent is None else [f"Proxy-Authorization: Basic {b64encode(sent.encode()).decode()}"])


def test_netrc_is_ignored(
    api_sandbox: Sandbox, new_client: NewClient, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    new_client(api_sandbox.base_url).read()
    assert api_sandbox.requests[0].headers["Authorization"] == f"Basic {BASIC_AUTH}"


# Proxies


def proxy_url(proxy: Proxy) -> SecretStr:
    """Return the URL of a proxy with credentials in it."""
    scheme, _, rest = proxy.url.partition("://")
    return SecretStr(f"{scheme}://{quote(PROXY_USER)}:{quote(PROXY_PASSWORD)}@{rest}")


def test_tls_requests_go_through_a_tunnel_and_neither_side_sees_the_credentials_of_the_other(
    tls_sandbox: Sandbox, new_client: NewClient, certificates: Certificates
) -> None:
    with Proxy() as proxy:
        client = new_client(tls_sandbox.base_url, proxy_url=proxy_url(proxy), tls_config=certificates.trusted())
        assert client.read() == client.read()
        client.close()
    [head] = proxy.heads
    address = tls_sandbox.base_url.removeprefix("https://")
    assert head.startswith(f"CONNECT {address} HTTP/1.")
    assert f"Proxy-Authorization: Basic {PROXY_AUTH}\r\n" in head
    assert BASIC_AUTH not in head
    for request in tls_sandbox.requests:
        assert "Proxy-Authorization" not in request.headers
        assert request.headers["Authorization"] == f"Basic {BASIC_AUTH}"
    assert len({request.peer_port for request in tls_sandbox.requests}) == 1


def test_a_proxy_may_use_tls(tls_sandbox: Sandbox, new_client: NewClient, certificates: Certificates) -> None:
    with Proxy(ssl_context=certificates.server()) as proxy:
        client = new_client(tls_sandbox.base_url, proxy_url=proxy_url(proxy), tls_config=certificates.trusted())
        assert client.read() == client.read()
        client.close()
    assert len(proxy.heads) == 1


def test_a_proxy_that_is_not_trusted_is_a_tls_error(
    tls_sandbox: Sandbox, new_client: NewClient, certificates: Certificates
) -> None:
    with Proxy(ssl_context=certificates.server("proxy.example")) as proxy:
        client = new_client(tls_sandbox.base_url, proxy_url=proxy_url(proxy), tls_config=certificates.trusted())
        client.fail(Reason.TLS)
    assert proxy.heads == []


def test_a_proxy_that_refuses_is_a_failed_connection(
    tls_sandbox: Sandbox, new_client: NewClient, certificates: Certificates
) -> None:
    refusal = f"HTTP/1.1 407 {PRESIGNED_URL}\r\nProxy-Authenticate: Basic\r\n\r\n".encode()
    with Proxy(refusal=refusal) as proxy:
        client = new_client(tls_sandbox.base_url, proxy_url=proxy_url(proxy), tls_config=certificates.trusted())
        assert f"{client.fail(Reason.CONNECTION)}" == "the proxy: HTTP status 407"
        assert client.requests() == {"error": 1}
    assert tls_sandbox.open_connections == 0


def test_a_proxy_where_nobody_listens_is_a_failed_connection(
    tls_sandbox: Sandbox, new_client: NewClient, certificates: Certificates
) -> None:
    with Proxy() as proxy:
        url = proxy_url(proxy)
    client = new_client(tls_sandbox.base_url, proxy_url=url, tls_config=certificates.trusted())
    assert f"{client.fail(Reason.CONNECTION)}" == "the proxy: Connection refused"


def test_a_proxy_that_speaks_no_http_is_a_bad_response(
    tls_sandbox: Sandbox, new_client: NewClient, certificates: Certificates
) -> None:
    with Proxy(refusal=b"220 mail.example ESMTP\r\n") as proxy:
        client = new_client(tls_sandbox.base_url, proxy_url=proxy_url(proxy), tls_config=certificates.trusted())
        client.fail(Reason.BAD_RESPONSE)


@pytest.mark.parametrize(
    ("answer", "handshake", "repeated"),
    [
        (b"", b"", b""),
        (b"", b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"", b"X-Endless: 1\r\n"),
        # The tunnel is there, and the handshake in it never ends.
        (b"HTTP/1.1 200 OK\r\n\r\n", b"", b""),
        (b"HTTP/1.1 200 OK\r\n\r\n", b"\x16\x03\x03\x40\x00", b"\x02"),
    ],
)
@pytest.mark.parametrize("over_tls", [False, True])
def test_a_proxy_that_hangs_or_drips_is_a_timeout(
    new_client: NewClient,
    certificates: Certificates,
    answer: bytes,
    handshake: bytes,
    repeated: bytes,
    *,
    over_tls: bool,
) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await proxy.read_head(reader)
        writer.write(answer)
        if handshake:
            await reader.read(1)
        writer.write(handshake)
        while True:
            writer.write(repeated)
            await writer.drain()
            await asyncio.sleep(0.01)

    with RawServer(script, certificates.server() if over_tls else None) as proxy:
        client = new_client(
            "https://127.0.0.1:1",
            proxy_url=SecretStr(proxy.url),
            tls_config=certificates.trusted(),
            timeout=MIN_TIMEOUT,
        )
        client.fail(Reason.TIMEOUT)


@pytest.mark.parametrize("over_tls", [False, True])
def test_a_slow_proxy_and_a_slow_server_share_one_timeout(
    new_client: NewClient, certificates: Certificates, *, over_tls: bool
) -> None:
    """Each alone is fast enough, and together they are not."""
    clock = Clock()

    def take_long() -> None:
        clock.now += 20

    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_head(reader)
        writer.write(OK[:-2])
        take_long()
        writer.write(OK[-2:-1])
        await reader.read()

    proxy = Proxy(connecting=take_long, ssl_context=certificates.server() if over_tls else None)
    with RawServer(script, certificates.server()) as server, proxy:
        new_client(
            server.url, proxy_url=proxy_url(proxy), tls_config=certificates.trusted(), timeout=30.0, clock=clock
        ).fail(Reason.TIMEOUT)
    # Nothing else was in the way: the request had come through.
    assert len(server.heads) == 1


@pytest.mark.parametrize("proxy", ["http://proxy.example:3128", "https://proxy.example"])
def test_a_proxy_with_plain_http_is_a_config_error(tmp_path: Path, proxy: str) -> None:
    config = tmp_path / "config.yaml"
    for base_url in ("http://localhost:8080", "HTTP://127.0.0.1", "http://[::1]:8080/gateway"):
        config.write_text(f"api:\n  base_url: {base_url}\n  proxy_url: {proxy}\nbatches: []\n")
        with pytest.raises(ConfigError, match=r":3: api.proxy_url: cannot be combined with an http:// base_url"):
            load_config(config)
    for base_url in ("https://api.example", "https://localhost"):
        config.write_text(f"api:\n  base_url: {base_url}\n  proxy_url: {proxy}\nbatches: []\n")
        api = load_config(config).api
        found = find_proxy(api, {}, api.base_url)
        assert found is not None
        assert found.server.host == "proxy.example"
