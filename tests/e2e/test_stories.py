"""One cause, one message: eight failures, from the sandbox through the exporter and the real Prometheus to people.

All run side by side, each in a job or a feed of its own, with the shipped rules and routes. The times that the API
reports are those of production, so a feed is late by a day; only what rules and routes wait for is seconds here. Every
alert fires somewhere, so each query of the runbook is run where its reader would run it.
"""

import json
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

import pytest
import yaml

from stack.config_files import Addresses, alertmanager_config, prometheus_config
from tests.e2e.alertmanager_server import Alertmanager, Inbox, running_alertmanager, running_inbox
from tests.exporter_program import API_TOKEN, CLIENT_KEY, Exporter, running_with_config
from tests.markdown import blocks
from tests.system.test_runbook import ALERT_NAMES, REF, RUNBOOK
from tools.program import wait_for
from tools.prometheus_server import PrometheusServer, running_prometheus
from tools.sandbox import Sandbox, faults

pytestmark = pytest.mark.e2e

EXPECTED = {"expect_success_every": "24h", "grace": "3h"}
# What is waited for before an alert fires, in seconds, in the order of the shipped durations. The 6 minutes are those
# that an alert waits for others, which wait for the exporter to read an error log.
SECONDS = {"1m": 2, "5m": 4, "6m": 15, "10m": 5, "15m": 6, "30m": 7, "1h": 8}
# So long after it is placed, the next batch of the feed is due whose deadline passes in the outage.
SECONDS_TO_DEADLINE = 15

JOBS = ("uploads", "token", "region", "region-discovery", "outage", "list", "config", "nothing")

Message = tuple[str, str, tuple[str, ...]]


def ref(name: str) -> str:
    """Return the ref of a batch by its name here."""
    return str(uuid5(NAMESPACE_DNS, name))


def entry(name: str, feed: str) -> dict[str, str]:
    """Return the entry of a batch in the config."""
    return {"ref": ref(name), "feed": feed}


@dataclass
class Job:
    """An exporter of a Prometheus job, with a sandbox of its own."""

    name: str
    directory: Path
    sandbox: Sandbox
    address: str
    stack: ExitStack

    def write_config(self, *, batches: Sequence[object] = (), **sections: object) -> None:
        """Write what the exporter reads. `sections` are those of the config."""
        credentials = {"username": CLIENT_KEY, "password": API_TOKEN}
        api = {"base_url": self.sandbox.base_url, "basic_auth": credentials, "endpoint": "inspect"}
        document = {"api": api, "batches": list(batches), **sections}
        (self.directory / "config.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")

    def start(self) -> Exporter:
        """Start the exporter, or start it again."""
        self.stack.close()
        return self.stack.enter_context(running_with_config(self.directory / "config.yaml", address=self.address))


@contextmanager
def job(name: str, directory: Path) -> Iterator[Job]:
    with ExitStack() as stack, Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{listener.getsockname()[1]}"
        (directory / name).mkdir()
        yield Job(name, directory / name, sandbox, address, stack.enter_context(ExitStack()))


