"""TLS of the exporter's own server, with real clients: who is let in, rotation, and clients that mean no good."""

import logging
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
import requests
import trustme

from sitecore_cdp_exporter.config.files import ReadFiles
from sitecore_cdp_exporter.web import server as web_server
from tests.conditions import wait_until
from tests.web.security.web_config_server import (
    MUTUAL_TLS,
    TLS,
    Folder,
    SecureServerThread,
    replace_file,
    secure_server,
    serial_number,
    write,
)
from tests.web.test_server import faults_logged, read_all
from tests.web.web_server_thread import LARGE_ANSWER, PATIENCE, ScriptedPoller, large_snapshot

HEALTHY = b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n"
REFUSED = (requests.ConnectionError, ssl.SSLError, ConnectionError)
LOADED = "sitecore_cdp_exporter_web_config_last_reload_successful"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    folder = Folder(tmp_path)
    folder.write(MUTUAL_TLS)
    return folder


@pytest.fixture
def server(folder: Folder, nothing_is_left: None) -> Iterator[SecureServerThread]:  # noqa: ARG001  It comes first, and so it ends last.
    """A server that asks for certificates. At its end neither threads nor sockets are left."""
    with secure_server(folder) as server:
        yield server


def is_served(server: SecureServerThread, certificate: str | None = "client") -> bool:
    try:
        return server.get("/metrics", certificate=certificate).ok
    except REFUSED:
        return False


def served_certificate(server: SecureServerThread, folder: Folder) -> int:
    """Return the serial number of the certificate that a new connection gets."""
    with server.shake_hands(folder.client_context()) as connection:
        der = connection.getpeercert(binary_form=True)
    assert der is not None
    return serial_number(ssl.DER_cert_to_PEM_cert(der).encode())


def answer(connection: ssl.SSLSocket | socket.socket, request: bytes = HEALTHY) -> bytes:
    """Send a request, and return the first bytes of the answer; nothing when the connection is closed."""
    try:
        connection.sendall(request)
        return connection.recv(1000)
    except OSError:
        return b""


def strangers(folder: Folder) -> None:
    """Make certificates that the server must not trust."""
    write(trustme.CA().issue_cert("prometheus@example.com"), folder.path / "stranger")
    # The server's own authority is no authority of clients.
    write(folder.server_authority.issue_cert("prometheus@example.com"), folder.path / "neighbour")


# Who is let in


@pytest.mark.parametrize(
    ("client_auth_type", "let_in"),
    [
        ("RequireAndVerifyClientCert", {"client"}),
        ("VerifyClientCertIfGiven", {"client", None}),
    ],
)
def test_a_client_is_authenticated_by_its_certificate(
    folder: Folder, client_auth_type: str, let_in: set[str | None]
) -> None:
    folder.write(MUTUAL_TLS.replace("RequireAndVerifyClientCert", client_auth_type))
    strangers(folder)
    with secure_server(folder) as server:
        clients: list[str | None] = ["client", None, "stranger", "neighbour"]
        assert {certificate for certificate in clients if is_served(server, certificate)} == let_in


def test_without_client_auth_anybody_is_let_in(folder: Folder) -> None:
    folder.write(TLS)
    strangers(folder)
    with secure_server(folder) as server:
        assert is_served(server, None)
        assert is_served(server, "stranger")


def test_an_intermediate_in_the_client_ca_file_is_trusted_as_in_go(folder: Folder) -> None:
    """Go trusts any certificate in the file as an authority, including an intermediate without its root."""
    root = trustme.CA()
    intermediate = root.create_child_ca()
    intermediate.cert_pem.write_to_path(str(folder.path / "client_ca.crt"))
    write(intermediate.issue_cert("prometheus@example.com"), folder.path / "client")
    write(root.issue_cert("prometheus@example.com"), folder.path / "uncle")
    with secure_server(folder) as server:
        assert is_served(server)
        assert not is_served(server, "uncle")


