"""Starting, stopping, TLS."""

import gzip
import ssl
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
import trustme

from tests.conditions import wait_until
from tests.sandbox.client import API_TOKEN, CLIENT_KEY, RECORD, REF, Client, lines, raw_connection, raw_request
from tools.sandbox import Sandbox, faults


def test_tls_is_served_and_urls_start_with_https(tmp_path: Path, session: requests.Session) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    session.verify = str(ca_file)
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, ssl_context=context, speed=1000) as sandbox:
        assert sandbox.base_url.startswith("https://127.0.0.1:")
        client = Client(sandbox, session)
        client.upload(gzip.compress(lines(b"bad")))
        log_url = client.wait_until_final()["status"]["log"]
        assert log_url.startswith(sandbox.base_url)
        assert session.get(log_url, timeout=60).status_code == 200
        sandbox.set_fault(faults.CutBody(), times=1)
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            client.show()


@pytest.mark.usefixtures("nothing_is_left")
def test_stopping_at_any_time_leaves_no_thread_and_no_open_file() -> None:
    def run() -> None:
        with (
            Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, speed=1000) as sandbox,
            requests.Session() as session,
        ):
            session.trust_env = False
            client = Client(sandbox, session)
            client.upload(gzip.compress(lines(RECORD)))
            client.wait_until_final()
            sandbox.set_fault(faults.DripBody(interval=60), ref="drip")
            sandbox.set_fault(faults.Hang())
            connections = [raw_connection(sandbox) for _ in range(4)]
            connections[0].sendall(raw_request("/v2/batches/hang"))
            connections[1].sendall(raw_request("/v2/batches/drip"))
            connections[2].sendall(b"GET /v2/bat")
            wait_until(lambda: sandbox.concurrent_requests == 2)
            wait_until(lambda: sandbox.open_connections == 5)
            sandbox.stop()
            assert connections[0].recv(1) == b""
            for connection in connections:
                connection.close()
        assert sandbox.open_connections == 0

    for _ in range(3):
        run()


def test_stopping_gives_up_an_import(session: requests.Session) -> None:
    sandbox = Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN)
    sandbox.start()
    client = Client(sandbox, session)
    content = gzip.compress(lines(RECORD) * 500_000, compresslevel=1)
    client.upload(content)
    sandbox.stop()
    batch = sandbox._batches.get(REF)
    assert batch is not None
    assert [state.status for state in batch.states] == ["uploading", "file_uploaded", "processing"]
    sandbox.stop()


def test_a_port_in_use_is_an_error_and_leaves_no_thread(sandbox: Sandbox) -> None:
    threads = set(threading.enumerate())
    with pytest.raises(OSError, match="address already in use"):
        Sandbox(port=urlsplit(sandbox.base_url).port or 0).start()
    assert set(threading.enumerate()) <= threads


def test_the_sandbox_listens_on_loopback_only(sandbox: Sandbox) -> None:
    assert [address[0] for address in sandbox._runner.addresses] == ["127.0.0.1"]


def test_ipv6_is_served_and_the_urls_say_so(session: requests.Session) -> None:
    try:
        sandbox = Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, host="::1")
        sandbox.start()
    except OSError:
        pytest.skip("This machine has no IPv6 loopback.")
    try:
        assert sandbox.base_url.startswith("http://[::1]:")
        body = Client(sandbox, session).allocate(b"content").json()
        assert body["href"].startswith(sandbox.base_url)
    finally:
        sandbox.stop()
