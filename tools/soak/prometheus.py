"""The Prometheus of a soak: they scrape the exporter, and what they have stored is read back."""

import time
from bisect import insort
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from tools import prometheus_server
from tools.exporter_program import Exporter
from tools.soak.comparison import Life, Scrape, Stored
from tools.soak.uploads import COUNTS

SCRAPE_INTERVAL = 1.0
REQUEST_TIMEOUT = 30.0
# Prometheus moves the moment of a scrape by up to two milliseconds, so that it can store it better, in seconds.
ROUNDING = 0.005
# How much of the time is asked for at once, so that no answer gets large, in seconds.
CHUNK = 60.0


class Prometheus:
    """A real Prometheus that scrapes the exporter every second into a storage of its own."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._url = url

    def value(self, promql: str) -> float:
        """Return the value of a query that gives at most one series; 0 without any."""
        result = self._query(promql, time.time())
        return float(result[0]["value"][1]) if result else 0.0

    def stored(self, start: float, end: float) -> Stored:
        """Read back all that was stored, sample by sample. The moments are Unix seconds."""
        statuses: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
        for labels, samples in self._samples("sitecore_cdp_batch_status", start, end):
            for moment, value in samples:
                if value == 1:
                    insort(statuses[labels["ref"], labels["status"]], moment)
        counts = {
            (labels["ref"], name): samples[-1][1]
            for name in (f"sitecore_cdp_batch_{count}" for count in COUNTS)
            for labels, samples in self._samples(name, start, end)
        }
        return Stored(statuses, counts, self._scrapes(start, end))

    def failed_scrapes(self, start: float, end: float) -> list[float]:
        """Return when a scrape failed."""
        return [moment for _, samples in self._samples("up", start, end) for moment, value in samples if value != 1]

    def reasons(self, life: Life) -> list[str]:
        """Return the reasons reported during a life for which the batch could not be read."""
        duration = f"{(life.until - life.since) * 1000:.0f}ms"
        failures = self._query(f'sitecore_cdp_batch_poll_failure{{ref="{life.ref}"}}[{duration}]', life.until)
        return sorted({series["metric"]["reason"] for series in failures})

    def _scrapes(self, start: float, end: float) -> list[Scrape]:
        polls = {
            moment: value
            for _, samples in self._samples("sitecore_cdp_exporter_poll_duration_seconds", start, end)
            for moment, value in samples
        }
        late = {
            moment
            for name in ("sitecore_cdp_batch_poll_failure", "sitecore_cdp_discovery_failure")
            for _, samples in self._samples(f'{name}{{reason="deadline"}}', start, end)
            for moment, _ in samples
        }
        durations = self._samples("scrape_duration_seconds", start, end)
        return sorted(
            (
                # A poll that is shared was under way when the scrape began. Without an answer there is nothing old.
                Scrape(moment - polls.get(moment, 0.0) - ROUNDING, moment, moment + value + ROUNDING, moment in late)
                for _, samples in durations
                for moment, value in samples
            ),
            key=lambda scrape: scrape.began,
        )

    def _samples(
        self, selector: str, start: float, end: float
    ) -> Iterator[tuple[dict[str, str], list[tuple[float, float]]]]:
        """Read the samples as they were stored, in ascending order; a series comes once for each minute."""
        while start < end:
            # A range of a query includes its end, and its start, too.
            last = min(start + CHUNK, end)
            for series in self._query(f"{selector}[{(last - start) * 1000 - 1:.0f}ms]", last):
                yield series["metric"], [(moment, float(value)) for moment, value in series["values"]]
            start = last

    def _query(self, promql: str, moment: float) -> list[dict[str, Any]]:
        answer = requests.get(
            f"{self._url}/api/v1/query", params={"query": promql, "time": f"{moment:.3f}"}, timeout=REQUEST_TIMEOUT
        )
        answer.raise_for_status()
        result: list[dict[str, Any]] = answer.json()["data"]["result"]
        return result


@contextmanager
def running_prometheus(name: str, exporter: Exporter, directory: Path) -> Iterator[Prometheus]:
    """Run a Prometheus until the end of the block, with its storage and log in a new folder of this name."""
    directory = directory / name
    directory.mkdir()
    config = directory / "prometheus.yml"
    target = exporter.url.removeprefix("http://")
    document = {
        # The moment of a scrape within its interval follows from the external labels, so each has its own.
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "external_labels": {"replica": name}},
        "scrape_configs": [{"job_name": "sitecore-cdp", "static_configs": [{"targets": [target]}]}],
    }
    config.write_text(yaml.safe_dump(document), encoding="utf-8")
    # In a session of its own, so that Ctrl-C ends the soak early and not Prometheus.
    with prometheus_server.running_prometheus(
        config, directory=directory, scraped=exporter.program, own_session=True
    ) as server:
        yield Prometheus(name, server.url)
