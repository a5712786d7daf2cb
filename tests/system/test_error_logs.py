"""Error logs, read by the real program from the storage of the sandbox."""

import asyncio
import json
import threading
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from sitecore_cdp_exporter.config.model import ApiConfig, BasicAuth, Config, WatchedBatch
from sitecore_cdp_exporter.service import Service
from tests.conditions import wait_until
from tests.exporter_program import API_TOKEN, CLIENT_KEY, running_exporter
from tools.raw_server import RawServer
from tools.sandbox import Sandbox

FAILED, EMPTY, SUCCEEDED = (f"5a0c2f0e-6d0b-4c51-9d3c-00000000000{number}" for number in range(3))
LOG = "sitecore_cdp_batch_error_log"


def put_batches(sandbox: Sandbox) -> None:
    sandbox.put_batch(FAILED, status="error", total=800, succeeded=776, failed=24, log=True)
    # Its log is an empty file, which is none.
    sandbox.put_batch(EMPTY, status="error", total=800, succeeded=800, failed=0, log=True)
    sandbox.put_batch(SUCCEEDED, status="success", total=1, succeeded=1, failed=0)


def test_a_failed_batch_names_its_causes(tmp_path: Path) -> None:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        put_batches(sandbox)
        with running_exporter(sandbox, tmp_path, batches=[FAILED, EMPTY, SUCCEEDED]) as exporter:
            wait_until(lambda: len(exporter.scrape().get(f"{LOG}_read", {})) == 2, pause=0.05)
            samples = exporter.scrape()
    shown = {
        (name, *(value for label, value in labels if label != "ref"), dict(labels)["ref"]): value
        for name, values in samples.items()
        if name.startswith((LOG, "sitecore_cdp_batch_failure_cause")) and not name.endswith("_available")
        for labels, value in values.items()
    }
    assert shown == {
        ("sitecore_cdp_batch_failure_cause", "records_rejected", FAILED): 1,
        ("sitecore_cdp_batch_failure_cause", "records_rejected", EMPTY): 1,
        (f"{LOG}_records", "unparsable_line", FAILED): 24,
        (f"{LOG}_read", FAILED): 1,
        (f"{LOG}_read", EMPTY): 0,
        (f"{LOG}_read_failure", "bad_response", EMPTY): 1,
        (f"{LOG}_truncated", FAILED): 0,
    }
    # Without the credentials, which the storage of the sandbox refuses as S3 does.
    assert [request.path for request in sandbox.requests if request.path.startswith("/storage/")]


def test_switched_off_nothing_but_the_api_is_asked(tmp_path: Path) -> None:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        put_batches(sandbox)
        with running_exporter(
            sandbox, tmp_path, batches=[FAILED], recheck_finished="0s", error_logs={"enabled": False}
        ) as exporter:
            for _ in range(5):
                samples = exporter.scrape()
    assert f"{LOG}_available" in samples
    assert not [name for name in samples if name.startswith(LOG) and not name.endswith("_available")]
    assert {request.path for request in sandbox.requests} == {f"/v2/batches/inspect/{FAILED}"}


class ApiWithSilentStorage(RawServer):
    """Answers for any batch that it failed, and never for its log."""

    def __init__(self) -> None:
        self.logs_asked = 0

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while True:
                head = await self.read_head(reader)
                if " /log.gz " in head:
                    self.logs_asked += 1
                    await reader.read()
                    return
                body = json.dumps({"status": {"code": "error", "log": f"{self.url}/log.gz"}})
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

        super().__init__(script)


@pytest.mark.parametrize("reloads", [False, True])
def test_a_reading_ends_with_the_service_or_its_config(*, reloads: bool) -> None:
    with ApiWithSilentStorage() as server:
        config = Config(
            api=ApiConfig.model_validate(
                {
                    "base_url": server.url,
                    "basic_auth": BasicAuth.model_validate({"username": "key", "password": "token"}),
                }
            ),
            batches=(WatchedBatch(ref=FAILED),),
        )
        service = Service(config, CollectorRegistry())
        (state,) = service.poller.poll(time.monotonic() + 60).batches
        assert state.reading is not None
        wait_until(lambda: server.logs_asked == 1)
        (child,) = service._api._error_logs._children
        if reloads:
            service._apply(config.model_copy(update={"recheck_finished": 5.0}))
            wait_until(lambda: child.returncode is not None)
            # It is read again, by the new config: after a scrape, once its thread knows that the child has ended.
            wait_until(lambda: [service.poller.poll(time.monotonic() + 60)] and server.logs_asked == 2, pause=0.05)
        service.poller.stop()
        service.close()
        wait_until(lambda: child.returncode is not None)
        wait_until(lambda: not [thread for thread in threading.enumerate() if thread.name == "error-log"])
