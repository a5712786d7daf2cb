"""The counters of feeds in the eyes of the real Prometheus, and the monthly report of docs/metrics.md."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, Exporter, running_exporter
from tests.markdown import blocks
from tools.prometheus_server import PrometheusServer, running_prometheus
from tools.sandbox import Sandbox

pytestmark = pytest.mark.e2e

DOCUMENT = ROOT / "docs" / "metrics.md"
FINISHED, ACCEPTED, RECORDS, SHARE, CAUSES, OF_TWO = [
    block.text for block in blocks(DOCUMENT) if (block.heading, block.language) == ("A monthly report", "promql")
]
SCRAPES_A_DAY = 288
DAYS = 30


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    """Run an exporter whose first scrape finds batches that have finished: of feeds and of none."""
    refs = [f"5a0c2f0e-6d0b-4c51-9d3c-00000000000{number}" for number in range(3)]
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(
            refs[0], status="error", total=10, succeeded=7, failed=3, log=True, created_at=datetime.now(UTC)
        )
        sandbox.put_batch(refs[1], status="success", total=5, succeeded=5, failed=0)
        sandbox.put_batch(refs[2], status="corrupted")
        batches = [{"ref": refs[0], "feed": "nightly-guests"}, {"ref": refs[1], "feed": "orders"}, refs[2]]
        feeds = [{"name": "nightly-guests", "labels": {"team": "crm"}}]
        with running_exporter(sandbox, tmp_path, batches=batches, feeds=feeds) as exporter:
            yield exporter


@pytest.fixture
def prometheus(exporter: Exporter, tmp_path: Path) -> Iterator[PrometheusServer]:
    target = exporter.url.removeprefix("http://")
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
        "scrape_configs": [{"job_name": "sitecore-cdp", "static_configs": [{"targets": [target]}]}],
    }
    path = tmp_path / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with running_prometheus(path, directory=tmp_path, scraped=exporter.program) as server:
        yield server


def test_one_batch_in_a_fresh_process_is_an_increase(prometheus: PrometheusServer) -> None:
    finished = "increase(sitecore_cdp_feed_finished_batches_total"
    [(labels, _)] = prometheus.wait_for_query(f'{finished}{{feed="nightly-guests", status="error"}}[1h]) > 0')
    assert labels["team"] == "crm"
    prometheus.wait_for_query(f'{finished}{{feed="orders", status="success"}}[1h]) > 0')
    prometheus.wait_for_query(f'{finished}{{feed="", status="corrupted"}}[1h]) > 0')
    prometheus.wait_for_query('increase(sitecore_cdp_feed_accepted_batches_total{feed="orders"}[1h]) > 0')
    prometheus.wait_for_query("increase(sitecore_cdp_feed_error_log_records_total[1h]) > 0")
    # What increases is shown as it is, and nothing else does.
    history = {"start": time.time() - 3600, "end": time.time(), "step": 1.0}
    values = {
        (labels.get("feed"), labels["status"]): {value for _, value in samples}
        for labels, samples in prometheus.query_range("sitecore_cdp_feed_finished_batches_total", **history)
    }
    assert len(values) == 9
    counted = {("nightly-guests", "error"), ("orders", "success"), (None, "corrupted")}
    assert values == {key: {0.0, 1.0} if key in counted else {0.0} for key in values}
    # The report has them by then, whatever month it is.
    reported = [{tuple(sorted(labels.items())): value for labels, value in prometheus.query(text)} for text in (
        FINISHED, ACCEPTED, RECORDS, SHARE, CAUSES, OF_TWO,
    )]  # fmt: skip
    assert all(reported)
    assert reported[3][(("feed", "nightly-guests"),)] == pytest.approx(0.3)


def counts(*values: tuple[int, float]) -> str:
    """Give samples for promtool: (value, days) after one another."""
    return " ".join(f"{value}+0x{int(days * SCRAPES_A_DAY) - 1}" for value, days in values)


def series(name: str, samples: str, instance: str = "a:10311", **labels: str) -> dict[str, str]:
    inside = ",".join(f'{key}="{value}"' for key, value in {**labels, "instance": instance}.items())
    return {"series": f"sitecore_cdp_feed_{name}_total{{{inside}}}", "values": samples}


def report(directory: Path, inputs: Sequence[dict[str, str]], promql: str, *expected: tuple[str, float]) -> None:
    """Let promtool evaluate a query after 30 days, and compare with what is expected: labels and value."""
    test = {
        "tests": [
            {
                "interval": "5m",
                "input_series": list(inputs),
                "promql_expr_test": [
                    {
                        "expr": promql,
                        "eval_time": f"{DAYS}d",
                        "exp_samples": [{"labels": labels, "value": value} for labels, value in expected],
                    }
                ],
            }
        ]
    }
    path = directory / "report_test.yml"
    path.write_text(yaml.safe_dump(test), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# A batch each day; on the eleventh day the exporter restarts.
DAILY = counts(*[(day, 1.0) for day in range(11)], *[(day, 1.0) for day in range(20)])
SINCE_THE_SECOND_WEEK = counts(*[(day, 1.0) for day in range(10)])


def test_the_report_counts_every_batch_of_the_month_whenever_the_exporter_restarted(tmp_path: Path) -> None:
    inputs = [
        series("finished_batches", DAILY, feed="guests", status="success"),
        series("finished_batches", counts((0, 31)), feed="guests", status="error"),
        series("accepted_batches", DAILY, feed="guests"),
    ]
    guests = 'feed="guests"'
    report(tmp_path, inputs, FINISHED, (f'{{{guests}, status="success"}}', 29), (f'{{{guests}, status="error"}}', 0))
    report(tmp_path, inputs, ACCEPTED, (f"{{{guests}}}", 29))


def test_the_report_goes_on_where_the_exporter_has_another_instance_after_a_restart(tmp_path: Path) -> None:
    inputs = [
        series("finished_batches", counts((0, 5), (3, 5)), "pod-1:10311", feed="guests", status="success"),
        series("finished_batches", f"_x2880 {counts((0, 5), (4, 16))}", "pod-2:10311", feed="guests", status="success"),
    ]
    report(tmp_path, inputs, FINISHED, ('{feed="guests", status="success"}', 7))


def test_the_report_has_records_their_share_and_their_causes(tmp_path: Path) -> None:
    inputs = [
        series("records", counts((0, 10), (900_000, 21)), feed="guests", result="succeeded"),
        series("records", counts((0, 10), (100_000, 21)), feed="guests", result="failed"),
        *(
            series("error_log_records", counts((0, 10), (amount, 21)), feed="guests", cause=cause)
            for cause, amount in {
                "validation": 60,
                "not_found": 30,
                "other": 9,
                "internal": 1,
                "open_session": 0,
            }.items()
        ),
    ]
    # What is documented of how exact they are.
    rounded = f"round({RECORDS}, 1000)"
    report(
        tmp_path,
        inputs,
        rounded,
        ('{feed="guests", result="succeeded"}', 900_000),
        ('{feed="guests", result="failed"}', 100_000),
    )
    report(tmp_path, inputs, f"round({SHARE}, 0.001)", ('{feed="guests"}', 0.1))
    report(
        tmp_path,
        inputs,
        CAUSES,
        ('{feed="guests", cause="validation"}', 60),
        ('{feed="guests", cause="not_found"}', 30),
        ('{feed="guests", cause="other"}', 9),
    )


def test_the_report_of_two_exporters_counts_a_batch_once(tmp_path: Path) -> None:
    inputs = [
        series("finished_batches", DAILY, feed="guests", status="success"),
        series("finished_batches", counts(*[(day, 1.0) for day in range(31)]), "b", feed="guests", status="success"),
    ]
    report(tmp_path, inputs, FINISHED, ('{feed="guests", status="success"}', 59))
    report(tmp_path, inputs, OF_TWO, ('{feed="guests", status="success"}', 30))
