"""The TLS settings towards the Batch API."""

import ssl

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from sitecore_cdp_exporter.config.model import TlsConfig


def client_context(tls: TlsConfig) -> ssl.SSLContext:
    """Return the context for connections to the API and to its proxy.

    Not ssl.create_default_context: it writes the keys of all connections to SSLKEYLOGFILE, and since Python 3.13 it
    rejects authorities that curl, Prometheus and older Pythons accept.

    Raises:
        OSError: A file cannot be read, or OpenSSL rejects it.
        ValueError: A file is no certificate or key.

    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # As in curl and Prometheus, whatever certificate is named is trusted, an intermediate one included.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # Named here because OpenSSL would look into SSL_CERT_FILE and SSL_CERT_DIR for one.
    context.load_verify_locations(tls.ca_file or DEFAULT_CA_BUNDLE_PATH)
    if tls.cert_file is not None:
        # Without a password OpenSSL would ask for that of an encrypted key on the terminal, and wait.
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context
