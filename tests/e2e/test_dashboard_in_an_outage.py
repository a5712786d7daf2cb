"""What the dashboard shows while the API fails, and of what happens while it is looked at.

It has servers of its own: what fails or finishes stays in graphs for minutes.
"""

import time

import pytest

from grafana.colors import NOT_READ
from grafana.evaluation import Prometheus, TimeRange, evaluate, fill_in, variable_values
from grafana.expressions import FAILURES, KNOWN_FOR, UNKNOWN
from tests.dashboards import BATCHES, named
from tests.e2e.test_dashboard import (
    DISCOVERED,
    EXPIRED,
    PROCESSING,
    QUEUED,
    STUCK,
    TABLE,
    Evaluation,
    api,
    evaluation_now,
    evaluation_of,
    exporters,
    new_ref,
    prometheus,
)
from tools.prometheus_server import PrometheusServer
from tools.sandbox import Sandbox, faults

pytestmark = pytest.mark.e2e

__all__ = ["api", "exporters", "prometheus"]  # Fixtures, which pytest finds by name.

ORDERED = new_ref(1, prefix="7c2e4b10")


def test_while_the_api_fails_nothing_vanishes_and_nothing_looks_healthy(
    api: Sandbox, prometheus: PrometheusServer
) -> None:
    api.set_fault(faults.Status(500))
    try:
        prometheus.wait_for_query('max(sitecore_cdp_up{job=~"discovering|listing"}) == 0')
        prometheus.wait_for_query("max(sitecore_cdp_discovery_success) == 0")
        found = evaluation_now(prometheus, job=["discovering"])
        tiles = found.tiles()
        assert tiles["Batch API"] == 0
        assert found.results["stat 12", "B"].series[0]["metric"] == {"reason": "server_error"}
        assert found.tiles(63)["Discovery"] == 0
        status = found.rows(TABLE, "status", "ref")
        assert status.keys() - {ORDERED} == DISCOVERED
        assert {ref for ref, code in status.items() if code == NOT_READ} == {STUCK, PROCESSING, QUEUED, EXPIRED}
        assert tiles["Not read"] == 4
        why = found.why()
        assert {why[ref] for ref in (STUCK, PROCESSING, QUEUED)} == {"server_error"}
        [listing] = found.results["Failing polls by reason", "B"].series
        assert listing["metric"] == {"reason": "server_error"}
        # Later nobody knows any more what is stuck, or how the feeds are. What is known to have failed stays.
        later = evaluation_of(BATCHES, prometheus, {"job": ["discovering"]}, after=KNOWN_FOR + 20)
        unknown = later.tiles()
        assert (unknown["Stuck"], unknown["Under way"], unknown["Overdue feeds"]) == (UNKNOWN, UNKNOWN, UNKNOWN)
        assert (unknown["Failed"], unknown["Not read"]) == (tiles["Failed"], 4)
    finally:
        api.clear_faults()


def test_what_finishes_is_counted_and_marked(api: Sandbox, prometheus: PrometheusServer) -> None:
    before = time.time()
    for status, counts in (("processing", {}), ("error", {"total": 320, "succeeded": 300, "failed": 20, "log": True})):
        api.put_batch(ORDERED, status=status, time_to_process_millis=7000, **counts)  # type: ignore[arg-type]
        wait = f'sitecore_cdp_batch_status{{ref="{ORDERED}",status="{status}"}} == 1'
        prometheus.wait_for_query(wait)
        # A later scrape: what changes between the first two is no growth.
        moment = time.time()
        prometheus.wait_for_query(f"timestamp({wait[:-5]}) > {moment}")
    query = 'sum(sitecore_cdp_feed_error_log_records_total{feed="orders",cause="unparsable_line"})'
    prometheus.wait_for_query(f"{query} == 20")
    try:
        times = TimeRange(end=time.time() + 5, length=60, interval=5, scrape_interval=2)
        chosen = {"job": ["discovering"], "feed": ["orders"]}
        results = evaluate(BATCHES, Prometheus(prometheus.url), times, chosen)
        found = Evaluation({(named(result.panel), result.name): result for result in results})

        def total(panel: str) -> dict[str, float]:
            series = found.results[panel, "A"].series
            return {next(iter(s["metric"].values())): sum(float(value) for _, value in s["values"]) for s in series}

        assert total("Finished batches by status") == {"error": 1}
        assert total("Rejected records by cause") == {"unparsable_line": 20}
        assert total("Records by feed") == {"orders": 320}
        assert found.rows("How the feeds did", "time", "feed") == {"orders": 7}
        values = variable_values(BATCHES, Prometheus(prometheus.url), times, chosen) | times.built_in_variables
        [mark] = Prometheus(prometheus.url).query(fill_in(FAILURES, values), time.time())
        assert mark["metric"] == {"feed": "orders", "ref": ORDERED}
        assert before - 1 <= float(mark["value"][1]) / 1000 <= time.time()
    finally:
        api.remove_batch(ORDERED)
