"""The exporter as a user runs it, and a client that scrapes it as Prometheus does."""

import http.client
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from tools.bench.upstream import Upstream
from tools.exporter_program import API_TOKEN, CLIENT_KEY, COMMAND
from tools.process import Usage, usage_of
from tools.program import Program, running

SCRAPE_TIMEOUT = 120.0
_SECONDS_BETWEEN_LOOKS = 0.002
# What Prometheus 3 asks for.
ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


class ExporterProcess:
    """A running exporter.

    Args:
        program: Its process.
        started: When it was started, of the performance counter.

    """

    def __init__(self, program: Program, started: float) -> None:
        self.started = started
        self._pid = program.process.pid
        self._connection = http.client.HTTPConnection("127.0.0.1", _port(program), timeout=2 * SCRAPE_TIMEOUT)

    def scrape(self) -> float:
        """Scrape over a connection that is kept open, and return the seconds that it took."""
        started = time.perf_counter()
        self._connection.request(
            "GET",
            "/metrics",
            headers={
                "Accept": ACCEPT,
                "Accept-Encoding": "gzip",
                "X-Prometheus-Scrape-Timeout-Seconds": f"{SCRAPE_TIMEOUT}",
            },
        )
        response = self._connection.getresponse()
        response.read()
        if response.status != http.client.OK:
            raise RuntimeError(f"the exporter answered {response.status}")
        return time.perf_counter() - started

    def usage(self) -> Usage:
        """Return the current resource usage of its process."""
        return usage_of(self._pid)

    def has_children(self) -> bool:
        """Return whether it has child processes."""
        threads = Path(f"/proc/{self._pid}/task").iterdir()
        with suppress(FileNotFoundError):
            return any((thread / "children").read_text(encoding="ascii") for thread in threads)
        return self.has_children()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _port(program: Program) -> int:
    """Wait until the exporter listens. The wait of the tests looks less often, which would be measured."""
    while program.process.poll() is None:
        if listening := re.search(r"msg=listening .*address=127\.0\.0\.1:(\d+)", program.output()):
            return int(listening[1])
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    raise RuntimeError(f"the exporter has ended:\n{program.output()}")


def write_config(upstream: Upstream, directory: Path, *, concurrency: int, discovery: bool = False) -> Path:
    """Write the config of an exporter that watches all batches, listed or by discovery."""
    api = {
        "base_url": upstream.base_url,
        "basic_auth": {"username": CLIENT_KEY, "password": API_TOKEN},
        "endpoint": "inspect",
        "concurrency": concurrency,
        "tls_config": {"ca_file": str(upstream.ca_file)},
    }
    watched = {"discovery": {"enabled": True, "max_batches": 10_000}} if discovery else {"batches": [*upstream.refs]}
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump({"api": api, **watched}), encoding="utf-8")
    return config


@contextmanager
def running_exporter(
    upstream: Upstream, directory: Path, *, concurrency: int, discovery: bool = False
) -> Iterator[ExporterProcess]:
    """Run the exporter with that config."""
    config = write_config(upstream, directory, concurrency=concurrency, discovery=discovery)
    command = [*COMMAND, f"--config.file={config}", "--web.listen-address=127.0.0.1:0"]
    started = time.perf_counter()
    with running(command, log=directory / "exporter.log") as program:
        exporter = ExporterProcess(program, started)
        try:
            yield exporter
        finally:
            exporter.close()