def upload(uploads: Job) -> None:
    """Let uploads of feeds that were loaded two days ago fail in every way, one feed each."""
    now = datetime.now(UTC)
    long_ago, hours_ago = now - timedelta(days=2), now - timedelta(hours=3)
    failed: dict[str, dict[str, Any]] = {
        "zip": {"status": "error"},
        "capitals": {"status": "corrupted"},
        "expired": {"status": "uploading", "created_at": hours_ago},
        "three-percent": {"status": "error", "total": 800, "succeeded": 776, "failed": 24, "log": True},
        "half": {"status": "error", "total": 800, "succeeded": 400, "failed": 400, "log": True},
        "without-log": {"status": "error", "total": 800, "succeeded": 776, "failed": 24},
    }
    others: dict[str, dict[str, Any]] = {
        "tolerant": {"status": "error", "total": 800, "succeeded": 776, "failed": 24, "log": True},
        "short": {"status": "success", "total": 10, "succeeded": 10, "failed": 0},
        "stuck": {"status": "processing", "created_at": hours_ago},
        "unheard-of": {"status": "archived"},
        "unreadable": {"status": "processing"},
        # Never announced.
        "unknown": {},
    }
    for name, state in (failed | others).items():
        if state:
            uploads.sandbox.put_batch(ref(name), **{"created_at": now} | state)
    for name in (*failed, "silent"):
        uploads.sandbox.put_batch(ref(f"loaded {name}"), total=800, succeeded=800, failed=0, created_at=long_ago)
    stamp = f"{now:%Y-%m-%dT%H:%M:%S.000Z}"
    body = {"status": {"code": "corrupted"}, "checksum": "0CC175B9C0F1B6A831C399E269772661"}
    capitals = json.dumps(body | {"createdAt": stamp, "modifiedAt": stamp}).encode()
    uploads.sandbox.set_fault(faults.Body(capitals), ref=ref("capitals"))
    uploads.sandbox.set_fault(faults.MalformedJson(), ref=ref("unreadable"))
    (uploads.directory / "list.yaml").write_text("- no-ref\n", encoding="utf-8")
    uploads.write_config(
        batches=[
            *[entry(name, name) for name in (*failed, *others)],
            *[entry(f"loaded {name}", name) for name in (*failed, "silent")],
        ],
        batch_files=["list.yaml"],
        feeds=[
            *[{"name": name, **EXPECTED} for name in (*failed, "silent")],
            {"name": "tolerant", "max_failed_ratio": 0.05},
            {"name": "short", "min_records": 800},
            {"name": "new", "expect_success_every": "1s"},
        ],
    )


def prepare(jobs: Mapping[str, Job]) -> None:
    """Write the configs, and let fail what fails from the beginning."""
    upload(jobs["uploads"])
    under_way, feeds = [entry("under way", "guests"), entry("loaded", "guests")], [{"name": "guests", **EXPECTED}]
    for name in ("token", "outage"):
        jobs[name].sandbox.put_batch(ref("under way"), status="processing")
        put_loaded(jobs[name], due_in=timedelta(hours=1))
        jobs[name].write_config(batches=under_way, feeds=feeds)
    # Another region answers like one that has none of the batches.
    jobs["region"].write_config(batches=under_way, feeds=feeds)
    jobs["region-discovery"].sandbox.set_fault(faults.Status(404))
    jobs["region-discovery"].write_config(discovery={"enabled": True}, feeds=feeds)
    jobs["list"].sandbox.put_batch(ref("under way"), status="processing")
    jobs["list"].sandbox.set_fault(faults.Status(500))
    jobs["list"].sandbox.set_fault(faults.Delay(0), ref=ref("under way"))
    jobs["list"].write_config(batches=[ref("under way")], discovery={"enabled": True})
    for number in range(3):
        jobs["config"].sandbox.put_batch(ref(f"{number}"), total=8, succeeded=8, failed=0)
    jobs["config"].write_config(discovery={"enabled": True, "max_batches": 1})
    jobs["nothing"].write_config(batch_files=["*.yaml.none"])


def put_loaded(of: Job, *, due_in: timedelta) -> None:
    """Place a batch that was loaded, whose feed is due again in this time."""
    moment = datetime.now(UTC) - timedelta(hours=27) + due_in
    of.sandbox.put_batch(ref("loaded"), total=800, succeeded=800, failed=0, created_at=moment)


