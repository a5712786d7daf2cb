import re
import signal
import sys
import time
from pathlib import Path

import requests
from prometheus_client import CollectorRegistry

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.demo import WATCHED_BATCHES, demo_config, demo_sandbox, demo_uploads
from sitecore_cdp_exporter.service import Service
from tests.conditions import wait_until
from tests.web.web_server_thread import PATIENCE
from tools.exporter_program import ROOT
from tools.program import running

FEEDS = {"nightly-guests", "orders-hourly", "web-events", "loyalty-updates", "product-catalog"}


def test_the_demo_needs_nothing_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "exporter.py"), "--demo", "--web.listen-address=127.0.0.1:0"]
    with running(command, log=tmp_path / "log") as demo:
        wait_until(lambda: "Ctrl-C" in demo.output() or demo.process.poll() is not None)
        page, metrics, sandbox = re.findall(r"^ +(http://127\.0\.0\.1:\d+\S*) ", demo.output(), re.MULTILINE)
        assert "sandbox" in demo.output()
        wait_until(lambda: 'sitecore_cdp_batch_status{feed="' in requests.get(metrics, timeout=PATIENCE).text)
        assert "sitecore_cdp_up 1.0" in requests.get(metrics, timeout=PATIENCE).text
        assert "uploading" in requests.get(page, timeout=PATIENCE).text
        assert requests.get(f"{sandbox}/v2/batches/x", timeout=PATIENCE).status_code == 401
        demo.process.send_signal(signal.SIGINT)
        assert demo.process.wait(PATIENCE) == 0
        assert "Traceback" not in demo.output()


def test_the_demo_shows_every_status_and_again() -> None:
    speed = 150.0
    everything = set(BatchStatus) - {BatchStatus.UNKNOWN}
    with demo_sandbox(speed=speed) as sandbox:
        service = Service(demo_config(sandbox), CollectorRegistry())
        poller = service.poller

        def look() -> set[tuple[str, str | None, BatchStatus]]:
            """Tell what the demo's own polls have found."""
            states = () if poller.latest is None else poller.latest.batches
            assert len(states) <= WATCHED_BATCHES
            read = [(state.watched, state.reading.batch) for state in states if state.reading is not None]
            return {(watched.ref, watched.feed, batch.status) for watched, batch in read}

        def see_everything(known: set[str]) -> set[tuple[str, str | None, BatchStatus]]:
            seen: set[tuple[str, str | None, BatchStatus]] = set()
            while not {status for ref, _, status in seen if ref not in known} >= everything:
                seen |= look()
                time.sleep(0.005)
            return seen

        with demo_uploads(sandbox, poller, speed=speed):
            first = see_everything(set())
            # A second time, with other batches.
            second = see_everything({ref for ref, _, _ in first})
        poller.stop()
        service.close()
    assert {feed for _, feed, _ in first | second} == FEEDS
