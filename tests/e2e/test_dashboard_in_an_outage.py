"""What the dashboard shows while the API fails. It has servers of its own: what fails stays in graphs for minutes."""

import pytest

from grafana.expressions import NOT_READ
from tests.e2e.test_dashboard import (
    DISCOVERED,
    EXPIRED,
    PROCESSING,
    QUEUED,
    STUCK,
    api,
    evaluation_now,
    exporters,
    prometheus,
)
from tools.prometheus_server import PrometheusServer
from tools.sandbox import Sandbox, faults

pytestmark = pytest.mark.e2e

__all__ = ["api", "exporters", "prometheus"]  # Fixtures, which pytest finds by name.


def test_while_the_api_fails_nothing_vanishes_and_nothing_looks_healthy(
    api: Sandbox, prometheus: PrometheusServer
) -> None:
    api.set_fault(faults.Status(500))
    try:
        prometheus.wait_for_query('max(sitecore_cdp_up{job=~"discovering|listing"}) == 0')
        prometheus.wait_for_query("max(sitecore_cdp_discovery_success) == 0")
        found = evaluation_now(prometheus, job=["discovering"])
        assert found.number("Batch API") == 0
        assert found.number("Discovery") == 0
        assert found.number("Not read") == 4
        status = found.rows("Batches", "status", "ref")
        assert status.keys() == DISCOVERED
        assert {ref for ref, code in status.items() if code == NOT_READ} == {STUCK, PROCESSING, QUEUED, EXPIRED}
        reasons = {each["metric"]["reason"] for each in found.results["Batches", "why"].series}
        assert reasons == {"server_error"}
        [listing] = found.results["Failing polls by reason", "B"].series
        assert listing["metric"] == {"reason": "server_error"}
    finally:
        api.clear_faults()
