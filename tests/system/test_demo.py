import json
import re
import shlex
import signal
import time
from pathlib import Path
from random import Random

import requests
from prometheus_client import CollectorRegistry

from sitecore_cdp_exporter.api.batch import BatchStatus
from sitecore_cdp_exporter.demo import start_demo
from sitecore_cdp_exporter.sandbox.demo_upload_schedule import ROUND_TIME, Trouble, plan_round
from sitecore_cdp_exporter.sandbox.server import API_TOKEN, CLIENT_KEY
from sitecore_cdp_exporter.service import Service
from tests.conditions import wait_until
from tests.exporter_program import forked
from tests.web.web_server_thread import PATIENCE

REF = "12af3453-62da-4b31-b646-631b7b5f3009"
ALLOCATION = json.dumps({"checksum": "0" * 32, "size": 1})
FEEDS = {"nightly-guests", "orders-hourly", "web-events", "loyalty-updates", "product-catalog"}


def test_the_demo_needs_nothing_and_ends_by_ctrl_c(tmp_path: Path) -> None:
    # test_readme starts it as a user does.
    with forked(["--demo", "--web.listen-address=127.0.0.1:0"], log=tmp_path / "log") as demo:
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


def test_the_curl_command_of_the_banner_lists_the_batches_of_the_sandbox() -> None:
    with start_demo() as demo:
        requests.put(
            f"{demo.sandbox.base_url}/v2/batches/{REF}", data=ALLOCATION, auth=(CLIENT_KEY, API_TOKEN), timeout=PATIENCE
        )
        [command] = [line for line in demo.banner("http://localhost:1", "/metrics").splitlines() if " curl " in line]
        [curl, user, credentials, url] = shlex.split(command)
        assert (curl, user, credentials) == ("curl", "--user", f"{CLIENT_KEY}:{API_TOKEN}")
        listed = requests.get(url, auth=(CLIENT_KEY, API_TOKEN), timeout=PATIENCE).json()
    assert [item["ref"] for item in listed["items"]] == [REF]


def test_the_banner_says_how_often_a_batch_is_uploaded() -> None:
    with start_demo() as demo:
        banner = demo.banner("http://localhost:1", "/metrics")
    said = re.search(r"Every (\d+) seconds each of its (\d+) feeds uploads a batch, (\d+) seconds after the", banner)
    assert said
    seconds, feeds, between = map(int, said.groups())
    planned = plan_round(Random(0))  # noqa: S311  As the demo does.
    # What was repaired is uploaded again, later.
    first = [upload.time for upload in planned[:feeds]]
    assert first == [turn * between for turn in range(feeds)]
    assert {upload.feed.name for upload in planned[:feeds]} == FEEDS
    assert {upload.trouble for upload in planned[feeds:]} == {Trouble.NONE}
    assert max(upload.time for upload in planned) < seconds


def test_one_feed_of_the_demo_is_due_by_the_clock_and_none_is_overdue_from_the_start() -> None:
    with start_demo() as demo:
        assert {feed.name for feed in demo.config.feeds if feed.expect_success_by} == {"nightly-guests"}
        assert all(feed.expects for feed in demo.config.feeds)
        service = Service(demo.config, CollectorRegistry())
        feeds = service.poller.poll(time.monotonic() + PATIENCE).feeds
        service.poller.stop()
        service.close()
    assert {state.feed.name for state in feeds} == FEEDS
    assert all(state.due is not None and state.due.accepted > time.time() for state in feeds)


def test_old_batches_leave_the_page_without_the_alert_about_dropped_ones() -> None:
    with start_demo() as demo:
        config = demo.config
    rounds = max(config.retention.succeeded, config.retention.failed) / ROUND_TIME
    assert 2 < rounds < 5
    assert len(plan_round(Random(0))) * (rounds + 2) < config.discovery.max_batches  # noqa: S311  As the demo does.


def test_the_demo_shows_every_status_and_again() -> None:
    speed = 150.0
    everything = set(BatchStatus) - {BatchStatus.UNKNOWN}
    with start_demo(speed=speed) as demo:
        service = Service(demo.config, CollectorRegistry())
        poller = service.poller

        def look() -> set[tuple[str, str | None, BatchStatus]]:
            """Return what the demo's own polls have found."""
            states = () if poller.latest is None else poller.latest.batches
            read = [(state.watched, state.reading.batch) for state in states if state.reading is not None]
            return {(watched.ref, watched.feed, batch.status) for watched, batch in read}

        def see_everything(known: set[str]) -> set[tuple[str, str | None, BatchStatus]]:
            seen: set[tuple[str, str | None, BatchStatus]] = set()
            while not {status for ref, _, status in seen if ref not in known} >= everything:
                seen |= look()
                time.sleep(0.005)
            return seen

        with demo.uploads(poller):
            first = see_everything(set())
            # A second time, with other batches.
            second = see_everything({ref for ref, _, _ in first})
        poller.stop()
        service.close()
    assert {feed for _, feed, _ in first | second} == FEEDS
