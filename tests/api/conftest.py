"""What the tests of the client share."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.api.api_client import (
    API_TOKEN,
    CLIENT_KEY,
    REF,
)
from tests.api.certificates import Certificates
from tools.sandbox import Sandbox

ENVIRONMENT = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "NETRC", "SSLKEYLOGFILE")
PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*ENVIRONMENT, *PROXY_VARIABLES, *map(str.lower, PROXY_VARIABLES)):
        monkeypatch.delenv(name, raising=False)


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