@pytest.mark.parametrize(
    ("settings", "versions"),
    [
        ("", {"TLSv1.2", "TLSv1.3"}),
        ("  min_version: TLS13\n", {"TLSv1.3"}),
        ("  max_version: TLS12\n", {"TLSv1.2"}),
        ("  prefer_server_cipher_suites: false\n", {"TLSv1.2", "TLSv1.3"}),
    ],
)
def test_the_versions_are_those_of_the_file(folder: Folder, settings: str, versions: set[str]) -> None:
    folder.write(TLS + settings)
    spoken = set()
    with secure_server(folder) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = folder.client_context()
            context.minimum_version = context.maximum_version = version
            with suppress(*REFUSED), server.shake_hands(context) as connection:
                assert answer(connection).startswith(b"HTTP/1.1 200")
                spoken.add(connection.version())
    assert spoken == versions


@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_openssl_as_a_client(server: SecureServerThread, folder: Folder, version: str) -> None:
    def openssl(*options: str) -> subprocess.CompletedProcess[str]:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", f"-{version}", "-quiet"]
        trust = ["-CAfile", str(folder.path / "server_ca.crt"), "-verify_return_error", "-verify_ip", "127.0.0.1"]
        request = HEALTHY.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n").decode()
        return subprocess.run(
            [*command, *trust, *options], input=request, capture_output=True, text=True, timeout=PATIENCE, check=False
        )

    certificate, key = folder.client_certificate()
    assert openssl("-cert", certificate, "-key", key).stdout.endswith("The exporter is healthy.\n")
    assert openssl().stdout == ""


def test_http_2_is_not_chosen_by_a_client_that_offers_it(server: SecureServerThread, folder: Folder) -> None:
    context = folder.client_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    with server.shake_hands(context) as connection:
        assert connection.selected_alpn_protocol() == "http/1.1"
        assert answer(connection).startswith(b"HTTP/1.1 200")


def test_the_health_listener_stays_plain(server: SecureServerThread) -> None:
    response = requests.get(f"http://127.0.0.1:{server.health_port}/-/ready", timeout=PATIENCE)
    assert response.status_code == 200


def test_certificate_and_key_in_the_file_serve(folder: Folder) -> None:
    text = "tls_server_config:\n"
    for key, name in (("cert", "server.crt"), ("key", "server.key")):
        pem = (folder.path / name).read_text(encoding="ascii").replace("\n", "\n    ")
        text += f"  {key}: |\n    {pem}\n"
    folder.write(text)
    with secure_server(folder) as server:
        assert is_served(server)


# What goes over it


def test_a_request_sent_right_after_the_handshake_is_answered(server: SecureServerThread, folder: Folder) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = folder.client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with server.connect() as connection:
        for _ in range(10):
            try:
                client.do_handshake()
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(100_000))
            else:
                break
        # The last message of the handshake, the request and a second one go out as one packet.
        client.write(HEALTHY + HEALTHY.replace(b"healthy", b"ready"))
        connection.sendall(outgoing.read())
        received = b""
        while b"ready.\n" not in received:
            incoming.write(connection.recv(100_000))
            with suppress(ssl.SSLWantReadError):
                while piece := client.read(100_000):
                    received += piece
    assert re.findall(rb"The exporter is (\w+)\.", received) == [b"healthy", b"ready"]


def test_a_large_answer_arrives_whole(folder: Folder) -> None:
    with secure_server(folder, ScriptedPoller(large_snapshot())) as server:
        assert len(server.get("/metrics", headers={"Accept-Encoding": "identity"}).content) > LARGE_ANSWER


def test_a_client_that_is_slow_to_read_its_last_answer_gets_all_of_it(folder: Folder) -> None:
    request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with (
        secure_server(folder, ScriptedPoller(large_snapshot())) as server,
        server.open(request, receive_buffer=65536) as slow,
    ):
        beginning = slow.recv(1)
        [transport] = server._server._connections[0]._open.values()
        wait_until(transport.is_closing)
        # Most of the time that a connection may be idle goes by, and the loop does what is due.
        server.run_in_loop(lambda: setattr(server._loop, "time", lambda: time.monotonic() + 50))
        assert is_served(server)
        assert len(beginning + read_all(slow)) > LARGE_ANSWER


