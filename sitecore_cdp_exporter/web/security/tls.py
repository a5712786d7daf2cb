"""Build the server's SSLContext from tls_server_config."""

import os
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from sitecore_cdp_exporter.config.files import why_unread
from sitecore_cdp_exporter.web.security.model import TlsServerConfig

VERIFY_MODES = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}


class CurrentContext(ssl.SSLContext):
    """An SSLContext for asyncio's server that delegates each handshake to the current context.

    A plain SSLContext cannot be updated in place: authorities can be added to it, but never removed.
    """

    current: Callable[[], ssl.SSLContext]

    @classmethod
    def of(cls, current: Callable[[], ssl.SSLContext]) -> Self:
        """Return a context that calls `current` for each handshake."""
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context.current = current
        return context

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:  # noqa: ANN401  As in ssl.
        """Start a handshake with the current context."""
        return self.current().wrap_bio(*args, **kwargs)


class TlsFilesError(Exception):
    """Certificates or keys cannot be used.

    Attributes:
        problems: The message for each key of `tls_server_config`.
        missing: Whether the only problem is that files are missing.

    """

    def __init__(self, problems: dict[str, str], *, missing: bool = False) -> None:
        self.problems = problems
        self.missing = missing
        super().__init__("; ".join(f"{key}: {message}" for key, message in problems.items()))


def server_context(tls: TlsServerConfig, read: Callable[[Path], bytes]) -> ssl.SSLContext:
    """Return the context for new connections.

    Args:
        tls: The settings.
        read: Reads a file; raises OSError.

    Raises:
        TlsFilesError: A certificate or a key cannot be used.

    """
    _check_texts(tls)
    certificate, key, authority = _read_all(tls, read)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[tls.min_version]
    context.maximum_version = VERSIONS[tls.max_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    if not tls.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    context.verify_mode = VERIFY_MODES[tls.client_auth_type]
    # As in Go, any certificate in the file is trusted, even an intermediate or a self-signed one.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if authority is not None:
        _trust(context, authority, _name(tls, "client_ca"))
    elif context.verify_mode is not ssl.CERT_NONE:
        context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
    # Load the certificate alone first, to find out whether it or the key is at fault.
    _trust(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, _name(tls, "cert"))
    _load_certificate(context, tls, certificate, key)
    return context


def _check_texts(tls: TlsServerConfig) -> None:
    """Reject an inline certificate or key where ssl could only read it from a file on disk."""
    texts = [name for name in ("cert", "key") if getattr(tls, name) is not None]
    if texts and not hasattr(os, "memfd_create"):
        raise TlsFilesError({name: f"works on Linux only; use {name}_file" for name in texts})


def _name(tls: TlsServerConfig, text: str) -> str:
    """Return the config key that is set: the one for the inline PEM text, or the one for its file."""
    return text if getattr(tls, text) is not None else f"{text}_file"


def _read_all(tls: TlsServerConfig, read: Callable[[Path], bytes]) -> tuple[bytes, bytes, bytes | None]:
    """Return the PEM texts of the certificate, the key and the clients' authority."""
    texts = {
        "cert": tls.cert,
        "key": None if tls.key is None else tls.key.get_secret_value(),
        "client_ca": tls.client_ca,
    }
    contents: dict[str, bytes | None] = {}
    problems: dict[str, str] = {}
    absent: list[bool] = []
    for name, text in texts.items():
        file: Path | None = getattr(tls, f"{name}_file")
        contents[name] = None if text is None else text.encode()
        if file is None:
            continue
        try:
            contents[name] = read(file)
        except OSError as error:
            problems[f"{name}_file"] = f"{why_unread(error)} ({file})"
            absent.append(isinstance(error, FileNotFoundError))
    if problems:
        raise TlsFilesError(problems, missing=all(absent))
    certificate, key = contents["cert"], contents["key"]
    if certificate is None or key is None:
        raise AssertionError("the model requires both")
    return certificate, key, contents["client_ca"]


def _trust(context: ssl.SSLContext, pem: bytes, name: str) -> None:
    try:
        # Non-ASCII characters can only be in comments.
        context.load_verify_locations(cadata=pem.decode("ascii", "backslashreplace"))
    except (ssl.SSLError, ValueError):  # ValueError if it is empty.
        problem = "holds no certificate, or a broken one; expected PEM"
    else:
        return
    # Raised out here so that no other error is chained.
    raise TlsFilesError({name: problem})


def _load_certificate(context: ssl.SSLContext, tls: TlsServerConfig, certificate: bytes, key: bytes) -> None:
    with ExitStack() as stack:
        certificate_path = tls.cert_file or stack.enter_context(_path_of(certificate))
        key_path = tls.key_file or stack.enter_context(_path_of(key))
        reason: str | None
        try:
            # An empty password, or OpenSSL would prompt on the terminal for a key that needs one.
            context.load_cert_chain(certificate_path, key_path, password=str)
        except ssl.SSLError as error:
            reason = error.reason
        except OSError as error:
            reason = error.strerror  # It was removed after it was read.
        else:
            return
    if reason == "KEY_VALUES_MISMATCH":
        raise TlsFilesError({_name(tls, "key"): "does not belong to the certificate"})
    if reason:
        raise TlsFilesError({_name(tls, "cert"): f"is refused by OpenSSL: {reason}"})
    raise TlsFilesError({_name(tls, "key"): "holds no private key that can be read without a password; expected PEM"})


@contextmanager
def _path_of(pem: bytes) -> Iterator[str]:
    """Yield a path to a text in memory: ssl reads certificates from files only, and a key must not reach the disk."""
    with os.fdopen(os.memfd_create("pem"), "wb") as file:
        file.write(pem)
        file.flush()
        yield f"/proc/self/fd/{file.fileno()}"
