"""json_exporter of the Prometheus community, which makes metrics of any JSON: one probe for each batch."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import requests
import yaml

from tools.bench.upstream import Upstream
from tools.exporter_program import API_TOKEN, CLIENT_KEY
from tools.program import answers_ok, running, wait_for


class JsonExporter:
    """A running json_exporter that is probed as Prometheus does it: each batch is a target of its own."""

    def __init__(self, url: str, upstream: Upstream, concurrency: int) -> None:
        self._url = url
        self._targets = [f"{upstream.base_url}/v2/batches/inspect/{ref}" for ref in upstream.refs]
        self._threads = ThreadPoolExecutor(concurrency)
        self._of_thread = threading.local()

    def probe_all(self) -> None:
        """Probe all batches once."""
        for _ in self._threads.map(self._probe, self._targets):
            pass

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _probe(self, target: str) -> None:
        session = getattr(self._of_thread, "session", None)
        if session is None:
            session = self._of_thread.session = requests.Session()
        response = session.get(f"{self._url}/probe", params={"module": "batch", "target": target}, timeout=60)
        response.raise_for_status()
        if "batch_status" not in response.text:
            raise RuntimeError("json_exporter has read no status")


@contextmanager
def running_json_exporter(
    program: Path, upstream: Upstream, directory: Path, *, concurrency: int
) -> Iterator[JsonExporter]:
    metrics = [
        {"name": "batch_status", "type": "object", "path": "{ .status }", "values": {"seen": "1"},
         "labels": {"status": "{ .code }"}},
        *(
            {"name": f"batch_{name}_records", "path": f"{{ .summaryStats.{name}Count }}"}
            for name in ("total", "succeeded", "failed")
        ),
    ]  # fmt: skip
    settings = {
        "basic_auth": {"username": CLIENT_KEY, "password": API_TOKEN},
        "tls_config": {"ca_file": str(upstream.ca_file)},
    }
    config = directory / "json_exporter.yaml"
    config.write_text(
        yaml.safe_dump({"modules": {"batch": {"metrics": metrics, "http_client_config": settings}}}), encoding="utf-8"
    )
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(program), f"--config.file={config}", f"--web.listen-address={address}"]
    with running(command, log=directory / "json_exporter.log") as process:
        wait_for("json_exporter", lambda: answers_ok(f"http://{address}/metrics"), programs=[process])
        exporter = JsonExporter(f"http://{address}", upstream, concurrency)
        try:
            yield exporter
        finally:
            exporter.close()