@dataclass
class World:
    """What was seen while everything failed, and after the outage was over."""

    inbox: Inbox
    alertmanager: Alertmanager
    server: PrometheusServer
    # The results of the runbook's queries, by the labels of each alert that fired.
    looked: list[tuple[dict[str, str], list[tuple[str, int]]]] = field(default_factory=list)
    messages: dict[tuple[str, str], list[Message]] = field(default_factory=dict)

    def firing(self, promql: str = "") -> list[dict[str, str]]:
        """Return the labels of the alerts that fire in Prometheus."""
        return [labels for labels, _ in self.server.query(f'ALERTS{{alertstate="firing"{promql}}}')]

    def wait_for_alert(self, promql: str) -> None:
        """Wait until an alert with these labels fires."""
        wait_for(promql, lambda: self.firing(f", {promql}"), programs=self.server.programs)

    def wait_until_all_is_sent(self) -> None:
        """Wait until no alert is pending, and Alertmanager has sent what it sends of those that fire."""

        def settled() -> bool:
            known = [frozenset(each["labels"].items()) for each in self.alertmanager.alerts()]
            firing = self.firing()
            for labels in firing:
                del labels["alertstate"], labels["__name__"]
            pending = self.server.query('ALERTS{alertstate="pending"}')
            return not pending and {frozenset(labels.items()) for labels in firing} <= set(known)

        wait_for("all alerts to be sent", settled, programs=self.server.programs)
        number = sum(b"SitecoreCdpLast" in body for _, body in self.inbox.bodies)
        last = {"alertname": "SitecoreCdpLast", "severity": "warning", "job": f"last {number}"}
        self.alertmanager.post(last)
        wait_for(
            "the last message",
            lambda: sum(b"SitecoreCdpLast" in body for _, body in self.inbox.bodies) > number,
            programs=[self.alertmanager.program],
        )

    def look(self) -> None:
        """Run the queries of the runbook for each alert that fires."""
        for labels in self.firing():
            looked = []
            for block in blocks(RUNBOOK):
                if (block.heading, block.language) != (labels["alertname"], "promql"):
                    continue
                query = block.text.replace('"sitecore-cdp"', f'"{labels["job"]}"')
                query = query.replace('"nightly-guests"', f'"{labels.get("feed", "")}"')
                query = query.replace(f'"{REF}"', f'"{labels.get("ref", "")}"')
                looked.append((query, len(self.server.query(query))))
            self.looked.append((labels, looked))

    def read_messages(self) -> None:
        """Sort the messages so far by job and feed."""
        self.messages.clear()
        for _, body in self.inbox.bodies:
            message = json.loads(body)
            group = message["groupLabels"]
            names = sorted({each["labels"]["alertname"].removeprefix("SitecoreCdp") for each in message["alerts"]})
            sent = (message["receiver"], message["status"], tuple(names))
            self.messages.setdefault((group["job"], group.get("feed", "")), []).append(sent)


