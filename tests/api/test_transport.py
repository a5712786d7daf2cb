"""Connections: one deadline for all of a request, TLS, proxies, the pool, and the look-up of names."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from pydantic import SecretStr

from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.api.transport import Resolver
from sitecore_cdp_exporter.config.model import TlsConfig
from tests.api.api_client import (
    API_TOKEN,
    BASIC_AUTH,
    CLIENT_KEY,
    PRESIGNED_URL,
    PROXY_AUTH,
    PROXY_PASSWORD,
    PROXY_USER,
    REF,
    Client,
    assert_no_secret,
)
from tests.conditions import wait_until
from tools.raw_server import Proxy, RawServer, answering, flooding, reset
from tools.sandbox import Sandbox, faults

NewClient = Callable[..., Client]

# For requests that may be answered, and for those that never are.
SHORT_TIMEOUT = 0.5
SHORTEST_TIMEOUT = 0.15
BODY = b'{"status": {"code": "processing"}}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
ENVIRONMENT = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC", "SSLKEYLOGFILE")
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ENVIRONMENT, *PROXY_VARIABLES, *map(str.lower, PROXY_VARIABLES)):
        monkeypatch.delenv(name, raising=False)


class Certificates:
    """An authority, a server certificate for loopback and a client certificate, as files and as contexts."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.authority = trustme.CA()
        self.ca_file = directory / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self.ca_file))
        client = self.authority.issue_cert("exporter@example.org")
        self.cert_file, self.key_file = directory / "client.pem", directory / "client.key"
        self.cert_file.write_bytes(b"".join(part.bytes() for part in client.cert_chain_pems))
        client.private_key_pem.write_to_path(str(self.key_file))

    def server(self, *names: str, asks_for_certificate: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*(names or ("127.0.0.1", "localhost"))).configure_cert(context)
        if asks_for_certificate:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def trusted(self, **settings: Any) -> TlsConfig:  # noqa: ANN401  Those of TlsConfig.
        return TlsConfig(ca_file=self.ca_file, **settings)

    def write(self, name: str, content: bytes) -> Path:
        path = self._directory / name
        path.write_bytes(content)
        return path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def new_tls_sandbox(nothing_is_left: None) -> Iterator[Callable[[ssl.SSLContext], Sandbox]]:  # noqa: ARG001  It ends last.
    with ExitStack() as stack:

        def new(context: ssl.SSLContext) -> Sandbox:
            sandbox = stack.enter_context(Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, ssl_context=context))
            sandbox.put_batch(REF, status="processing", total=7)
            return sandbox

        yield new


@pytest.fixture
def tls_sandbox(new_tls_sandbox: Callable[[ssl.SSLContext], Sandbox], certificates: Certificates) -> Sandbox:
    return new_tls_sandbox(certificates.server())


# TLS


def test_a_server_is_trusted_by_the_ca_file(
    tls_sandbox: Sandbox, new_client: NewClient, certificates: Certificates
) -> None:
    assert new_client(tls_sandbox.base_url, tls_config=certificates.trusted()).read().total_records == 7


