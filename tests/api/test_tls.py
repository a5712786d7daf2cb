"""TLS towards the API."""

import ssl
from collections.abc import Callable
from pathlib import Path

import certifi
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from sitecore_cdp_exporter.api import tls
from sitecore_cdp_exporter.api.errors import Reason
from sitecore_cdp_exporter.api.tls import client_context
from sitecore_cdp_exporter.config.model import TlsConfig
from tests.api.api_client import (
    PRESIGNED_URL,
    Client,
)
from tests.api.certificates import Certificates
from tools.raw_server import RawServer, flooding
from tools.sandbox import Sandbox, faults

NewClient = Callable[..., Client]

# For requests that are never answered.
MIN_TIMEOUT = 0.15
BODY = b'{"status": {"code": "processing"}}'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


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
def test_insecure_skip_verify_trusts_any_server_without_a_warning(
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


def test_unusable_tls_files_are_a_tls_error(
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
        assert f"{client.fail(Reason.TLS)}".startswith("the files of api.tls_config cannot be used: ")
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
        new_client(url, tls_config=certificates.trusted(), timeout=MIN_TIMEOUT).fail(Reason.TIMEOUT)


def test_a_server_that_drips_over_tls_is_a_timeout(
    tls_sandbox: Sandbox, new_client: NewClient, certificates: Certificates
) -> None:
    client = new_client(tls_sandbox.base_url, tls_config=certificates.trusted(), timeout=MIN_TIMEOUT)
    for fault in (faults.DripHeaders(0.01), faults.DripBody(0.01)):
        tls_sandbox.set_fault(fault)
        client.fail(Reason.TIMEOUT)


def test_the_authorities_of_certifi_are_trusted_by_default(usual_ca_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usual_ca_file == certifi.where()
    monkeypatch.setattr(tls, "USUAL_CA_FILE", usual_ca_file)
    trusted = tls.client_context(TlsConfig()).get_ca_certs(binary_form=True)
    listed = ssl.create_default_context(cafile=usual_ca_file).get_ca_certs(binary_form=True)
    assert len(listed) > 100
    assert trusted == listed
    assert tls.storage_ca_files(TlsConfig()) == [usual_ca_file]


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_ca_bundle_variables_are_ignored(
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


def test_the_keys_of_connections_are_never_written_to_a_file(
    tls_sandbox: Sandbox,
    new_client: NewClient,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    for file in (tmp_path / "keys.log", tmp_path / "no such folder" / "keys.log"):
        monkeypatch.setenv("SSLKEYLOGFILE", str(file))
        assert new_client(tls_sandbox.base_url, tls_config=certificates.trusted()).read().total_records == 7
        assert not file.exists()


def test_an_authority_is_trusted_the_same_in_every_python(
    new_tls_sandbox: Callable[[ssl.SSLContext], Sandbox], new_client: NewClient, certificates: Certificates
) -> None:
    """Python 3.13 checks strictly by default; the authorities of many companies do not pass that."""
    issuer = trustme.CA()
    sandbox = new_tls_sandbox(certificates.without_key_identifier(issuer))
    ca_file = certificates.write("company.pem", issuer.cert_pem.bytes())
    assert new_client(sandbox.base_url, tls_config=TlsConfig(ca_file=ca_file)).read().total_records == 7
    flags = client_context(TlsConfig(ca_file=ca_file)).verify_flags
    assert not flags & ssl.VERIFY_X509_STRICT
    assert flags & ssl.VERIFY_X509_PARTIAL_CHAIN


def test_an_intermediate_authority_in_the_ca_file_is_enough(
    new_tls_sandbox: Callable[[ssl.SSLContext], Sandbox], new_client: NewClient, certificates: Certificates
) -> None:
    intermediate = trustme.CA().create_child_ca()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    intermediate.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = certificates.write("intermediate.pem", intermediate.cert_pem.bytes())
    sandbox = new_tls_sandbox(context)
    assert new_client(sandbox.base_url, tls_config=TlsConfig(ca_file=ca_file)).read().total_records == 7
