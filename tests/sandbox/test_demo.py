# ruff: noqa: ANN401, S311, S324  JSON is Any; the demo's plan is no secret; the Batch API's checksum is MD5.
import gzip
import hashlib
import json
import logging
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from sitecore_cdp_exporter.sandbox.demo_upload_schedule import (
    FEEDS,
    ROUND_TIME,
    Feed,
    PlannedUpload,
    Trouble,
    plan_round,
)
from sitecore_cdp_exporter.sandbox.demo_uploader import DemoUploads
from sitecore_cdp_exporter.sandbox.profiles import Profiles
from sitecore_cdp_exporter.sandbox.records import import_file
from sitecore_cdp_exporter.sandbox.server import API_TOKEN, CLIENT_KEY
from sitecore_cdp_exporter.sandbox.state import PROCESSING_TIME, QUEUE_TIME
from tests.conditions import wait_until
from tools.sandbox import Sandbox, faults

SPEED = 60.0
FINAL_STATUSES = {
    Trouble.NONE: "success",
    Trouble.SLOW: "success",
    Trouble.IDENTITY_MISSING: "error",
    Trouble.TWO_CAUSES: "error",
    Trouble.ZIP: "error",
    Trouble.UPPER_CASE_CHECKSUM: "corrupted",
}
STATUSES = {"uploading", "file_uploaded", "processing", *FINAL_STATUSES.values()}
# The longest time between two scrapes that still sees everything.
SCRAPE_INTERVAL = 15


class Watcher:
    """Keeps what the demo announced, and asks the sandbox for it."""

    def __init__(self, sandbox: Sandbox, session: requests.Session) -> None:
        self.sandbox = sandbox
        self.session = session
        self.announced: dict[str, str] = {}
        self.uploads = DemoUploads(
            sandbox.base_url,
            client_key=CLIENT_KEY,
            api_token=API_TOKEN,
            announce=self.announced.__setitem__,
            speed=SPEED,
        )

    def get(self, path: str) -> Any:
        url = f"{self.sandbox.base_url}/v2/batches/{path}"
        return self.session.get(url, auth=(CLIENT_KEY, API_TOKEN), timeout=60).json()

    def statuses(self) -> dict[str, str]:
        return {item["ref"]: item["status"] for item in self.get("inspect?limit=100")["items"]}


@pytest.fixture
def watcher() -> Iterator[Watcher]:
    with Sandbox(speed=SPEED) as sandbox, requests.Session() as session:
        session.trust_env = False
        watcher = Watcher(sandbox, session)
        watcher.uploads.start()
        yield watcher
        watcher.uploads.stop()


@given(st.randoms(use_true_random=False))
def test_every_round_shows_each_status_within_two_minutes_to_a_scrape_every_15_seconds(random: Random) -> None:
    shown: dict[str, list[tuple[float, float]]] = defaultdict(list)
    uploads = plan_round(random)
    for upload in uploads:
        uploaded = upload.time + upload.upload_time
        started = uploaded + QUEUE_TIME.total_seconds()
        ended = started + PROCESSING_TIME.total_seconds()
        shown["uploading"].append((upload.time, uploaded))
        shown["file_uploaded"].append((uploaded, started))
        shown["processing"].append((started, ended))
        shown[FINAL_STATUSES[upload.trouble]].append((ended, float("inf")))
    long_enough = {
        status
        for status, times in shown.items()
        if any(end - begin >= SCRAPE_INTERVAL and begin + SCRAPE_INTERVAL <= 120 for begin, end in times)
    }
    assert long_enough == STATUSES
    assert len(uploads) == 8
    assert {upload.feed for upload in uploads} == set(FEEDS)
    assert max(upload.time for upload in uploads) < ROUND_TIME <= 180


def test_the_same_seed_gives_the_same_plan_and_rounds_differ() -> None:
    first, second = Random(0), Random(0)
    plans = [plan_round(first) for _ in range(5)]
    assert [plan_round(second) for _ in range(5)] == plans
    assert any(plan != plans[0] for plan in plans)


@given(st.randoms(use_true_random=False), st.integers(0, 9))
def test_two_rounds_have_every_trouble_and_only_guests_have_bad_records(random: Random, number: int) -> None:
    uploads = [upload for turn in (number, number + 1) for upload in plan_round(random, turn)]
    assert {upload.trouble for upload in uploads} == set(Trouble)
    rejected = [upload for upload in uploads if upload.trouble in {Trouble.IDENTITY_MISSING, Trouble.TWO_CAUSES}]
    assert [upload.feed.schema for upload in rejected] == ["guest", "guest"]


def test_the_demo_shows_a_batch_with_its_rejection_causes_within_two_minutes() -> None:
    rejected = next(upload for upload in plan_round(Random(0)) if upload.trouble is Trouble.IDENTITY_MISSING)
    processed = rejected.time + rejected.upload_time + (QUEUE_TIME + PROCESSING_TIME).total_seconds()
    assert processed + SCRAPE_INTERVAL <= 120


@pytest.mark.parametrize(
    ("trouble", "messages"),
    [
        (Trouble.IDENTITY_MISSING, {"Identity information missing": 24}),
        (Trouble.TWO_CAUSES, {"Identity information missing": 16, "Validation error": 8}),
    ],
)
def test_three_in_a_hundred_records_are_rejected_for_the_causes_of_the_trouble(
    trouble: Trouble, messages: dict[str, int]
) -> None:
    uploads = DemoUploads("", client_key="", api_token="", announce=lambda _ref, _feed: None)
    content = uploads._file(Feed("loyalty-updates", "guest", 800), trouble)
    result = import_file(content, checksum=hashlib.md5(content).hexdigest(), size=len(content), profiles=Profiles())
    assert result is not None
    assert result.error_log is not None
    log = [json.loads(line) for line in gzip.decompress(result.error_log).splitlines()]
    found = Counter(line["message"].partition(":")[0] for line in log)
    # The number of records varies by a tenth.
    assert result.failed == sum(found.values())
    assert found.keys() == messages.keys()
    for message, count in messages.items():
        assert found[message] == pytest.approx(count, abs=4)