def test_a_server_of_an_unknown_authority_is_not_trusted(
    tls_sandbox: Sandbox, new_client: NewClient, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    for tls_config in (TlsConfig(), TlsConfig(ca_file=tmp_path / "other.pem")):
        client = new_client(tls_sandbox.base_url, tls_config=tls_config)
        assert f"{client.fail(Reason.TLS)}".startswith("the certificate is not accepted: ")
        assert client.requests() == {"error": 1}
    assert tls_sandbox.requests == []


def test_a_certificate_for_another_host_is_not_accepted(
    new_tls_sandbox: Callable[[ssl.SSLContext], Sandbox], new_client: NewClient, certificates: Certificates
) -> None:
    sandbox = new_tls_sandbox(certificates.server("api.example"))
    message = f"{new_client(sandbox.base_url, tls_config=certificates.trusted()).fail(Reason.TLS)}"
    assert "IP address mismatch" in message
    assert sandbox.requests == []


def test_a_client_certificate_is_presented(
    new_tls_sandbox: Callable[[ssl.SSLContext], Sandbox], new_client: NewClient, certificates: Certificates
) -> None:
    sandbox = new_tls_sandbox(certificates.server(asks_for_certificate=True))
    tls_config = certificates.trusted(cert_file=certificates.cert_file, key_file=certificates.key_file)
    assert new_client(sandbox.base_url, tls_config=tls_config).read().total_records == 7


def test_a_client_certificate_that_is_missing_is_a_tls_error(new_client: NewClient, certificates: Certificates) -> None:
    context = certificates.server(asks_for_certificate=True)
    # With TLS 1.3 the refusal comes after the handshake, and the server's close may overtake it.
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def script(*_: object) -> None:
        raise AssertionError

    with RawServer(script, context) as server:
        new_client(server.url, tls_config=certificates.trusted()).fail(Reason.TLS)


@pytest.mark.parametrize("with_ca_file", [False, True])
def test_insecure_skip_verify_trusts_everybody_and_warns_nobody(
    new_tls_sandbox: Callable[[ssl.SSLContext], Sandbox],
    new_client: NewClient,
    certificates: Certificates,
    *,
    with_ca_file: bool,
) -> None:
    sandbox = new_tls_sandbox(certificates.server("api.example"))
    tls_config = TlsConfig(ca_file=certificates.ca_file if with_ca_file else None, insecure_skip_verify=True)
    client = new_client(sandbox.base_url, tls_config=tls_config)
    # The tests make an error of each warning.
    assert client.read() == client.read()
    assert len({request.peer_port for request in sandbox.requests}) == 1


def test_tls_files_that_can_not_be_used_are_a_tls_error(
    tls_sandbox: Sandbox, new_client: NewClient, certificates: Certificates, tmp_path: Path
) -> None:
    key = load_pem_private_key(certificates.key_file.read_bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"pass phrase"))
    garbage = certificates.write("garbage", f"no certificate\n{PRESIGNED_URL}".encode())
    missing, good = tmp_path / "missing", certificates.cert_file
    for tls_config in (
        TlsConfig(ca_file=missing),
        TlsConfig(ca_file=garbage),
        TlsConfig(ca_file=tmp_path),
        TlsConfig(ca_file=missing, insecure_skip_verify=True),
        certificates.trusted(cert_file=good, key_file=missing),
        certificates.trusted(cert_file=good, key_file=garbage),
        certificates.trusted(cert_file=garbage, key_file=certificates.key_file),
        certificates.trusted(cert_file=certificates.ca_file, key_file=certificates.key_file),
        # OpenSSL would ask for its password on a terminal.
        certificates.trusted(cert_file=good, key_file=certificates.write("encrypted.key", encrypted)),
    ):
        client = new_client(tls_sandbox.base_url, tls_config=tls_config)
        assert f"{client.fail(Reason.TLS)}".startswith("the files of api.tls_config can not be used: ")
        assert client.requests() == {}
    assert tls_sandbox.requests == []


def test_tls_files_that_are_repaired_are_used(
    tls_sandbox: Sandbox, new_client: NewClient, certificates: Certificates, tmp_path: Path
) -> None:
    client = new_client(tls_sandbox.base_url, tls_config=TlsConfig(ca_file=tmp_path / "ca.pem"))
    client.fail(Reason.TLS)
    (tmp_path / "ca.pem").write_bytes(certificates.ca_file.read_bytes())
    assert client.read().total_records == 7


def test_a_server_that_speaks_no_tls_is_a_tls_error(
    api_sandbox: Sandbox, new_client: NewClient, certificates: Certificates
) -> None:
    url = api_sandbox.base_url.replace("http:", "https:")
    new_client(url, tls_config=certificates.trusted()).fail(Reason.TLS)


@pytest.mark.parametrize(("beginning", "repeated"), [(b"", b""), (b"\x16\x03\x03\x40\x00", b"\x02")])
def test_a_handshake_that_never_ends_is_a_timeout(
    new_client: NewClient, certificates: Certificates, beginning: bytes, repeated: bytes
) -> None:
    with flooding(beginning, repeated, 0.01) as server:
        url = server.url.replace("http:", "https:")
        new_client(url, tls_config=certificates.trusted(), timeout=SHORTEST_TIMEOUT).fail(Reason.TIMEOUT)


