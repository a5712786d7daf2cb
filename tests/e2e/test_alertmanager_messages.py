"""How the messages of the shipped config read, as the real Alertmanager sends them, and how often it sends them."""

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack.config_files import SHIPPED as SHIPPED_ADDRESSES
from tests.e2e.alertmanager_server import Alertmanager, Inbox, program, running_alertmanager, running_inbox
from tests.e2e.test_alertmanager import ALL_ALERTS, EVERYTHING_ON, REF, TEMPLATES, alert
from tools.program import wait_for

pytestmark = pytest.mark.e2e

ANNOTATIONS = {
    "summary": "Some records of an upload failed: nightly-guests",
    "description": "Sitecore CDP did not take 316 of 3000 records.",
    "runbook_url": "https://runbook.example/#sitecorecdpbatchfailed",
}
# When the alerts of these tests began, as sent by a Prometheus east of Greenwich, and as people read it.
BEGAN = "2026-03-01T00:05:00+02:00"
SINCE = "Firing since 2026-02-28 22:05 UTC."
MAX_CHARACTERS = 4000
# A time interval that is over.
NEVER_NOW = [{"years": ["2001"]}]
NO_REMINDERS: Mapping[str, object] = {"active_time_intervals": ["never"], "group_wait": "0s"}


@dataclass(frozen=True)
class Messages:
    """An Alertmanager with all that is switched off in the config, and the inbox of its messages."""

    alertmanager: Alertmanager
    inbox: Inbox

    def wait(self, path: str, *, count: int) -> list[dict[str, Any]]:
        """Return the bodies of the messages to this path, once there are so many."""

        def arrived() -> list[bytes] | None:
            posted = self.inbox.posted(path)
            return posted if len(posted) >= count else None

        posted = wait_for(f"{count} messages to {path}", arrived, programs=[self.alertmanager.program])
        return [json.loads(body) for body in posted]

    def post(self, *alerts: dict[str, str], **times: str) -> None:
        """Let alerts fire."""
        self.alertmanager.post(*alerts, annotations=ANNOTATIONS, **({"startsAt": BEGAN} | times))

    def end(self, *alerts: dict[str, str]) -> None:
        """Let alerts end."""
        self.post(*alerts, endsAt=datetime.now(UTC).isoformat())

    def fire_and_end(self, *alerts: dict[str, str], path: str) -> None:
        """Let alerts fire until there is a message of it at `path`, and end; wait for the message of that."""
        self.post(*alerts)
        self.wait(path, count=1)
        self.end(*alerts)
        self.wait(path, count=2)

    def wait_for_what_comes_later(self) -> None:
        """Wait until a condition of another job has been sent twice: all that is due was sent by then."""
        before = len(self.inbox.posted("/webhook/notify"))
        # Each time another one: an Alertmanager that ends may not have noted the last message.
        later = alert("ConfigReloadFailed", job=f"later than {before} messages")
        self.post(later)
        self.wait("/webhook/notify", count=before + 1)
        self.end(later)
        self.wait("/webhook/notify", count=before + 2)

    def counts(self) -> dict[str, int]:
        """Return how many messages each receiver got, by its webhook."""
        paths = [path for path, _ in self.inbox.bodies if path.startswith("/webhook/")]
        return {path.removeprefix("/webhook/"): paths.count(path) for path in sorted(set(paths))}


def quick_config(directory: Path, inbox: Inbox, *, reminders: Mapping[str, object]) -> str:
    """Return the config with all that is switched off, without mail, and in seconds instead of minutes.

    What it refers to is put into the directory. `reminders` are settings of the route of the reminders.
    """
    (directory / "templates").symlink_to(TEMPLATES)
    secrets = {"slack_api_url": f"{inbox.url}/slack", "pagerduty_routing_key": "routing-key"}
    for name, content in secrets.items():
        (directory / name).write_text(f"{content}\n", encoding="utf-8")
    config = json.loads(json.dumps(yaml.safe_load(EVERYTHING_ON.replace("/etc/alertmanager/secrets", str(directory)))))
    config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    [remind] = [route for route in config["route"]["routes"] if route["receiver"] == "remind"]
    remind |= reminders
    config["time_intervals"].append({"name": "never", "time_intervals": NEVER_NOW})
    for receiver in config["receivers"]:
        receiver.pop("email_configs", None)
        for webhook in receiver.get("webhook_configs", []):
            assert webhook["url"] == f"http://{SHIPPED_ADDRESSES.webhook_receiver}/"
            webhook["url"] = f"{inbox.url}/webhook/{receiver['name']}"
        for pagerduty in receiver.get("pagerduty_configs", []):
            pagerduty["url"] = f"{inbox.url}/enqueue/{receiver['name']}"
    return yaml.safe_dump(config)