def test_two_rounds_show_every_status_each(watcher: Watcher) -> None:
    seen: dict[str, set[str]] = defaultdict(set)

    def all_seen() -> bool:
        for ref, status in watcher.statuses().items():
            seen[ref].add(status)
        refs = list(watcher.announced)
        rounds = [refs[first : first + 8] for first in range(0, len(refs), 8)]
        # A busy machine misses a state that lasts a quarter of a second; then a later round shows it.
        return sum(set().union(*(seen[ref] for ref in refs)) >= STATUSES for refs in rounds) >= 2

    wait_until(all_seen, pause=0.08)
    assert all(uuid.UUID(ref).version == 4 for ref in watcher.announced)
    assert set(watcher.announced.values()) == {feed.name for feed in FEEDS}


def test_the_failures_are_those_that_the_demo_means_to_show(watcher: Watcher) -> None:
    def finished() -> dict[str, str]:
        first_round = list(watcher.announced)[:8]
        statuses = watcher.statuses()
        done = {ref: statuses.get(ref, "") for ref in first_round}
        return done if len(done) == 8 and set(done.values()) <= set(FINAL_STATUSES.values()) else {}

    wait_until(lambda: bool(finished()), pause=0.1)
    bodies = [watcher.get(f"inspect/{ref}") for ref in finished()]
    outcomes = sorted((body["status"]["code"], "log" in body["status"], "summaryStats" in body) for body in bodies)
    assert outcomes == [
        ("corrupted", False, False),
        ("error", False, False),
        ("error", True, True),
        *[("success", False, True)] * 5,
    ]
    assert any(body["checksum"] != body["checksum"].lower() for body in bodies)
    partly_failed = next(body for body in bodies if "log" in body["status"])
    stats = partly_failed["summaryStats"]
    assert 0 < stats["failedCount"] < stats["totalCount"] / 10
    log = gzip.decompress(watcher.session.get(partly_failed["status"]["log"], timeout=60).content)
    messages = [json.loads(line)["message"] for line in log.splitlines()]
    assert len(messages) == stats["failedCount"]
    assert "Identity information missing" in messages
    totals = [body["summaryStats"]["totalCount"] for body in bodies if "summaryStats" in body]
    assert max(totals) > 1000


@pytest.mark.parametrize("fault", [faults.Status(503), faults.CutConnection(), faults.Html(), faults.Body(b"[]")])
def test_uploads_go_on_after_the_api_failed(
    watcher: Watcher, fault: faults.Fault, caplog: pytest.LogCaptureFixture
) -> None:
    wait_until(lambda: bool(watcher.announced))
    watcher.sandbox.set_fault(fault)
    with caplog.at_level(logging.WARNING, "sitecore_cdp_exporter.sandbox.demo_uploader"):
        wait_until(lambda: "could not be allocated" in caplog.text)
        watcher.sandbox.clear_faults()
        known = len(watcher.announced)
        wait_until(lambda: len(watcher.announced) > known)
    assert "Signature" not in caplog.text


def test_a_lost_file_is_logged_without_its_url(watcher: Watcher, caplog: pytest.LogCaptureFixture) -> None:
    body = json.dumps({"location": {"href": "http://127.0.0.1:1/storage?Signature=s3cret"}}).encode()
    with caplog.at_level(logging.WARNING, "sitecore_cdp_exporter.sandbox.demo_uploader"):
        watcher.sandbox.set_fault(faults.Body(body))
        wait_until(lambda: "failed: ConnectionError" in caplog.text)
    assert "s3cret" not in caplog.text


def test_proxy_variables_are_ignored(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with Sandbox() as sandbox, requests.Session() as session:
        watcher = Watcher(sandbox, session)
        watcher.uploads.start()
        wait_until(lambda: bool(watcher.announced or caplog.records))
        watcher.uploads.stop()
    assert watcher.announced


def test_stopping_does_not_wait_for_the_next_upload() -> None:
    threads = set(threading.enumerate())
    with Sandbox() as sandbox, requests.Session() as session:
        watcher = Watcher(sandbox, session)
        uploads = DemoUploads(
            sandbox.base_url, client_key=CLIENT_KEY, api_token=API_TOKEN, announce=watcher.announced.__setitem__
        )
        uploads.start()
        wait_until(lambda: bool(watcher.announced))
        uploads.stop()
        assert "demo-uploads" not in {thread.name for thread in threading.enumerate()}
        assert len(watcher.announced) == 1
        wait_until(lambda: sandbox.open_connections == 0)
    assert set(threading.enumerate()) <= threads


def test_rounds_are_numbered_so_that_causes_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[int] = []

    def plan(_random: Random, number: int) -> list[PlannedUpload]:
        planned.append(number)
        return []

    monkeypatch.setattr("sitecore_cdp_exporter.sandbox.demo_uploader.plan_round", plan)
    uploads = DemoUploads("", client_key="", api_token="", announce=lambda _ref, _feed: None, speed=10_000)
    uploads.start()
    wait_until(lambda: len(planned) >= 3)
    uploads.stop()
    assert planned[:3] == [0, 1, 2]


def test_stopping_before_starting_does_nothing() -> None:
    DemoUploads("http://127.0.0.1:1", client_key="", api_token="", announce=lambda _ref, _feed: None).stop()
