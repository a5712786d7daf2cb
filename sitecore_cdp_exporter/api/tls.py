"""The TLS settings towards the Batch API, and towards the storage of its error logs."""

import ssl

from requests.utils import DEFAULT_CA_BUNDLE_PATH

from sitecore_cdp_exporter.api.trust import trusting
from sitecore_cdp_exporter.config.model import TlsConfig

# The authorities that are trusted by default: those of certifi.
USUAL_CA_FILE = DEFAULT_CA_BUNDLE_PATH


def client_context(tls: TlsConfig) -> ssl.SSLContext:
    """Return the context for connections to the API and to its proxy.

    Raises:
        OSError: A file cannot be read, or OpenSSL rejects it.
        ValueError: A file is no certificate or key.

    """
    # Named here because OpenSSL would look into SSL_CERT_FILE and SSL_CERT_DIR for one.
    context = trusting([tls.ca_file or USUAL_CA_FILE])
    if tls.cert_file is not None:
        # Without a password OpenSSL would ask for that of an encrypted key on the terminal, and wait.
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def storage_ca_files(tls: TlsConfig) -> list[str]:
    """Return the files of the authorities that vouch for the storage of error logs: the usual ones, and `ca_file`."""
    return [USUAL_CA_FILE, *([] if tls.ca_file is None else [f"{tls.ca_file}"])]
