"""A BatchApi under test, with the credentials that it must keep to itself."""

import base64
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from sitecore_cdp_exporter.api.batch import Batch
from sitecore_cdp_exporter.api.client import BatchApi
from sitecore_cdp_exporter.api.credentials import Credentials
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.api.wire import Wire
from sitecore_cdp_exporter.config.model import ApiConfig
from sitecore_cdp_exporter.metrics.definitions import RequestMetrics
from tests.conditions import wait_until
from tools.sandbox import Sandbox, faults

REF = "12af3453-62da-4b31-b646-631b7b5f3009"
# Beyond Latin-1, because requests encodes credentials as Latin-1 by default.
CLIENT_KEY = "schlüssel-клиент"
API_TOKEN = "tökén-секрет"
PROXY_USER = "proxy-nützer"
PROXY_PASSWORD = "proxy-пароль"
PRESIGNED_URL = "https://bucket.example/upload?X-Amz-Signature=presigned-5ecret"

BASIC_AUTH = base64.b64encode(f"{CLIENT_KEY}:{API_TOKEN}".encode()).decode()
PROXY_AUTH = base64.b64encode(f"{PROXY_USER}:{PROXY_PASSWORD}".encode()).decode()
SECRETS = (CLIENT_KEY, API_TOKEN, PROXY_USER, PROXY_PASSWORD, BASIC_AUTH, PROXY_AUTH, "bucket.example", "5ecret")


def assert_no_secret(text: str) -> None:
    assert [secret for secret in SECRETS if secret in text or ascii(secret)[1:-1] in text] == []


def count_received(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return how many bytes all connections have received from now on."""
    counts: list[int] = []
    receive = Wire.readinto

    def counting(wire: Wire, buffer: memoryview) -> int:
        counts.append(receive(wire, buffer))
        return counts[-1]

    monkeypatch.setattr(Wire, "readinto", counting)
    return lambda: sum(counts)


class Client:
    """Reads batches of one API; every failure is looked through for secrets."""

    def __init__(
        self,
        base_url: str,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        **settings: Any,  # noqa: ANN401  Of `api`.
    ) -> None:
        self.registry = CollectorRegistry()
        config = ApiConfig(base_url=base_url, **{"timeout": 30.0, **settings})
        self.api = BatchApi(config, RequestMetrics(self.registry).observe, environ=environ or {}, clock=clock)
        self._endpoint: str = config.endpoint

    def read(self, ref: str = REF) -> Batch:
        return self.api.read_batch(ref, Credentials(CLIENT_KEY, API_TOKEN)).batch

    def fail(self, expected: Reason, ref: str = REF) -> PollError:
        """Read a batch, which fails for exactly this reason."""
        with pytest.raises(PollError) as caught:
            self.read(ref)
        error = caught.value
        assert error.reason is expected, f"{error!r}"
        assert_no_secret("".join([str(error), repr(error), *traceback.format_exception(error)]))
        # What an error came from would hold the request, with its credentials, for as long as the error is kept.
        assert error.__cause__ is None
        assert error.__context__ is None
        return error

    def requests(self) -> dict[str, float]:
        """Return the number of requests for each code."""
        return {
            sample.labels["code"]: sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == "sitecore_cdp_api_requests_total" and sample.labels["endpoint"] == self._endpoint
        }

    def durations(self) -> tuple[float, float]:
        """Return the number of timed requests, and the sum of their seconds."""
        name, labels = "sitecore_cdp_api_request_duration_seconds", {"endpoint": self._endpoint}
        count = self.registry.get_sample_value(f"{name}_count", labels)
        total = self.registry.get_sample_value(f"{name}_sum", labels)
        return count or 0.0, total or 0.0

    def close(self) -> None:
        self.api.close()
        assert_no_secret(generate_latest(self.registry).decode())


def prime(client: Client, sandbox: Sandbox, count: int) -> None:
    """Have this many connections open and idle."""
    sandbox.set_fault(faults.Hang())
    with ThreadPoolExecutor(count) as executor:
        reading = [executor.submit(client.read) for _ in range(count)]
        wait_until(lambda: len(sandbox.requests) == count)
        sandbox.clear_faults()
        for each in reading:
            each.result()
    assert len({request.peer_port for request in sandbox.requests}) == count