@contextmanager
def running_messages(directory: Path, *, reminders: Mapping[str, object]) -> Iterator[Messages]:
    """Run the config of `quick_config` in this directory."""
    with running_inbox() as inbox:
        config = quick_config(directory, inbox, reminders=reminders)
        with running_alertmanager(config, directory) as alertmanager:
            yield Messages(alertmanager, inbox)


@pytest.fixture
def messages(tmp_path: Path) -> Iterator[Messages]:
    with running_messages(tmp_path, reminders=NO_REMINDERS) as messages:
        yield messages


def slack(message: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return title and lines of a message to Slack."""
    [attachment] = message["attachments"]
    return attachment["title"], [line.rstrip() for line in attachment["text"].strip().splitlines()]


def test_slack_says_what_failed_and_never_that_it_was_resolved(messages: Messages) -> None:
    labels = alert("BatchPartlyFailed") | {"kind": "rejected"}
    messages.post(labels)
    [firing] = messages.wait("/slack", count=1)
    assert slack(firing) == (
        "[FIRING] Some records of an upload failed: nightly-guests (rejected) (job sitecore-cdp)",
        [
            "warning: Some records of an upload failed: nightly-guests",
            "Sitecore CDP did not take 316 of 3000 records.",
            SINCE,
            "What to do: https://runbook.example/#sitecorecdpbatchfailed",
            f"feed=nightly-guests job=sitecore-cdp ref={REF}",
        ],
    )
    messages.end(labels)
    messages.wait_for_what_comes_later()
    assert messages.counts() == {"notify-fact": 1, "notify": 2}


@pytest.mark.parametrize("name", ["ConfigReloadFailed", "BatchUnreadable"])
def test_slack_says_what_is_over(messages: Messages, name: str) -> None:
    messages.fire_and_end(alert(name), path="/slack")
    (_, firing), (title, ended) = [slack(message) for message in messages.wait("/slack", count=2)]
    assert firing[2] == SINCE
    assert title.startswith(f"[RESOLVED] {ANNOTATIONS['summary']}")
    assert ended[0] == f"Over, or no longer watched: {ANNOTATIONS['summary']}"
    assert ended[1].startswith("2026-02-28 22:05 to ")
    assert (f"ref={REF}" in ended[1]) == (name == "BatchUnreadable")


def test_the_end_of_two_alerts_names_both(messages: Messages) -> None:
    summaries = {"ApiDown": "The API is failing (job x)", "DiscoveryFailing": "The list cannot be read (job x)"}
    now = datetime.now(UTC).isoformat()
    for times in ({}, {"endsAt": now}):
        # The one that is inhibited in production ends with its cause.
        for name, summary in summaries.items():
            labels = alert(name, job="x") | {"why": name}
            if name == "DiscoveryFailing":
                labels |= {"alertname": "SitecoreCdpBatchFileError"}
            annotations = ANNOTATIONS | {"summary": summary}
            messages.alertmanager.post(labels, annotations=annotations, startsAt=BEGAN, **times)
        messages.wait("/slack", count=1)
    wait_for(
        "both to end",
        lambda: any(slack(message)[0].startswith("[RESOLVED 2]") for message in messages.wait("/slack", count=1)),
        programs=[messages.alertmanager.program],
    )
    title, _ = slack(messages.wait("/slack", count=1)[-1])
    assert title == "[RESOLVED 2] 1 x The API is failing (job x); 1 x The list cannot be read (job x)"


def test_two_organisations_share_no_message(messages: Messages) -> None:
    jobs = ("sitecore-cdp-eu", "sitecore-cdp-us")
    messages.post(*[alert("BatchPartlyFailed", job=job) for job in jobs])
    texts = [slack(message)[1] for message in messages.wait("/slack", count=2)]
    assert sorted([job for job in jobs if job in " ".join(text)] for text in texts) == [[job] for job in jobs]


def test_pagerduty_is_notified_when_an_outage_is_over(messages: Messages) -> None:
    messages.fire_and_end(alert("ApiDown", "critical"), path="/enqueue/page")
    events = messages.wait("/enqueue/page", count=2)
    assert [event["event_action"] for event in events] == ["trigger", "resolve"]
    assert events[0]["routing_key"] == "routing-key"
    assert events[0]["payload"]["summary"] == f"[FIRING] {ANNOTATIONS['summary']}"
    assert SINCE in events[0]["payload"]["custom_details"]["firing"].splitlines()


def test_pagerduty_keeps_the_incident_of_a_failed_batch_open(messages: Messages) -> None:
    messages.post(alert("BatchFailed", "critical"))
    messages.wait("/enqueue/page-fact", count=1)
    messages.end(alert("BatchFailed", "critical"))
    # Another one of the same feed comes after what would have been the end of the first.
    messages.wait_for_what_comes_later()
    messages.post(alert("BatchFailed", "critical", ref=REF[::-1]))
    events = messages.wait("/enqueue/page-fact", count=2)
    assert [event["event_action"] for event in events] == ["trigger", "trigger"]
    assert events[0]["dedup_key"] == events[1]["dedup_key"]
    details = events[0]["payload"]["custom_details"]
    assert details["firing"].startswith(f"critical: {ANNOTATIONS['summary']}\n{ANNOTATIONS['description']}\n")
    assert json.dumps(details).count(REF) == 1


def test_what_joins_a_group_is_told_apart_from_what_was_reported_before(messages: Messages) -> None:
    refs = [f"{number:08}-0000-4000-8000-000000000000" for number in range(12)]
    messages.post(*[alert("BatchPartlyFailed", ref=ref) for ref in refs[2:]])
    wait_for(
        "the first ten",
        lambda: any("[FIRING 10]" in slack(message)[0] for message in messages.wait("/slack", count=1)),
        programs=[messages.alertmanager.program],
    )
    messages.post(*[alert("BatchPartlyFailed", ref=ref) for ref in refs[:2]], startsAt="2026-03-01T03:00:00Z")
    wait_for(
        "all twelve",
        lambda: any("[FIRING 12]" in slack(message)[0] for message in messages.wait("/slack", count=1)),
        programs=[messages.alertmanager.program],
    )
    texts = {slack(message)[0].split("]")[0]: slack(message)[1] for message in messages.wait("/slack", count=1)}
    assert "New: " not in " ".join(texts["[FIRING 10"]), "all are as new"
    assert texts["[FIRING 12"][1] == (
        "New: 2, the newest since 2026-03-01 03:00 UTC. Older: 10, the oldest since 2026-02-28 22:05 UTC."
    )
    shown = [ref for line in texts["[FIRING 12"] for ref in refs if ref in line]
    assert shown == refs[:3], "the newest ones first"
    assert texts["[FIRING 12"][-1].startswith("And 9 more.")


def test_a_fact_is_sent_once_and_its_reminders_say_what_they_are(tmp_path: Path) -> None:
    # As soon as Alertmanager looks at the group again, and whatever the time is.
    quick = {"group_wait": "2s", "group_interval": "1s", "repeat_interval": "1s", "active_time_intervals": []}
    failed = alert("BatchFailed", "critical")
    with running_messages(tmp_path, reminders=quick) as messages:
        messages.post(failed)
        reminders = messages.wait("/webhook/remind", count=3)
        assert messages.counts()["page-fact"] == 1
        assert {message["alerts"][0]["labels"]["ref"] for message in reminders} == {REF}
        title, _ = slack(messages.wait("/slack", count=1)[0])
        assert title == f"[REMINDER] {ANNOTATIONS['summary']} (job sitecore-cdp)"
        messages.end(failed)
        messages.wait_for_what_comes_later()
        statuses = {
            json.loads(body)["status"]
            for receiver in ("page-fact", "remind")
            for body in messages.inbox.posted(f"/webhook/{receiver}")
        }
        assert (statuses, messages.counts()["page-fact"]) == ({"firing"}, 1)


def test_nobody_is_reminded_out_of_working_hours_and_a_page_comes_all_the_same(messages: Messages) -> None:
    messages.post(alert("BatchFailed", "critical"))
    messages.wait("/webhook/page-fact", count=1)
    messages.wait_for_what_comes_later()
    assert messages.counts() == {"page-fact": 1, "notify": 2}


def test_a_feed_that_is_late_pages_although_its_last_failure_is_silenced(messages: Messages) -> None:
    """Monday's batch failed, and its alert is silenced for seven days. Tuesday's file never comes."""
    monday = alert("BatchFailed", "critical")
    late = alert("FeedStale", "critical")
    messages.post(monday)
    messages.wait("/webhook/page-fact", count=1)
    silence = [program("amtool"), "silence", "add", f"--alertmanager.url={messages.alertmanager.url}"]
    subprocess.run([*silence, "--duration=7d", "--comment=uploaded again", f"ref={REF}"], check=True)
    # While Monday's upload is the newest, it is why the feed is late.
    messages.post({**late, "why": "upload_failed"})
    messages.wait_for_what_comes_later()
    assert "page" not in messages.counts()
    messages.end({**late, "why": "upload_failed"})
    messages.post({**late, "why": "nothing_uploaded"})
    [page] = messages.wait("/webhook/page", count=1)
    assert [each["labels"]["why"] for each in page["alerts"] if each["status"] == "firing"] == ["nothing_uploaded"]
    assert messages.counts()["page-fact"] == 1
    states = {each["labels"]["alertname"]: each["status"]["state"] for each in messages.alertmanager.alerts()}
    assert states["SitecoreCdpBatchFailed"] == "suppressed"


def mail(notification: Mapping[str, Any], tmp_path: Path) -> tuple[str, str]:
    """Render the mail about a notification as the webhook gets it, and return its subject and its text."""
    path = tmp_path / "data.json"
    path.write_text(json.dumps(notification), encoding="utf-8")
    receivers = yaml.safe_load(EVERYTHING_ON)["receivers"]
    [config] = next(receiver["email_configs"] for receiver in receivers if receiver["name"] == "notify")
    amtool = [program("amtool"), "template", "render", f"--template.glob={TEMPLATES}/*.tmpl", f"--template.data={path}"]
    subject, text = (
        subprocess.run([*amtool, f"--template.text={template}"], capture_output=True, text=True, check=True).stdout
        for template in (config["headers"]["Subject"], config["text"])
    )
    return subject.strip(), text


def sent(status: str, labels: dict[str, str]) -> dict[str, Any]:
    """Return what the webhook gets of one alert."""
    one = {"status": status, "labels": labels, "annotations": ANNOTATIONS, "startsAt": BEGAN, "fingerprint": "1"}
    return {"status": status, "receiver": "notify", "groupLabels": {"feed": "nightly-guests"}, "alerts": [one]}


@pytest.mark.parametrize("name", ALL_ALERTS)
def test_every_alert_shows_since_when_it_fires(name: str, tmp_path: Path) -> None:
    _, text = mail(sent("firing", alert(name)), tmp_path)
    assert text.splitlines()[:3] == [f"warning: {ANNOTATIONS['summary']}", ANNOTATIONS["description"], SINCE]


def test_labels_of_the_config_cannot_break_a_message(tmp_path: Path) -> None:
    labels = alert("BatchFailed") | {"kind": "a(b", "team": "[", "feed": "{{ x }}"}
    subject, text = mail(sent("firing", labels), tmp_path)
    assert subject == f"[FIRING] {ANNOTATIONS['summary']} (a(b) (job sitecore-cdp)"
    assert "feed={{ x }} job=sitecore-cdp" in text


@dataclass(frozen=True)
class Sizes:
    """Characters of one message in each form; of the webhook, bytes of its body."""

    alerts: int
    slack: int
    pagerduty_title: int
    pagerduty: int
    mail: int
    webhook: int


def worst_alerts(number: int, severity: str, feed: str) -> Sequence[dict[str, str]]:
    """Return alerts of five kinds, with labels as long as they may reasonably be."""
    kinds = ["rejected", "unreadable", "corrupted", "rejected_few", "too_few_records"]
    return [
        alert("BatchFailed", severity, ref=f"{each:08}-0000-4000-8000-000000000000")
        | {"feed": feed, "kind": kinds[each % 5], "team": "t" * 60, "region": "r" * 60}
        for each in range(number)
    ]


def test_a_message_has_under_4000_characters_however_many_alerts_it_is_about(tmp_path: Path) -> None:
    texts = {
        "summary": "An upload to Sitecore CDP failed, and its summary is too long: " + "f" * 100,
        "description": "The description of this alert is long, because it names the causes and what to do. " * 40,
        "runbook_url": "https://github.com/sitecore-cdp-batch-exporter/sitecore-cdp-batch-exporter/blob/main/docs/"
        "runbook.md#sitecorecdpbatchpartlyfailed",
    }
    sizes = []
    with running_messages(tmp_path, reminders={"active_time_intervals": ["never"]}) as messages:

        def last(path: str, number: int, feed: str) -> dict[str, Any]:
            """Wait for the message about all of them."""
            title = f"FIRING {number}]" if number > 1 else "FIRING]"

            def arrived() -> bytes | None:
                of_feed = [body for body in messages.inbox.posted(path) if feed.encode() in body]
                # The webhook has no title.
                return next((body for body in reversed(of_feed) if title.encode() in body or "webhook" in path), None)

            body = wait_for(f"{number} alerts at {path}", arrived, programs=[messages.alertmanager.program])
            message: dict[str, Any] = json.loads(body)
            return message

        for number in (1, 5, 200, 1000):
            feed = f"feed-{number}"
            for severity in ("critical", "warning"):
                alerts = worst_alerts(number, severity, feed)
                now = datetime.now(UTC)
                older = {"startsAt": (now - timedelta(hours=3)).isoformat()}
                messages.alertmanager.post(*alerts[number // 2 :], annotations=texts, startsAt=now.isoformat())
                messages.alertmanager.post(*alerts[: number // 2], annotations=texts, **older)
            title, lines = slack(last("/slack", number, feed))
            event = last("/enqueue/page-fact", number, feed)
            webhook = last("/webhook/page-fact", number, feed)
            assert len(webhook["alerts"]) + webhook["truncatedAlerts"] <= number
            whole = webhook | {"alerts": [], "receiver": "notify"}
            for labels in worst_alerts(number, "warning", feed):
                one = {"status": "firing", "labels": labels, "annotations": texts, "fingerprint": labels["ref"]}
                whole["alerts"].append(one | {"startsAt": BEGAN})
            subject, text = mail(whole, tmp_path)
            assert title.split("]")[0] == subject.split("]")[0]
            if number > 3:
                assert f"And {number - 3} more. The dashboard and Alertmanager list all." in lines
            sizes.append(
                Sizes(
                    alerts=number,
                    slack=len(title) + len("\n".join(lines)),
                    pagerduty_title=len(event["payload"]["summary"]),
                    pagerduty=len(json.dumps(event)),
                    mail=len(subject) + len(text),
                    webhook=len(json.dumps(webhook)),
                )
            )
    print(*sizes, sep="\n")  # noqa: T201  Shown by `pytest -rP`.
    assert max(max(size.slack, size.pagerduty, size.mail) for size in sizes) < MAX_CHARACTERS
    # As PagerDuty's API has it; Alertmanager would cut it.
    assert max(size.pagerduty_title for size in sizes) < 1024
    # For programs, with the three alerts in full.
    assert max(size.webhook for size in sizes) < 20_000
