"""The exporter as a user runs it: a process with a config file, against a sandbox."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from sitecore_cdp_exporter.sandbox import Sandbox
from tests.e2e.program import Program, running, wait_for

ROOT = Path(__file__).parent.parent
CLIENT_KEY = "test-client-key"
API_TOKEN = "test-api-token"

LabelSet = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Exporter:
    """A running exporter and where it listens."""

    program: Program
    url: str

    def scrape(self, *, path: str = "/metrics", timeout: float = 60.0) -> dict[str, dict[LabelSet, float]]:
        """Scrape as Prometheus would, and return the values by metric name and labels."""
        headers = {"X-Prometheus-Scrape-Timeout-Seconds": f"{timeout}"}
        response = requests.get(f"{self.url}{path}", headers=headers, timeout=60)
        assert response.status_code == 200, response.text
        samples: dict[str, dict[LabelSet, float]] = {}
        for family in text_string_to_metric_families(response.text):
            for sample in family.samples:
                samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return samples


@contextmanager
def running_exporter(
    sandbox: Sandbox,
    directory: Path,
    *,
    batches: Sequence[object] = (),
    api: Mapping[str, object] | None = None,
    flags: Sequence[str] = (),
    **sections: object,
) -> Iterator[Exporter]:
    """Run the exporter on a free port of loopback until the end of the block. `sections` are those of the config."""
    settings = {
        "base_url": sandbox.base_url,
        "basic_auth": {"username": CLIENT_KEY, "password": API_TOKEN},
        "endpoint": "inspect",
        **(api or {}),
    }
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump({"api": settings, "batches": list(batches), **sections}), encoding="utf-8")
    command = [
        sys.executable,
        str(ROOT / "exporter.py"),
        f"--config.file={config}",
        "--web.listen-address=127.0.0.1:0",
        *flags,
    ]
    with running(command, log=directory / "exporter.log") as program:
        listening = wait_for(
            "the exporter to listen",
            lambda: re.search(r"msg=listening .*address=(\S+)", program.output()),
            programs=[program],
        )
        yield Exporter(program, f"http://{listening.group(1)}")
