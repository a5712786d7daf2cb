"""The sandbox over HTTPS, in a separate process, so that it does not compete with what is measured."""

import multiprocessing
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.managers import BaseManager
from pathlib import Path
from typing import Any

import trustme

from tools.exporter_program import API_TOKEN, CLIENT_KEY
from tools.sandbox import Sandbox, faults


def ref(number: int) -> str:
    """Return the ref of a batch by its number."""
    return f"00000000-0000-4000-8000-{number:012x}"


class _SandboxOverTls:
    """What runs in the other process."""

    def __init__(self, answer_time: float) -> None:
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        self._authority = authority.cert_pem.bytes()
        self._sandbox = Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, ssl_context=context)
        self._sandbox.start()
        if answer_time:
            self._sandbox.set_fault(faults.Delay(answer_time))

    def address(self) -> tuple[str, bytes]:
        return self._sandbox.base_url, self._authority

    def put(self, unfinished: int, finished: int) -> None:
        started = datetime.now(UTC) - timedelta(hours=12)
        for number in range(unfinished + finished):
            self._sandbox.put_batch(
                ref(number),
                status="processing" if number < unfinished else "success",
                total=121776,
                succeeded=121776,
                failed=0,
                time_to_process_millis=614867,
                created_at=started + timedelta(seconds=number),
                modified_at=started + timedelta(seconds=number + 600.77),
            )

    def take_requests(self) -> int:
        requests = len(self._sandbox.requests)
        self._sandbox.clear_requests()
        return requests


class _Manager(BaseManager):
    """Starts the other process."""


_Manager.register("SandboxOverTls", _SandboxOverTls)


@dataclass(frozen=True)
class Upstream:
    """A Batch API with this many batches. Their refs are those of `refs`, unfinished ones first."""

    base_url: str
    ca_file: Path
    refs: tuple[str, ...]
    sandbox: Any

    def take_requests(self) -> int:
        """Count the requests since the last call."""
        requests: int = self.sandbox.take_requests()
        return requests


@contextmanager
def running_upstream(
    directory: Path, *, unfinished: int = 0, finished: int = 0, answer_time: float = 0.0
) -> Iterator[Upstream]:
    with _Manager(ctx=multiprocessing.get_context("spawn")) as manager:
        sandbox = manager.SandboxOverTls(answer_time)  # type: ignore[attr-defined]
        base_url, authority = sandbox.address()
        ca_file = directory / "authority.pem"
        ca_file.write_bytes(authority)
        sandbox.put(unfinished, finished)
        yield Upstream(base_url, ca_file, tuple(map(ref, range(unfinished + finished))), sandbox)
