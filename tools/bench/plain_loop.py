"""What a person would write in an afternoon: a loop with requests, and gauges with labels.

It is measured beside the exporter, so nothing here is clever on purpose: one request after the other, each over a
connection of its own, for finished batches as for others. Only the certificate is given to it, as the sandbox needs.
"""

from collections.abc import Sequence

import requests
from prometheus_client import CollectorRegistry, Gauge

STATUSES = ("uploading", "file_uploaded", "processing", "success", "corrupted", "error")


class PlainLoop:
    """The afternoon's program."""

    def __init__(self, base_url: str, auth: tuple[str, str], ca_file: str, refs: Sequence[str]) -> None:
        self._base_url = base_url
        self._auth = auth
        self._ca_file = ca_file
        self._refs = refs
        registry = CollectorRegistry()
        self._status = Gauge("batch_status", "Status of the batch", ["ref", "status"], registry=registry)
        self._total = Gauge("batch_total_records", "Records", ["ref"], registry=registry)
        self._succeeded = Gauge("batch_succeeded_records", "Records that succeeded", ["ref"], registry=registry)
        self._failed = Gauge("batch_failed_records", "Records that failed", ["ref"], registry=registry)

    def run_once(self) -> None:
        """Ask for all batches; the program does so in an endless loop."""
        for ref in self._refs:
            response = requests.get(
                f"{self._base_url}/v2/batches/inspect/{ref}", auth=self._auth, verify=self._ca_file, timeout=10
            )
            response.raise_for_status()
            batch = response.json()
            for status in STATUSES:
                self._status.labels(ref, status).set(batch["status"]["code"] == status)
            stats = batch.get("summaryStats", {})
            self._total.labels(ref).set(stats.get("totalCount", 0))
            self._succeeded.labels(ref).set(stats.get("succeededCount", 0))
            self._failed.labels(ref).set(stats.get("failedCount", 0))
