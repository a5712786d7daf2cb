"""The exporter as a user runs it: a process with a config file, against a sandbox."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from tools.program import Program, running, wait_for, wait_for_address
from tools.sandbox import Sandbox

ROOT = Path(__file__).parent.parent
CLIENT_KEY = "test-client-key"
API_TOKEN = "test-api-token"  # noqa: S105  Of a sandbox.

COMMAND = (sys.executable, str(ROOT / "exporter.py"))
ANY_PORT = "127.0.0.1:0"

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
        if not response.ok:
            raise AssertionError(f"{response.status_code}: {response.text}")
        samples: dict[str, dict[LabelSet, float]] = {}
        for family in text_string_to_metric_families(response.text):
            for sample in family.samples:
                samples.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return samples


class Start(Protocol):
    """Starts the exporter with these flags, and ends it with the block. The arguments are those of `running`."""

    def __call__(
        self, flags: Sequence[str], *, log: Path, own_session: bool, environment: Mapping[str, str] | None
    ) -> AbstractContextManager[Program]:
        """Do so."""


def started(
    flags: Sequence[str], *, log: Path, own_session: bool = False, environment: Mapping[str, str] | None = None
) -> AbstractContextManager[Program]:
    """Start it as a user does."""
    return running([*COMMAND, *flags], log=log, own_session=own_session, environment=environment)


@contextmanager
def running_exporter(
    sandbox: Sandbox,
    directory: Path,
    *,
    batches: Sequence[object] = (),
    api: Mapping[str, object] | None = None,
    flags: Sequence[str] = (),
    start: Start = started,
    **sections: object,
) -> Iterator[Exporter]:
    """Write a config and run the exporter with it until the end of the block. `sections` are those of the config."""
    settings = {
        "base_url": sandbox.base_url,
        "basic_auth": {"username": CLIENT_KEY, "password": API_TOKEN},
        "endpoint": "inspect",
        **(api or {}),
    }
    config = directory / "config.yaml"
    config.write_text(yaml.safe_dump({"api": settings, "batches": list(batches), **sections}), encoding="utf-8")
    with running_with_config(config, flags=flags, start=start) as exporter:
        yield exporter


@contextmanager
def running_with_config(
    config: Path,
    *,
    address: str = ANY_PORT,
    flags: Sequence[str] = (),
    own_session: bool = False,
    start: Start = started,
) -> Iterator[Exporter]:
    """Run the exporter with a config that is there, until the end of the block. Its log is beside the config."""
    all_flags = [f"--config.file={config}", f"--web.listen-address={address}", *flags]
    log = config.parent / "exporter.log"
    with start(all_flags, log=log, own_session=own_session, environment=None) as program:
        yield wait_until_listening(program)


def wait_until_listening(program: Program) -> Exporter:
    """Wait until a program that is the exporter logs where it listens."""
    return Exporter(program, f"http://{wait_for_address(program)}")


@contextmanager
def running_demo(
    directory: Path,
    *,
    flags: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    start: Start = started,
) -> Iterator[tuple[Exporter, str]]:
    """Run `--demo` with its log in `directory`; yield it and the URL of its sandbox.

    `environment` is that of `running`.
    """
    all_flags = ["--demo", f"--web.listen-address={ANY_PORT}", *flags]
    with start(all_flags, log=directory / "demo.log", own_session=False, environment=environment) as program:
        urls = wait_for(
            "the demo to say where it is",
            lambda: re.search(r"(https?://\S+)/ .*\n.*\n +(http://\S+)  the sandbox", program.output()),
            programs=[program],
        )
        yield Exporter(program, urls[1]), urls[2]