def test_a_server_that_drips_over_tls_is_a_timeout(
    tls_sandbox: Sandbox, new_client: NewClient, certificates: Certificates
) -> None:
    client = new_client(tls_sandbox.base_url, tls_config=certificates.trusted(), timeout=SHORT_TIMEOUT)
    client.read()
    for fault in (faults.DripHeaders(0.01), faults.DripBody(0.01)):
        tls_sandbox.set_fault(fault)
        client.fail(Reason.TIMEOUT)


# The environment


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_ca_bundle_of_the_environment_has_no_say(
    tls_sandbox: Sandbox,
    new_client: NewClient,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    monkeypatch.setenv(variable, str(certificates.ca_file))
    new_client(tls_sandbox.base_url).fail(Reason.TLS)
    trustme.CA().cert_pem.write_to_path(str(other := certificates.write("other.pem", b"")))
    monkeypatch.setenv(variable, str(other))
    assert new_client(tls_sandbox.base_url, tls_config=certificates.trusted()).read().total_records == 7


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_of_the_environment_has_no_say_unless_the_config_says_so(
    api_sandbox: Sandbox, new_client: NewClient, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    with Proxy() as proxy:
        monkeypatch.setenv(variable, proxy.url)
        new_client(api_sandbox.base_url).read()
        assert proxy.connections == 0
        client = new_client(api_sandbox.base_url, proxy_from_environment=True)
        client.read()
        assert proxy.connections == 1
        # Its connection ends before the proxy, which would otherwise have to end it.
        client.close()


def test_no_proxy_of_the_environment_is_heeded(
    api_sandbox: Sandbox, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "example.org,127.0.0.1")
        new_client(api_sandbox.base_url, proxy_from_environment=True).read()
        assert proxy.connections == 0


def test_a_proxy_of_the_environment_that_can_not_be_used_is_a_failed_connection(
    api_sandbox: Sandbox, new_client: NewClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for proxy in (f"socks5://{PROXY_USER}:{PROXY_PASSWORD}@127.0.0.1:1", f"http://{PROXY_USER}@127.0.0.1:x", "http://"):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        new_client(api_sandbox.base_url, proxy_from_environment=True).fail(Reason.CONNECTION)
    assert api_sandbox.requests == []


def test_netrc_has_no_say(
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


def test_plain_requests_are_forwarded_by_the_proxy(api_sandbox: Sandbox, new_client: NewClient) -> None:
    with Proxy() as proxy:
        client = new_client(api_sandbox.base_url, proxy_url=proxy_url(proxy))
        assert client.read() == client.read()
        client.close()
    [head] = proxy.heads
    assert head.startswith(f"GET {api_sandbox.base_url}/v2/batches/{REF} HTTP/1.1\r\n")
    assert f"Proxy-Authorization: Basic {PROXY_AUTH}\r\n" in head
    assert len(api_sandbox.requests) == 2


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


def test_a_proxy_may_speak_tls_itself(tls_sandbox: Sandbox, new_client: NewClient, certificates: Certificates) -> None:
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


def test_a_proxy_that_refuses_to_forward_is_an_http_error(api_sandbox: Sandbox, new_client: NewClient) -> None:
    with Proxy(refusal=b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n") as proxy:
        assert new_client(api_sandbox.base_url, proxy_url=proxy_url(proxy)).fail(Reason.HTTP_ERROR).status == 407


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
            timeout=SHORTEST_TIMEOUT,
        )
        client.fail(Reason.TIMEOUT)


@pytest.mark.parametrize("over_tls", [False, True])
def test_a_slow_proxy_and_a_slow_server_share_one_timeout(
    tls_sandbox: Sandbox, new_client: NewClient, certificates: Certificates, *, over_tls: bool
) -> None:
    """Each alone is fast enough, and together they are not."""
    tls_sandbox.set_fault(faults.Delay(0.35))
    with Proxy(delay=0.35, ssl_context=certificates.server() if over_tls else None) as proxy:
        new_client(
            tls_sandbox.base_url, proxy_url=proxy_url(proxy), tls_config=certificates.trusted(), timeout=0.5
        ).fail(Reason.TIMEOUT)
    # Nothing else was in the way: the request had come through.
    assert len(tls_sandbox.requests) == 1


def test_the_first_requests_by_a_proxy_keep_their_deadline_when_they_come_together(
    api_sandbox: Sandbox, new_client: NewClient
) -> None:
    api_sandbox.set_fault(faults.DripHeaders(0.01))
    with Proxy() as proxy, ThreadPoolExecutor(16) as executor:
        client = new_client(api_sandbox.base_url, proxy_url=proxy_url(proxy), timeout=SHORTEST_TIMEOUT)
        failing = [executor.submit(client.fail, Reason.TIMEOUT) for _ in range(16)]
        for each in failing:
            each.result()


# The pool


def prime(client: Client, sandbox: Sandbox, count: int) -> None:
    """Have this many connections open and idle."""
    sandbox.set_fault(faults.Hang())
    with ThreadPoolExecutor(count) as executor:
        reading = [executor.submit(client.read) for _ in range(count)]
        wait_until(lambda: len(sandbox.requests) == count)
        sandbox.clear_faults()
        for each in reading:
            each.result()
    assert len({request.peer_port for request in sandbox.requests}) == count


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
def test_a_reused_connection_that_is_closed_unanswered_is_worth_one_fresh_one(
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
    stale, fresh = set(ports[:count]), [port for port in ports[count:] if ports.count(port) == 1]
    assert stale.isdisjoint(fresh)
    assert len(fresh) == count
    # Each request is counted, those that were closed unanswered included.
    closed = len(ports) - 2 * count
    assert closed >= 1
    assert client.requests() == {"200": 2 * count, "error": closed}
    assert client.durations()[0] == len(ports)


def test_a_fresh_connection_that_is_closed_unanswered_is_not_worth_another(
    api_sandbox: Sandbox, new_client: NewClient
) -> None:
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
def test_a_reused_connection_that_is_closed_after_some_bytes_is_not_worth_another(
    new_client: NewClient, sent: bytes, *, by_reset: bool
) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_head(reader)
        writer.write(OK)
        await server.read_head(reader)
        writer.write(sent)
        await writer.drain()
        if by_reset:
            # A reset would take the bytes with it that the client has not read yet.
            await asyncio.sleep(0.1)
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
    client = new_client(api_sandbox.base_url, timeout=SHORT_TIMEOUT)
    for fault, expected in ((faults.Status(503), Reason.SERVER_ERROR), (faults.Hang(), Reason.TIMEOUT)):
        client.read()
        api_sandbox.set_fault(faults.CloseReusedConnection(), ref=REF)
        api_sandbox.set_fault(fault)
        client.fail(expected)
        api_sandbox.clear_faults()


def test_the_fresh_connection_gets_no_time_of_its_own(new_client: NewClient) -> None:
    async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await server.read_head(reader)
        if server.connections == 1:
            writer.write(OK)
            await server.read_head(reader)
            # Now the reused connection is closed unanswered.
        await asyncio.sleep(0.35)
        if server.connections == 2:
            writer.write(OK)

    with RawServer(script) as server:
        client = new_client(server.url, timeout=0.5)
        client.read()
        client.fail(Reason.TIMEOUT)
        assert server.connections == 2


# The look-up of names


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
    client = new_client("https://api.example", timeout=SHORTEST_TIMEOUT)
    with ThreadPoolExecutor(16) as executor:
        failing = [executor.submit(client.fail, Reason.TIMEOUT) for _ in range(16)]
        for each in failing:
            each.result()
    client.fail(Reason.TIMEOUT)
    assert resolver_threads() == 1
    assert resolver.calls == 1


def test_fresh_connections_for_closed_ones_share_a_resolver_that_hangs(
    api_sandbox: Sandbox, new_client: NewClient, use_resolver: Callable[[FakeResolver], None]
) -> None:
    client = new_client(api_sandbox.base_url, timeout=0.6)
    prime(client, api_sandbox, 5)
    api_sandbox.set_fault(faults.CloseReusedConnection())
    use_resolver(FakeResolver())
    with ThreadPoolExecutor(5) as executor:
        failing = [executor.submit(client.fail, Reason.TIMEOUT) for _ in range(5)]
        for each in failing:
            each.result()
    assert resolver_threads() == 1


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


def test_a_look_up_that_could_not_start_does_not_stand_in_the_way_of_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more_threads(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    resolver = Resolver()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_more_threads)
        with pytest.raises(RuntimeError):
            resolver.resolve("127.0.0.1", 80, 30.0)
    assert resolver.resolve("127.0.0.1", 80, 30.0)[0][4] == ("127.0.0.1", 80)


@pytest.fixture
def closed_address() -> tuple[str, int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address: tuple[str, int] = listener.getsockname()
    return address


@pytest.fixture
def silent_address(nothing_is_left: None) -> Iterator[tuple[str, int]]:  # noqa: ARG001  It ends last.
    """Give an address that answers no connect: the backlog of its listener is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)  # noqa: FBT003  It has no keyword.
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


def test_a_dead_address_leaves_time_for_the_next(
    api_sandbox: Sandbox,
    new_client: NewClient,
    use_resolver: Callable[[FakeResolver], None],
    closed_address: tuple[str, int],
    silent_address: tuple[str, int],
) -> None:
    port = int(api_sandbox.base_url.rpartition(":")[2])
    unknown_family = (9999, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))
    for dead in (closed_address, silent_address, unknown_family):
        resolver = FakeResolver(dead, ("127.0.0.1", port))
        resolver.open.set()
        use_resolver(resolver)
        assert new_client(f"http://localhost:{port}", timeout=0.6).read().total_records == 7


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
    new_client("http://localhost:1", timeout=SHORTEST_TIMEOUT).fail(Reason.TIMEOUT)
    for resolver in (closed, none):
        use_resolver(resolver)
        new_client("http://localhost:1").fail(Reason.CONNECTION)


def test_a_name_that_takes_long_leaves_less_for_the_answer(
    api_sandbox: Sandbox, new_client: NewClient, use_resolver: Callable[[FakeResolver], None]
) -> None:
    port = int(api_sandbox.base_url.rpartition(":")[2])
    api_sandbox.set_fault(faults.Delay(0.35))
    resolver = FakeResolver(("127.0.0.1", port))
    use_resolver(resolver)
    opening = threading.Timer(0.35, resolver.open.set)
    opening.start()
    new_client(f"http://localhost:{port}", timeout=0.5).fail(Reason.TIMEOUT)
    opening.join()


def test_ipv6_addresses_can_be_used(new_client: NewClient) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, host="::1") as sandbox:
        sandbox.put_batch(REF, status="success")
        client = new_client(sandbox.base_url)
        assert client.read().ref == REF
        client.close()


def test_secrets_are_found_by_the_check_for_them() -> None:
    for secret in (API_TOKEN, ascii(API_TOKEN), BASIC_AUTH, PRESIGNED_URL, PROXY_AUTH):
        with pytest.raises(AssertionError):
            assert_no_secret(f"an error with {secret} in it")


def test_an_answer_in_the_pool_is_not_taken_for_the_next(new_client: NewClient) -> None:
    with answering(OK + OK.replace(b"processing", b"corrupted"), OK) as server:
        client = new_client(server.url)
        client.read()
        assert client.read().status == "processing"


@pytest.mark.parametrize(
    "length", [1, 12, len("HTTP/1.1 200 OK\r\n"), 25, OK.index(b"\r\n\r\n") + 2, OK.index(b"\r\n\r\n") + 3]
)
def test_an_answer_that_is_cut_in_its_headers_is_a_failed_connection(new_client: NewClient, length: int) -> None:
    with answering(OK[:length]) as server:
        assert f"{new_client(server.url).fail(Reason.CONNECTION)}" == "RemoteDisconnected"
