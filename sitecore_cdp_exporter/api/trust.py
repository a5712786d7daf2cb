"""Whom to trust at the other end of a connection. It loads no library, so that a child process begins at once."""

import ssl
from collections.abc import Iterable
from pathlib import Path


def trusting(ca_files: Iterable[Path | str]) -> ssl.SSLContext:
    """Return the context for connections to servers that the authorities in these files vouch for.

    Not ssl.create_default_context: it writes the keys of all connections to SSLKEYLOGFILE, and since Python 3.13 it
    rejects authorities that curl, Prometheus and older Pythons accept.

    Raises:
        OSError: A file cannot be read, or OpenSSL rejects it.

    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # As in curl and Prometheus, whatever certificate is named is trusted, an intermediate one included.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    for ca_file in ca_files:
        context.load_verify_locations(ca_file)
    context.set_alpn_protocols(["http/1.1"])
    return context
