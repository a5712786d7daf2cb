"""The real Alertmanager on a loopback port of its own, and servers that receive what it sends."""

import json
import os
import shutil
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from tools.program import MAX_WAIT, Program, running, wait_until_ready

# As in compose.yaml. It has no days.
RETENTION = "240h"
ANNOTATIONS = {
    "summary": "A summary.",
    "description": "A description.",
    "runbook_url": "https://runbook.example/#anchor",
}


def program(*names: str, package: str = "prometheus-alertmanager") -> str:
    """Return the first of these programs that the PATH has: without any, the test skips, and in CI it fails."""
    for name in names:
        if path := shutil.which(name):
            return path
    message = f"{' or '.join(names)} not found on the PATH; Debian has it in its package `{package}`"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@dataclass(frozen=True)
class Alertmanager:
    """An Alertmanager that is ready."""

    url: str
    program: Program

    def post(self, *alerts: Mapping[str, str], annotations: Mapping[str, str] = ANNOTATIONS, **times: str) -> None:
        """Send alerts with these labels, as Prometheus does. `times` are startsAt and endsAt."""
        body = [{"labels": labels, "annotations": annotations, **times} for labels in alerts]
        response = requests.post(
            f"{self.url}/api/v2/alerts",
            data=json.dumps(body),
            headers={"Content-Type": "application/json"},
            timeout=MAX_WAIT,
        )
        assert response.ok, response.text

    def alerts(self) -> list[dict[str, Any]]:
        """Return all alerts, with labels, status.state, status.inhibitedBy, status.silencedBy and fingerprint."""
        response = requests.get(f"{self.url}/api/v2/alerts", timeout=MAX_WAIT)
        assert response.ok, response.text
        alerts: list[dict[str, Any]] = response.json()
        return alerts

    def silences(self) -> list[dict[str, Any]]:
        """Return all silences."""
        response = requests.get(f"{self.url}/api/v2/silences", timeout=MAX_WAIT)
        silences: list[dict[str, Any]] = response.json()
        return silences


@contextmanager
def running_alertmanager(config: str, directory: Path) -> Iterator[Alertmanager]:
    """Run Alertmanager with this config, and its data and log in `directory`, until the block ends."""
    path = directory / "alertmanager.yml"
    path.write_text(config, encoding="utf-8")
    command = [
        program("prometheus-alertmanager", "alertmanager"),
        f"--config.file={path}",
        f"--storage.path={directory / 'alertmanager'}",
        f"--data.retention={RETENTION}",
        "--cluster.listen-address=",
        "--web.listen-address=127.0.0.1:0",
    ]
    with running(command, log=directory / "alertmanager.log") as alertmanager:
        yield Alertmanager(wait_until_ready(alertmanager), alertmanager)


@dataclass
class Inbox:
    """A server that keeps what is posted to it, and answers as Slack and PagerDuty do."""

    url: str
    bodies: list[tuple[str, bytes]] = field(default_factory=list)

    def posted(self, path: str) -> list[bytes]:
        """Return the bodies that were posted to this path."""
        return [body for posted_to, body in self.bodies if posted_to == path]


@contextmanager
def running_inbox() -> Iterator[Inbox]:
    """Run an inbox on a free port of loopback until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            inbox.bodies.append((self.path, body))
            # PagerDuty accepts with 202, and Alertmanager takes 2xx of the others.
            self.send_response(202 if "enqueue" in self.path else 200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  The name is that of the base class.
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        inbox = Inbox(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield inbox
        finally:
            server.shutdown()
            thread.join()
