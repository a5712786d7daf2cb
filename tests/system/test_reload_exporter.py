"""Reloads of every kind, of the whole exporter: what was good stays, and nothing is left behind."""

import gc
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from prometheus_client import CollectorRegistry

from sitecore_cdp_exporter.config.model import ConfigError
from sitecore_cdp_exporter.service import Service
from tests.conditions import wait_until
from tests.exporter_program import API_TOKEN, CLIENT_KEY, LabelSet, running_exporter
from tests.fixtures import open_files
from tools.sandbox import Sandbox, faults

# First what stays from the first few, such as caches.
WARM_UP, RELOADS = 40, 60
SCRAPERS = 4
MAX_WAIT = 30.0
FINISHED = [f"5a0c2f0e-0000-4000-8000-{number:012x}" for number in range(20)]
UNFINISHED = [f"5a0c2f0e-0000-4000-8000-{number:012x}" for number in range(100, 105)]
RELOADED = "sitecore_cdp_exporter_config_last_reload_successful"


@pytest.fixture
def sandboxes(nothing_is_left: None) -> Iterator[list[Sandbox]]:  # noqa: ARG001  It comes first, and so it ends last.
    """Run two sandboxes with the same batches."""
    with (
        Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as one,
        Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as other,
    ):
        for sandbox in (one, other):
            for ref in FINISHED:
                sandbox.put_batch(ref, status="success", total=7)
            for ref in UNFINISHED:
                sandbox.put_batch(ref, status="processing")
        yield [one, other]


