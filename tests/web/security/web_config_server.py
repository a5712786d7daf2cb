"""A WebServer with a web config, and the certificates of both sides, in one folder."""

import shutil
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import trustme
from prometheus_client import CollectorRegistry
from requests.adapters import HTTPAdapter

from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.web.security.file import WebConfigFile, WebSecurity
from tests.web.web_server_thread import PATIENCE, ScriptedPoller, WebServerThread
from tools.exporter_program import ROOT

EXAMPLES = ROOT / "docs" / "examples"
USER, PASSWORD = "prometheus", "change-me"
# bcrypt of PASSWORD at the least cost, for tests that are not about the examples.
HASH = "$2b$04$5BX2rrXvZTM9hmoB9AHVw.tSJrlAw/k2LR3ABKnoyTJsHyI7L6pTC"
TLS = "tls_server_config:\n  cert_file: server.crt\n  key_file: server.key\n"
MUTUAL_TLS = f"{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: client_ca.crt\n"
USERS = f"basic_auth_users:\n  {USER}: {HASH}\n"


def current(web_config: WebConfigFile) -> WebSecurity:
    """Return the settings in the files, or those loaded last if the files are invalid."""
    web_config.reloader.reload_if_changed()
    return web_config.last


class Folder:
    """A folder with the files that docs/examples name: certificates, keys, a password, and `web.yml`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.served: WebConfigFile | None = None
        self.web_config = path / "web.yml"
        self.renew_all()
        (path / "password").write_text(PASSWORD, encoding="utf-8")

    def changed(self) -> None:
        """Have the server look at the files now, instead of within a second."""
        if self.served is not None:
            self.served.reloader.reload_if_changed()

    def write(self, text: str) -> Path:
        replace_file(self.web_config, text.encode())
        self.changed()
        return self.web_config

    def use_example(self, name: str) -> Path:
        return Path(shutil.copy(EXAMPLES / name, self.web_config))

    def renew_all(self) -> None:
        """Give both sides another authority, and certificates of it."""
        self.server_authority = trustme.CA()
        self.server_authority.cert_pem.write_to_path(str(self.path / "server_ca.crt"))
        self.renew_server()
        self.renew_clients()

    def renew_server(self) -> int:
        """Give the server another certificate, and return its serial number."""
        certificate = self.server_authority.issue_cert("localhost", "127.0.0.1")
        write(certificate, self.path / "server")
        self.changed()
        return serial_number(certificate.cert_chain_pems[0].bytes())

    def renew_clients(self) -> None:
        """Give the clients another authority, and a certificate of it."""
        self.client_authority = trustme.CA()
        self.client_authority.cert_pem.write_to_path(str(self.path / "client_ca.crt"))
        write(self.client_authority.issue_cert("prometheus@example.com"), self.path / "client")
        self.changed()

    def client_certificate(self, copy: str = "client") -> tuple[str, str]:
        return str(self.path / f"{copy}.crt"), str(self.path / f"{copy}.key")

    def client_context(self, *, with_certificate: bool = True) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.path / "server_ca.crt"))
        if with_certificate:
            context.load_cert_chain(*self.client_certificate())
        return context


def write(certificate: trustme.LeafCert, stem: Path) -> None:
    replace_file(stem.with_suffix(".key"), certificate.private_key_pem.bytes())
    replace_file(stem.with_suffix(".crt"), certificate.cert_chain_pems[0].bytes())


def replace_file(path: Path, content: bytes) -> None:
    """Write a file in one step: the server looks by itself, and must not see half of it."""
    aside = path.with_name(f"{path.name}.new")
    aside.write_bytes(content)
    aside.replace(path)


def serial_number(pem: bytes) -> int:
    """Return the serial number of a certificate."""
    from cryptography import x509  # noqa: PLC0415  trustme brings it along; nothing else here needs it.

    return x509.load_pem_x509_certificate(pem).serial_number


class SecureServerThread(WebServerThread):
    """Serves with the web config of a folder."""

    def __init__(self, folder: Folder, poller: Poller | None = None, **settings: Any) -> None:  # noqa: ANN401  As there.
        super().__init__(poller or ScriptedPoller(), **settings)
        self.registry = CollectorRegistry()
        self.web_config = WebConfigFile(folder.web_config)
        # What a server without a web config is made of, and the web config.
        arguments: Any = (*self._arguments[:2], self.registry, self._arguments[3], self.web_config)
        self._arguments = arguments
        self._folder = folder
        folder.served = self.web_config

    @property
    def url(self) -> str:
        return f"{'https' if self.web_config.has_tls else 'http'}://127.0.0.1:{self.port}"

    def get(self, path: str, *, certificate: str | None = "client", **options: Any) -> requests.Response:  # noqa: ANN401  As there.
        """Get a path over a connection of its own, with a client certificate of the folder if there is TLS."""
        return self.request("GET", path, certificate=certificate, **options)

    def request(
        self,
        method: str,
        path: str,
        *,
        certificate: str | None = "client",
        source: str = "127.0.0.1",
        **options: Any,  # noqa: ANN401  As there.
    ) -> requests.Response:
        """Likewise with any method, and from any address of loopback."""
        url = self.url
        if self.web_config.has_tls:
            options["verify"] = str(self._folder.path / "server_ca.crt")
            options["cert"] = certificate and self._folder.client_certificate(certificate)
        with requests.Session() as session:
            session.trust_env = False
            session.mount(url, _From(source))
            return session.request(method, url + path, timeout=PATIENCE, **options)

    def open(self, sent: bytes, *, receive_buffer: int | None = None) -> socket.socket:
        """Open a connection as the web config wants it, and send some bytes."""
        if not self.web_config.has_tls:
            return self.connect(sent, receive_buffer=receive_buffer)
        connection = self.shake_hands(self._folder.client_context(), receive_buffer=receive_buffer)
        connection.sendall(sent)
        return connection

    def shake_hands(
        self, context: ssl.SSLContext, session: ssl.SSLSession | None = None, *, receive_buffer: int | None = None
    ) -> ssl.SSLSocket:
        """Open a TLS connection."""
        connection = self.connect(receive_buffer=receive_buffer)
        try:
            return context.wrap_socket(connection, server_hostname="localhost", session=session)
        except BaseException:
            connection.close()
            raise


class _From(HTTPAdapter):
    """Connects from an address of loopback."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401  As there.
        super().init_poolmanager(*arguments, source_address=(self._address, 0), **options)


@contextmanager
def secure_server(folder: Folder, poller: Poller | None = None, **settings: Any) -> Iterator[SecureServerThread]:  # noqa: ANN401  As there.
    server = SecureServerThread(folder, poller, **settings)
    try:
        with server:
            yield server
    finally:
        server.web_config.close()
