"""What the alert rules cost Prometheus: processor time of one evaluation of all of them.

    python -m tools.bench.rules [NUMBER OF BATCHES [RULES FILE ...]]

The real Prometheus scrapes what an exporter shows, from a server that only sends it, and evaluates the rules every
other second. Between two scrapes it does nothing else, so its processor time there, by the evaluations, is the figure.
Some batches are failed in a feed with `next_success_resolves`, so that every clause has something to do.

By default the rules are the shipped ones. Several files are measured in turns, so that a busy machine slows all of
them alike.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import requests
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sitecore_cdp_exporter.api.batch import Batch, BatchStatus
from sitecore_cdp_exporter.api.error_log import ErrorLog, RecordCause
from sitecore_cdp_exporter.api.errors import Reason
from sitecore_cdp_exporter.config.model import FeedConfig
from sitecore_cdp_exporter.metrics.collector import Families
from sitecore_cdp_exporter.metrics.families import batch_families, poll_families
from sitecore_cdp_exporter.poll.cause import FailureCause
from sitecore_cdp_exporter.poll.due import Due
from sitecore_cdp_exporter.poll.open_failure import FailureKind, OpenFailure
from sitecore_cdp_exporter.poll.reading import Reading
from sitecore_cdp_exporter.poll.snapshot import BatchState, FeedState, Snapshot
from sitecore_cdp_exporter.watch.watchlist import Watched
from tools.bench.upstream import ref
from tools.exporter_program import ROOT
from tools.program import running, wait_for, wait_until_ready
from tools.prometheus_server import PrometheusServer

BATCHES = 5000
FAILED_SHARE = 0.05
HOUR = 3600.0
# The group of the alerts; the processor time of the other, of two rules, is nothing beside its own.
GROUP = ";sitecore-cdp"
SHIPPED_RULES = ROOT / "prometheus" / "alerts.yml"
# Prometheus spreads first scrapes over this time, and looks back five minutes.
SCRAPE_INTERVAL = 40
EVALUATION_INTERVAL = 2
SECONDS_MEASURED = 24.0
# The first evaluations create the recorded series and the alerts.
SECONDS_TO_SETTLE = 8.0


@dataclass
class Exporter:
    """A server that sends what an exporter would show."""

    body: bytes = b""
    address: str = ""
    scrapes: int = 0


@contextmanager
def serving() -> Iterator[Exporter]:
    exporter = Exporter()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(exporter.body)))
            self.end_headers()
            self.wfile.write(exporter.body)
            exporter.scrapes += 1

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    exporter.address = f"127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield exporter
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def state(number: int, now: float, *, failed: bool) -> BatchState:
    """Return a finished batch; one in ten of the failed ones was not read as gzip."""
    batch = Batch(
        ref=ref(number),
        status=BatchStatus.ERROR if failed else BatchStatus.SUCCESS,
        error_log_available=failed,
        total_records=100_000,
        succeeded_records=90_000 if failed else 100_000,
        failed_records=10_000 if failed else 0,
        time_to_process_seconds=614.867,
        size_bytes=3456,
        created=now - 10 * HOUR - number,
        modified=now - 9 * HOUR - number,
        upload_expiry=now - 9 * HOUR - number,
    )
    shown = BatchState(
        watched=Watched(batch.ref, f"feed-{number % 5}", {"team": "crm"}),
        reading=Reading(batch, now),
        accepted=not failed,
    )
    if not failed:
        return shown
    return replace(
        shown,
        superseded=False,
        open_failure=OpenFailure(FailureKind.REJECTED, 0.1 if number % 3 else 0.01),
        cause=FailureCause.RECORDS_REJECTED,
        error_log=ErrorLog({RecordCause.VALIDATION: 9_000, RecordCause.IDENTITY_MISSING: 1_000}),
    )


def shown(batches: int, failed: int, *, restarted: bool = False, down: bool = False) -> bytes:
    """Return what an exporter shows, maybe in an outage, or after a restart in one."""
    now = time.time()
    states = [state(number, now, failed=number < failed) for number in range(batches)]
    if restarted:
        states = [BatchState(watched=each.watched, failure=Reason.SERVER_ERROR) for each in states]
    feeds = tuple(
        FeedState(
            feed=FeedConfig(name=f"feed-{number}", expect_success_every=24 * HOUR),
            last_accepted=0.0 if restarted else now - 9 * HOUR,
            due=None if restarted else Due(finished=now + HOUR, accepted=now + HOUR),
        )
        for number in range(5)
    )
    snapshot = Snapshot(
        batches=tuple(states),
        api_up=not (down or restarted),
        api_failure=Reason.SERVER_ERROR if down or restarted else None,
        api_last_success=None if restarted else now,
        poll_duration=1.0,
        feeds=feeds,
        complete_poll=None if restarted else now,
    )
    return generate_latest(Families(batch_families(snapshot), poll_families(snapshot)))


def own(server: PrometheusServer, metric: str) -> float:
    """Return a metric of Prometheus itself, of the measured group if each group of rules has its own."""
    families = text_string_to_metric_families(requests.get(f"{server.url}/metrics", timeout=60).text)
    samples = [sample for family in families for sample in family.samples if sample.name == metric]
    return sum(each.value for each in samples if each.labels.get("rule_group", GROUP).endswith(GROUP))


def processor_seconds(server: PrometheusServer, exporter: Exporter) -> float:
    """Return the processor time of one evaluation, measured right after the next scrape."""
    scrapes = exporter.scrapes
    wait_for("a scrape", lambda: exporter.scrapes > scrapes, programs=server.programs)
    time.sleep(SECONDS_TO_SETTLE)
    iterations = "prometheus_rule_group_iterations"
    metrics = ("process_cpu_seconds_total", f"{iterations}_total", f"{iterations}_missed_total")
    first = [own(server, metric) for metric in metrics]
    time.sleep(SECONDS_MEASURED)
    spent, due, missed = (own(server, metric) - start for metric, start in zip(metrics, first, strict=True))
    return spent / (due - missed)


def config(exporter: Exporter, rules: Path) -> str:
    return yaml.safe_dump(
        {
            "global": {"scrape_interval": f"{SCRAPE_INTERVAL}s", "evaluation_interval": f"{EVALUATION_INTERVAL}s"},
            "rule_files": [f"{rules.resolve()}"],
            "scrape_configs": [{"job_name": "sitecore-cdp", "static_configs": [{"targets": [exporter.address]}]}],
        }
    )


def measure(batches: int, failed: int, rules: Path) -> Iterator[tuple[str, float]]:
    """Yield what was measured: while all is well, in an outage, and after a restart in it."""
    with tempfile.TemporaryDirectory() as name, serving() as exporter:
        directory = Path(name)
        exporter.body = shown(batches, failed)
        (directory / "prometheus.yml").write_text(config(exporter, rules), encoding="utf-8")
        # Without a path, Debian's Prometheus reads and extends what it finds in /var/lib/prometheus.
        options = ["--storage.tsdb.path=data", "--web.listen-address=127.0.0.1:0"]
        with running(
            ["prometheus", "--config.file=prometheus.yml", *options],
            log=directory / "prometheus.log",
            directory=directory,
        ) as program:
            server = PrometheusServer(wait_until_ready(program), [program])
            yield "the API answers", processor_seconds(server, exporter)
            exporter.body = shown(batches, failed, down=True)
            yield "an outage", processor_seconds(server, exporter)
            exporter.body = shown(batches, failed, restarted=True)
            yield "an outage, after a restart of the exporter", processor_seconds(server, exporter)


def main(arguments: list[str]) -> None:
    """Print the figures as a table."""
    batches = int(arguments[0]) if arguments else BATCHES
    files = list(map(Path, arguments[1:])) or [SHIPPED_RULES]
    print("| rules | batches | failed | while | processor time of an evaluation |\n|---|---:|---:|---|---:|")
    for failed in (round(batches * FAILED_SHARE), batches):
        for rules in files:
            for what, seconds in measure(batches, failed, rules):
                print(f"| {rules.name} | {batches:,} | {failed:,} | {what} | {seconds:.2f} s |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
