import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import trustme

from sitecore_cdp_exporter.config.model import TlsConfig
from tests.api.api_client import API_TOKEN, CLIENT_KEY, REF, Client, assert_no_secret
from tests.fake_api import Clock, FakeApi
from tools.sandbox import Sandbox

LONGEST_WAIT = 10.0


def open_files() -> int:
    return len(list(Path("/dev/fd").iterdir()))


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """See to it that threads and open files are back to where they were when all else of the test has ended."""
    threads = set(threading.enumerate())
    files = open_files()
    yield
    deadline = time.monotonic() + LONGEST_WAIT
    while time.monotonic() < deadline:
        if set(threading.enumerate()) <= threads and open_files() <= files:
            return
        time.sleep(0.01)
    assert set(threading.enumerate()) <= threads
    assert open_files() <= files


@pytest.fixture
def api_sandbox(nothing_is_left: None) -> Iterator[Sandbox]:  # noqa: ARG001  It comes first, and so it ends last.
    """Run a sandbox with one batch, for the credentials of `tests.api.api_client`."""
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(REF, status="processing", total=7)
        yield sandbox


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture(scope="session")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a small file of trusted authorities; to read the usual one takes most of a short test's time."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


@pytest.fixture
def new_client(
    nothing_is_left: None,  # noqa: ARG001  Likewise.
    caplog: pytest.LogCaptureFixture,
    ca_file: Path,
) -> Iterator[Callable[..., Client]]:
    """Make clients that are closed at the end; nobody logs a secret meanwhile."""
    caplog.set_level(logging.DEBUG)
    with ExitStack() as stack:

        def new(base_url: str, **settings: Any) -> Client:  # noqa: ANN401  Those of Client.
            client = Client(base_url, **{"tls_config": TlsConfig(ca_file=ca_file), **settings})
            stack.callback(client.close)
            return client

        yield new
    assert_no_secret(caplog.text)
