"""The fixtures of all tests, and what holds while tests run."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import hypothesis
import prometheus_client
import pytest
import trustme

from sitecore_cdp_exporter.api import tls
from sitecore_cdp_exporter.config.model import TlsConfig
from tests.api.api_client import API_TOKEN, CLIENT_KEY, REF, Client, assert_no_secret
from tests.config_file import write_config
from tests.exporter_program import start_fork_server
from tests.fake_api import Clock, FakeApi
from tests.logging_state import logging_as_before
from tools.sandbox import Sandbox

MAX_WAIT = 60.0

# Examples take as long as they take, and nothing of this folder depends on what was found in an earlier run.
hypothesis.settings.register_profile("tests", deadline=None, database=None)
# For `make mutants`: the same examples for each mutant, and the first one that fails is enough.
hypothesis.settings.register_profile(
    "mutants",
    hypothesis.settings.get_profile("tests"),
    derandomize=True,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
hypothesis.settings.load_profile("tests")


def open_files() -> set[str]:
    """Name what this process has open: no socket or pipe has the name of an earlier one."""
    names = set()
    for descriptor in Path("/dev/fd").iterdir():
        # The folder itself was open, too.
        with suppress(FileNotFoundError):
            names.add(f"{descriptor.name} {descriptor.readlink()}")
    return names


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """Fail if threads or open files that are new since the start of the test are there after all else has ended."""
    start_fork_server()
    threads, files = set(threading.enumerate()), open_files()

    def left() -> list[object]:
        return [*set(threading.enumerate()) - threads, *open_files() - files]

    yield
    give_up = time.monotonic() + MAX_WAIT
    while (remaining := left()) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert remaining == []


@pytest.fixture
def api_sandbox(nothing_is_left: None) -> Iterator[Sandbox]:  # noqa: ARG001  It comes first, and so it ends last.
    """Run a sandbox with one batch, for the credentials of `tests.api.api_client`."""
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(REF, status="processing", total=7)
        yield sandbox


@pytest.fixture(autouse=True)
def _process_as_before() -> Iterator[None]:
    """Undo what the command changes in its process."""
    with logging_as_before():
        yield
    prometheus_client.enable_created_metrics()  # type: ignore[no-untyped-call]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A valid config whose API nobody can reach."""
    return write_config(tmp_path)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture(scope="session")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small file of trusted authorities."""
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="session")
def usual_ca_file() -> str:
    """Return the file of trusted authorities that the exporter uses by default."""
    return tls.USUAL_CA_FILE


@pytest.fixture(scope="session", autouse=True)
def _few_authorities(usual_ca_file: str, ca_file: Path) -> None:
    """Trust others by default: to read the usual ones takes most of a short test's time."""
    assert usual_ca_file != str(ca_file)
    tls.USUAL_CA_FILE = str(ca_file)


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
