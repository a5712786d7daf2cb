"""Certificates for loopback."""

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from sitecore_cdp_exporter.config.model import TlsConfig


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

    def without_key_identifier(self, issuer: trustme.CA) -> ssl.SSLContext:
        """Return the context of a server whose certificate does not name its issuer's key: old tools make such."""
        key = ec.generate_private_key(ec.SECP256R1())
        issuer_key = load_pem_private_key(issuer.private_key_pem.bytes(), None)
        assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
        authority = x509.load_pem_x509_certificate(issuer.cert_pem.bytes())
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
            .issuer_name(authority.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
            .sign(issuer_key, hashes.SHA256())
        )
        pem = certificate.public_bytes(Encoding.PEM)
        pem += key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.write("server.pem", pem))
        return context