def write_prometheus_config(directory: Path, jobs: Sequence[Job], alertmanager: Alertmanager) -> Path:
    """Write the shipped config and rules, with these jobs, and in seconds instead of minutes."""
    addresses = Addresses(
        exporter="", prometheus="", alertmanager=alertmanager.url.removeprefix("http://"), webhook_receiver=""
    )
    config = yaml.safe_load(prometheus_config(addresses))
    config["global"] |= {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"}
    targets = {each.name: each.address for each in jobs} | {"sitecore-cdp-gone": "127.0.0.1:1"}
    config["scrape_configs"] = [
        {"job_name": name, "static_configs": [{"targets": [address]}]} for name, address in targets.items()
    ]
    [rules_file] = config["rule_files"]
    rules = yaml.safe_load(Path(rules_file).read_text(encoding="utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = f"{SECONDS[rule['for']]}s"
            if "keep_firing_for" in rule:
                rule["keep_firing_for"] = "2s"
    (directory / "alerts.yml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    config["rule_files"] = ["alerts.yml"]
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def end_outage(outage: Job, world: World) -> None:
    """Let the API answer again, and the feed be loaded; wait until people know."""
    outage.sandbox.clear_faults()
    put_loaded(outage, due_in=timedelta(hours=27))
    outage.start()
    of_job = f', job="{outage.name}"'
    wait_for("the outage to be over", lambda: not world.firing(of_job), programs=world.server.programs)
    wait_for(
        "its end to be sent",
        lambda: outage.name not in {each["labels"]["job"] for each in world.alertmanager.alerts()},
        programs=[world.alertmanager.program],
    )
    world.wait_until_all_is_sent()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("stories")
    with ExitStack() as stack:
        inbox = stack.enter_context(running_inbox())
        addresses = Addresses("", "", "", webhook_receiver=inbox.url.removeprefix("http://"))
        routes = yaml.safe_load(alertmanager_config(addresses).replace("max_alerts: 3", "max_alerts: 0"))
        routes["route"] |= {"group_wait": "2s", "group_interval": "1s"}
        alertmanager = stack.enter_context(running_alertmanager(yaml.safe_dump(routes), directory))

        jobs = {name: stack.enter_context(job(f"sitecore-cdp-{name}", directory)) for name in JOBS}
        prepare(jobs)
        exporters = {name: each.start() for name, each in jobs.items()}
        path = write_prometheus_config(directory, list(jobs.values()), alertmanager)
        server = stack.enter_context(
            running_prometheus(path, directory=directory, scraped=exporters["uploads"].program)
        )
        world = World(inbox, alertmanager, server)

        for name in ("token", "outage"):
            server.wait_for_query(f'sitecore_cdp_complete_poll_timestamp_seconds{{job="sitecore-cdp-{name}"}}')
        jobs["token"].sandbox.set_api_token("regenerated")
        jobs["config"].write_config(discovery={"enabled": "perhaps"})
        exporters["config"].program.process.send_signal(signal.SIGHUP)
        # The deadline of this feed passes in the outage.
        put_loaded(jobs["outage"], due_in=timedelta(seconds=SECONDS_TO_DEADLINE))
        jobs["outage"].start()
        due = f"< {time.time() + SECONDS_TO_DEADLINE + 1}"
        server.wait_for_query(f'sitecore_cdp_feed_due_timestamp_seconds{{job="sitecore-cdp-outage"}} {due}')
        jobs["outage"].sandbox.set_fault(faults.Status(503))
        world.wait_for_alert('job="sitecore-cdp-outage", severity="warning"')
        jobs["outage"].start()
        world.wait_for_alert('job="sitecore-cdp-outage", severity="critical"')
        for name in ALERT_NAMES:
            world.wait_for_alert(f'alertname="{name}"')
        world.wait_until_all_is_sent()
        world.look()

        end_outage(jobs["outage"], world)
        world.read_messages()
        yield world


STORIES: Mapping[str, tuple[tuple[str, str], list[Message]]] = {
    "zip": (("uploads", "zip"), [("page-fact", "firing", ("BatchFailed",))]),
    "upper-case MD5": (("uploads", "capitals"), [("page-fact", "firing", ("BatchCorrupted",))]),
    "expired": (("uploads", "expired"), [("page-fact", "firing", ("BatchUploadExpired",))]),
    "3 % bad": (("uploads", "three-percent"), [("notify-fact", "firing", ("BatchPartlyFailed",))]),
    "dead token": (("token", ""), [("page", "firing", ("ApiUnauthorized",))]),
    "wrong region": (("region", ""), [("page", "firing", ("AllNotFound",))]),
    "wrong region with discovery": (("region-discovery", ""), [("page", "firing", ("AllNotFound",))]),
    "silent feed": (("uploads", "silent"), [("page", "firing", ("FeedStale",))]),
    "outage with restart": (
        ("outage", ""),
        [
            ("notify", "firing", ("ApiDown",)),
            ("page", "firing", ("ApiDown",)),
            ("notify", "resolved", ("ApiDown",)),
            ("page", "resolved", ("ApiDown",)),
        ],
    ),
}


@pytest.mark.parametrize("story", STORIES)
def test_one_cause_is_one_message(story: str, world: World) -> None:
    (name, feed), expected = STORIES[story]
    job_name = f"sitecore-cdp-{name}"
    of_job = {group: sent for group, sent in world.messages.items() if group[0] == job_name}
    # Jobs that are about one failure have no other message, of any feed.
    sent = of_job[job_name, feed] if name == "uploads" else [each for group in of_job.values() for each in group]
    print(f"{story}: {len(sent)} message{'s' * (len(sent) > 1)}: {sent}")  # noqa: T201  Shown by `pytest -rP`.
    assert Counter(sent) == Counter(expected)


def test_every_alert_fires_and_its_first_query_in_the_runbook_has_a_result(world: World) -> None:
    assert {labels["alertname"] for labels, _ in world.looked} == set(ALERT_NAMES)
    empty = [(labels, looked[0]) for labels, looked in world.looked if looked[0][1] == 0]
    assert empty == []
    # Those that were empty for every alert are of no use, save these, which say what no result means.
    found = Counter[tuple[str, int]]()
    for labels, looked in world.looked:
        for number, (_, results) in enumerate(looked):
            found[labels["alertname"].removeprefix("SitecoreCdp"), number] += results
    assert {query for query, results in found.items() if results == 0} <= {("FeedStale", 2)}


def test_every_query_of_the_runbook_is_about_one_job() -> None:
    for block in blocks(RUNBOOK):
        if block.language == "promql":
            selectors = re.findall(r"\{.*?\}", block.text)
            assert selectors, block
            assert all('job="sitecore-cdp"' in selector for selector in selectors), block