class Configs:
    """Writes config files of every kind, one after the other."""

    def __init__(self, directory: Path, ca_file: Path, sandboxes: list[Sandbox]) -> None:
        self.path = directory / "config.yaml"
        self.ca_file = ca_file
        self.sandboxes = sandboxes
        for name, refs in (("one", FINISHED[:10]), ("two", FINISHED[5:15])):
            (directory / f"{name}.json").write_text(json.dumps(refs), encoding="utf-8")

    def write(self, number: int) -> bool:
        """Write the config of this number, and return whether it is good."""
        choose = itertools.cycle([number // 8 % 2, number // 4 % 2, number // 2 % 2, number % 2]).__next__
        password = API_TOKEN if number % 7 else "wrong"
        document: dict[str, Any] = {
            "api": {
                "base_url": self.sandboxes[choose()].base_url,
                "endpoint": "inspect",
                "basic_auth": {"username": CLIENT_KEY, "password": password},
                "concurrency": 2 + 3 * choose(),
                "tls_config": {"ca_file": str(self.ca_file)},
            },
            "batches": [*FINISHED[15:], *UNFINISHED],
            "batch_files": [["one.json"], ["one.json", "two.json"]][choose()],
            "discovery": {"enabled": bool(choose())},
            "feeds": [{"name": "guests", "ref_prefix": "5a0c2f0e", "labels": {"number": f"{number}"}}],
        }
        good = number % 5 != 0
        if not good:
            document["api"]["timeout"] = "soon"
        self.path.write_text(json.dumps(document), encoding="utf-8")
        return good


class Exporter:
    """A service that is scraped by several threads while it reloads."""

    def __init__(self, configs: Configs) -> None:
        self.configs = configs
        configs.write(1)
        self.registry = CollectorRegistry()
        self.service = Service(configs.path, self.registry)

    def scrape(self) -> None:
        snapshot = self.service.poller.poll(time.monotonic() + MAX_WAIT)
        refs = Counter(state.watched.ref.lower() for state in snapshot.batches)
        assert max(refs.values()) == 1
        assert set(FINISHED[15:]) | set(UNFINISHED) <= set(refs), "what the config lists is always shown"
        assert list(self.registry.collect())

    def reload(self, numbers: range, scrapers: ThreadPoolExecutor) -> None:
        """Reload again and again. Some scrapes begin before and end after each reload; none is left at the end."""
        under_way: list[Future[None]] = []
        for number in numbers:
            begun = [scrapers.submit(self.scrape) for _ in range(SCRAPERS)]
            good = self.configs.write(number)
            if number % 3:
                self.service.reloader.reload_if_changed()
            elif good:
                self.service.reloader.reload()
            else:
                with pytest.raises(ConfigError):
                    self.service.reloader.reload()
            assert self.service.reloader.state.successful is good
            for scrape in under_way:
                scrape.result()
            under_way = begun
        for scrape in under_way:
            scrape.result()


def in_use(sandboxes: list[Sandbox]) -> tuple[int, int]:
    """Count the objects that are in use, and the sessions among them."""
    for sandbox in sandboxes:
        # They remember each request.
        sandbox.clear_requests()
    gc.collect()
    objects = gc.get_objects()
    return len(objects), sum(type(each).__name__ == "_Session" for each in objects)


def test_reloads_of_every_kind_under_scrape_load_leave_nothing_behind(
    sandboxes: list[Sandbox], tmp_path: Path, ca_file: Path
) -> None:
    exporter = Exporter(Configs(tmp_path, ca_file, sandboxes))

    def are_few(objects_now: int, sessions_now: int) -> bool:
        return objects_now < 1.1 * objects + 1000 and sessions_now <= sessions + 3

    with ThreadPoolExecutor(2 * SCRAPERS) as scrapers:
        exporter.reload(range(1, 1 + WARM_UP), scrapers)
        objects, sessions = in_use(sandboxes)
        threads, files = threading.active_count(), len(open_files())
        connections = sum(sandbox.open_connections for sandbox in sandboxes)
        exporter.reload(range(1 + WARM_UP, 1 + WARM_UP + RELOADS), scrapers)
        most_connections = 2 * sum((connections, SCRAPERS, 5))
        # What one config needs, another may not, but what leaks stays.
        wait_until(lambda: are_few(*in_use(sandboxes)), pause=0.05)
        wait_until(lambda: threading.active_count() <= threads + 10)
        wait_until(lambda: len(open_files()) <= files + 30)
        wait_until(lambda: sum(sandbox.open_connections for sandbox in sandboxes) <= most_connections)
    exporter.service.poller.stop()
    exporter.service.close()


def test_finished_batches_are_not_asked_again_because_of_a_reload(
    sandboxes: list[Sandbox], tmp_path: Path, ca_file: Path
) -> None:
    configs = Configs(tmp_path, ca_file, sandboxes)
    configs.write(1)
    service = Service(configs.path, CollectorRegistry())
    service.poller.poll(time.monotonic() + MAX_WAIT)
    # All of the same host, but else of every kind; another host would be another organisation.
    for number in (2, 3, 4, 6, 17, 18, 19, 22):
        assert configs.write(number)
        service.reloader.reload()
        service.poller.poll(time.monotonic() + MAX_WAIT)
    service.close()
    asked = Counter(entry.path.rsplit("/", 1)[1] for sandbox in sandboxes for entry in sandbox.requests)
    # Those that only the second file lists are forgotten when it is not listed.
    assert {ref: asked[ref] for ref in FINISHED[:10] + FINISHED[15:]} == dict.fromkeys(FINISHED[:10] + FINISHED[15:], 1)


def test_a_poll_ends_on_the_config_that_it_began_with(sandboxes: list[Sandbox], tmp_path: Path, ca_file: Path) -> None:
    one, other = sandboxes
    configs = Configs(tmp_path, ca_file, sandboxes)
    configs.write(1)
    service = Service(configs.path, CollectorRegistry())
    with ThreadPoolExecutor() as executor:
        for sandbox in sandboxes:
            sandbox.set_fault(faults.Hang())
        first = executor.submit(service.poller.poll, time.monotonic() + MAX_WAIT)
        wait_until(lambda: bool(one.requests))
        assert configs.write(8)
        service.reloader.reload()
        one.clear_faults()
        assert all(state.watched.labels in ({}, {"number": "1"}) for state in first.result().batches)
        assert not other.requests, "the poll under way does not know the other host"
        other.clear_faults()
        one.clear_requests()
        service.poller.poll(time.monotonic() + MAX_WAIT)
        assert other.requests
        assert not one.requests
    service.poller.stop()
    service.close()


def test_post_reload_answers_the_caller(sandboxes: list[Sandbox], tmp_path: Path) -> None:
    with running_exporter(sandboxes[0], tmp_path, batches=FINISHED[:1], flags=["--web.enable-lifecycle"]) as exporter:
        config = tmp_path / "config.yaml"
        good = config.read_text(encoding="utf-8")
        url = f"{exporter.url}/-/reload"
        assert requests.get(url, timeout=MAX_WAIT).status_code == 405
        config.write_text(good + "nonsense: 1\n", encoding="utf-8")
        refused = requests.post(url, timeout=MAX_WAIT)
        assert refused.status_code == 500
        assert "nonsense: unknown key" in refused.text
        assert exporter.scrape()[RELOADED] == {no_labels(): 0.0}
        config.write_text(good, encoding="utf-8")
        assert requests.post(url, timeout=MAX_WAIT).status_code == 200
        assert exporter.scrape()[RELOADED] == {no_labels(): 1.0}


def test_without_the_flag_nobody_reloads_over_http(sandboxes: list[Sandbox], tmp_path: Path) -> None:
    with running_exporter(sandboxes[0], tmp_path) as exporter:
        (tmp_path / "config.yaml").write_text("nonsense: 1\n", encoding="utf-8")
        assert requests.post(f"{exporter.url}/-/reload", timeout=MAX_WAIT).status_code == 403
        assert exporter.scrape()[RELOADED] == {no_labels(): 1.0}


def test_auto_reload_looks_at_the_file_at_each_scrape(sandboxes: list[Sandbox], tmp_path: Path) -> None:
    with running_exporter(sandboxes[0], tmp_path, batches=FINISHED[:1], flags=["--config.auto-reload"]) as exporter:
        config = tmp_path / "config.yaml"
        good = config.read_text(encoding="utf-8")
        config.write_text(good + "nonsense: 1\n", encoding="utf-8")
        for _ in range(3):
            assert exporter.scrape()[RELOADED] == {no_labels(): 0.0}
        assert exporter.program.output().count("nonsense: unknown key") == 1
        config.write_text(good.replace(FINISHED[0], FINISHED[1]), encoding="utf-8")
        samples = exporter.scrape()
        assert samples[RELOADED] == {no_labels(): 1.0}
        assert {dict(labels)["ref"] for labels in samples["sitecore_cdp_batch_poll_success"]} == {FINISHED[1]}


def no_labels() -> LabelSet:
    return frozenset()