# Rotation


def test_a_new_certificate_is_served_without_a_restart(server: SecureServerThread, folder: Folder) -> None:
    with server.shake_hands(folder.client_context()) as kept:
        assert answer(kept).startswith(b"HTTP/1.1 200")
        before = served_certificate(server, folder)
        renewed = folder.renew_server()
        assert before != renewed
        assert served_certificate(server, folder) == renewed
        # A connection that is open stays open.
        assert answer(kept).startswith(b"HTTP/1.1 200")
    assert server.registry.get_sample_value(LOADED) == 1


def test_the_server_looks_at_its_files_by_itself(server: SecureServerThread, folder: Folder) -> None:
    folder.served = None
    renewed = folder.renew_server()
    wait_until(lambda: served_certificate(server, folder) == renewed, pause=0.1)


def test_a_hanging_disk_delays_neither_handshakes_nor_answers(
    server: SecureServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging, go_on = threading.Event(), threading.Event()

    def hang(_: ReadFiles) -> bool:
        hanging.set()
        go_on.wait()
        return False

    monkeypatch.setattr(ReadFiles, "changed", hang)
    try:
        assert hanging.wait(PATIENCE)
        assert is_served(server)
        assert server.get("/-/healthy").ok
    finally:
        monkeypatch.undo()
        go_on.set()


def test_another_authority_of_the_clients_counts_for_new_connections(
    server: SecureServerThread, folder: Folder
) -> None:
    for suffix in (".crt", ".key"):
        (folder.path / f"former{suffix}").write_bytes((folder.path / f"client{suffix}").read_bytes())
    assert is_served(server, "former")
    folder.renew_clients()
    assert is_served(server, "client")
    assert not is_served(server, "former")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def test_a_session_cannot_be_resumed_once_the_authority_is_removed(
    server: SecureServerThread, folder: Folder, version: ssl.TLSVersion
) -> None:
    former = folder.client_context()
    former.minimum_version = former.maximum_version = version
    with server.shake_hands(former) as connection:
        assert answer(connection).startswith(b"HTTP/1.1 200")
        session = connection.session
    with server.shake_hands(former, session) as connection:
        assert answer(connection).startswith(b"HTTP/1.1 200")
        assert connection.session_reused
    folder.renew_clients()
    received = b""
    # In TLS 1.3 the client learns after the handshake that it is refused.
    with suppress(ssl.SSLError), server.shake_hands(former, session) as connection:
        received = answer(connection)
    assert received == b""


def test_settings_become_stricter_without_a_restart(folder: Folder) -> None:
    folder.write(MUTUAL_TLS.replace("RequireAndVerifyClientCert", "VerifyClientCertIfGiven"))
    with secure_server(folder) as server:
        assert is_served(server, None)
        folder.write(MUTUAL_TLS)
        assert not is_served(server, None)
        assert is_served(server)


def test_files_that_kubernetes_swaps_by_a_link_are_seen(folder: Folder) -> None:
    old, new = folder.path / "old", folder.path / "new"
    for directory in (old, new):
        directory.mkdir()
        write(folder.server_authority.issue_cert("localhost", "127.0.0.1"), directory / "server")
    link = folder.path / "data"
    link.symlink_to("old")
    folder.write(TLS.replace("server.", "data/server."))
    with secure_server(folder) as server:
        before = served_certificate(server, folder)
        (folder.path / "aside").symlink_to("new")
        (folder.path / "aside").replace(link)
        folder.changed()
        assert served_certificate(server, folder) != before


def test_a_broken_rotation_keeps_the_last_good_certificate_and_shows(
    server: SecureServerThread, folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    before = served_certificate(server, folder)
    certificate, key = (folder.path / name for name in ("server.crt", "server.key"))
    good = key.read_bytes()
    replace_file(key, b"x5ecretx")
    for _ in range(3):
        folder.changed()
        assert served_certificate(server, folder) == before
        assert is_served(server)
    [message] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert "web.yml:3: tls_server_config.key_file: holds no private key" in message
    assert "x5ecretx" not in caplog.text
    assert server.registry.get_sample_value(LOADED) == 0
    # Half a rotation is broken, too: the key is yet to come.
    certificate.unlink()
    replace_file(key, good)
    folder.changed()
    assert served_certificate(server, folder) == before
    renewed = folder.renew_server()
    assert served_certificate(server, folder) == renewed
    assert server.registry.get_sample_value(LOADED) == 1


def test_a_file_that_was_missing_is_found_when_it_comes(server: SecureServerThread, folder: Folder) -> None:
    before = served_certificate(server, folder)
    folder.write(MUTUAL_TLS.replace("server.", "next."))
    assert served_certificate(server, folder) == before
    certificate = folder.server_authority.issue_cert("localhost", "127.0.0.1")
    write(certificate, folder.path / "next")
    folder.changed()
    assert served_certificate(server, folder) == serial_number(certificate.cert_chain_pems[0].bytes())


def test_tls_is_not_switched_off_or_on_without_a_restart(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    with secure_server(folder) as server:
        folder.write("")
        assert is_served(server)
        assert not is_served(server, None)
    with secure_server(folder) as server:
        folder.write(TLS)
        assert is_served(server)
        assert server.url.startswith("http:")
    message = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(message) == 2
    assert all("TLS cannot be switched on or off without a restart" in line for line in message)


# Strangers


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(HEALTHY, id="plain HTTP"),
        pytest.param(b"\x00" * 1000, id="zeros"),
        pytest.param(b"\x16\x03\x01\xff\xff" + b"\x00" * 100_000, id="long hello"),
        pytest.param(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", id="short hello"),
        pytest.param(b"\x15\x03\x03\x00\x02\x02\x28", id="alert"),
    ],
)
def test_what_is_not_a_handshake_is_refused_and_not_logged(
    server: SecureServerThread, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    with caplog.at_level(logging.INFO), server.connect() as connection:
        received = answer(connection, sent)
        assert b"HTTP" not in received
        read_all(connection)
        assert is_served(server)
    assert faults_logged(caplog) == []


@pytest.mark.parametrize("length", [0, 20, None], ids=["nothing", "half a hello", "hello"])
def test_silent_clients_delay_nobody(folder: Folder, monkeypatch: pytest.MonkeyPatch, length: int | None) -> None:
    monkeypatch.setattr(web_server, "HANDSHAKE_SECONDS", 1000.0)
    with ExitStack() as stack, secure_server(folder, max_connections=5) as server:
        for _ in range(10):
            stack.enter_context(server.connect(client_hello(folder)[:length]))
            served = stack.enter_context(server.shake_hands(folder.client_context()))
            assert answer(served).startswith(b"HTTP/1.1 200")
        # They must not outlive the server.
        stack.close()


def test_a_handshake_that_does_not_end_is_given_up(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "HANDSHAKE_SECONDS", 0.1)
    with secure_server(folder) as server:
        for sent in (b"", client_hello(folder)):
            with server.connect(sent) as connection:
                read_all(connection)


def test_stopping_closes_connections(folder: Folder, nothing_is_left: None) -> None:  # noqa: ARG001  It looks at the end.
    with ExitStack() as stack, secure_server(folder) as server:
        # It stays open, and its client does not say goodbye.
        assert answer(stack.enter_context(server.shake_hands(folder.client_context()))).startswith(b"HTTP/1.1 200")
        server.begin_to_stop()


def client_hello(folder: Folder) -> bytes:
    """Return the first message of a handshake."""
    outgoing = ssl.MemoryBIO()
    client = folder.client_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()
