"""How the messages of the shipped config read, as the real Alertmanager sends them to Slack, PagerDuty and webhooks."""

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack.config_files import SHIPPED as SHIPPED_ADDRESSES
from stack.webhook_receiver import FACT_ENDED
from tests.e2e.alertmanager_server import Alertmanager, Inbox, program, running_alertmanager, running_inbox
from tests.e2e.test_alertmanager import ALL_ALERTS, EVERYTHING_ON, REF, TEMPLATES, alert
from tools.program import wait_for

pytestmark = pytest.mark.e2e

ANNOTATIONS = {
    "summary": "Batch of nightly-guests: 316 of 3000 records failed",
    "description": "Sitecore CDP did not take 316 of 3000 records.",
    "runbook_url": "https://runbook.example/#sitecorecdpbatchfailed",
}
# When the alerts of these tests began, as sent by a Prometheus east of Greenwich, and as people read it.
BEGAN = "2026-03-01T00:05:00+02:00"
SINCE = "Firing since 2026-02-28 22:05 UTC."


@dataclass(frozen=True)
class Messages:
    """An Alertmanager with all that is switched off in the config, and the inbox of its messages."""

    alertmanager: Alertmanager
    inbox: Inbox

    def wait(self, path: str, *, count: int) -> list[dict[str, Any]]:
        """Return the bodies of the first messages to this path."""

        def arrived() -> list[bytes] | None:
            posted = self.inbox.posted(path)
            return posted if len(posted) >= count else None

        posted = wait_for(f"{count} messages to {path}", arrived, programs=[self.alertmanager.program])
        return [json.loads(body) for body in posted]

    def fire_and_end(self, *alerts: dict[str, str], path: str) -> None:
        """Let alerts fire until there is a message of it at `path`, and end; wait for the message of that."""
        now = datetime.now(UTC)
        self.alertmanager.post(*alerts, annotations=ANNOTATIONS, startsAt=BEGAN)
        self.wait(path, count=1)
        self.alertmanager.post(*alerts, annotations=ANNOTATIONS, startsAt=BEGAN, endsAt=now.isoformat())
        self.wait(path, count=2)


@pytest.fixture
def messages(tmp_path: Path) -> Iterator[Messages]:
    """Run the config with all that is switched off, without mail, and without waiting for more of a group."""
    (tmp_path / "templates").symlink_to(TEMPLATES)
    secrets = {"slack_api_url": "", "pagerduty_routing_key": "routing-key"}
    with running_inbox() as inbox:
        secrets["slack_api_url"] = f"{inbox.url}/slack"
        for name, content in secrets.items():
            (tmp_path / name).write_text(f"{content}\n", encoding="utf-8")
        config = yaml.safe_load(EVERYTHING_ON.replace("/etc/alertmanager/secrets", str(tmp_path)))
        config["route"] |= {"group_wait": "0s", "group_interval": "1s"}
        for receiver in config["receivers"]:
            receiver.pop("email_configs", None)
            for webhook in receiver.get("webhook_configs", []):
                assert webhook["url"] == f"http://{SHIPPED_ADDRESSES.webhook_receiver}/"
                webhook["url"] = f"{inbox.url}/webhook/{receiver['name']}"
            for pagerduty in receiver.get("pagerduty_configs", []):
                pagerduty["url"] = f"{inbox.url}/enqueue/{receiver['name']}"
        with running_alertmanager(yaml.safe_dump(config), tmp_path) as alertmanager:
            yield Messages(alertmanager, inbox)


def test_slack_says_what_failed_and_does_not_say_that_it_was_repaired(messages: Messages) -> None:
    messages.fire_and_end(alert("BatchPartlyFailed"), path="/slack")
    [firing, ended] = [message["attachments"][0] for message in messages.wait("/slack", count=2)]
    names = f"alertname=SitecoreCdpBatchPartlyFailed feed=nightly-guests job=sitecore-cdp ref={REF} severity=warning"
    assert firing["title"] == "[FIRING] Batch of nightly-guests: 316 of 3000 records failed"
    assert [line.strip() for line in firing["text"].strip().splitlines()] == [
        "warning: Batch of nightly-guests: 316 of 3000 records failed",
        "Sitecore CDP did not take 316 of 3000 records.",
        SINCE,
        "What to do: https://runbook.example/#sitecorecdpbatchfailed",
        names,
    ]
    assert ended["title"] == "[NO LONGER REPORTED] Batch of nightly-guests: 316 of 3000 records failed"
    assert [line.strip() for line in ended["text"].strip().splitlines()] == [
        "No longer reported: superseded, removed or older than its retention; not proof of repair.",
        "It was: Batch of nightly-guests: 316 of 3000 records failed",
        names,
    ]
    assert FACT_ENDED in ended["text"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("ConfigReloadFailed", "Over."), ("BatchUnreadable", "Over, or the batch is no longer watched.")],
)
def test_slack_says_that_a_condition_is_over(messages: Messages, name: str, text: str) -> None:
    messages.fire_and_end(alert(name), path="/slack")
    [firing, ended] = [message["attachments"][0] for message in messages.wait("/slack", count=2)]
    assert firing["text"].splitlines()[2] == SINCE
    assert ended["title"].startswith("[RESOLVED] ")
    assert ended["text"].startswith(f"{text}\n")


def test_a_group_is_one_message_that_names_the_feed_and_each_batch(messages: Messages) -> None:
    refs = [f"{number:08}-0000-4000-8000-000000000000" for number in range(3)]
    messages.fire_and_end(*[alert("BatchPartlyFailed", ref=ref) for ref in refs], path="/slack")
    [firing, ended] = [message["attachments"][0] for message in messages.wait("/slack", count=2)]
    assert firing["title"] == "[FIRING 3] Sitecore CDP: feed nightly-guests, 3 alerts"
    assert ended["title"] == "[NO LONGER REPORTED] Sitecore CDP: feed nightly-guests, 3 alerts"
    assert firing["text"].count(SINCE) == 3
    for ref in refs:
        assert ref in firing["text"]
        assert ref in ended["text"]


def test_two_organisations_share_no_message(messages: Messages) -> None:
    jobs = ("sitecore-cdp-eu", "sitecore-cdp-us")
    messages.alertmanager.post(*[alert("BatchPartlyFailed", job=job) for job in jobs], annotations=ANNOTATIONS)
    texts = [message["attachments"][0]["text"] for message in messages.wait("/slack", count=2)]
    assert sorted([job for job in jobs if job in text] for text in texts) == [[job] for job in jobs]


def test_pagerduty_is_notified_when_an_outage_is_over(messages: Messages) -> None:
    messages.fire_and_end(alert("ApiDown", "critical"), path="/enqueue/page")
    events = messages.wait("/enqueue/page", count=2)
    assert [event["event_action"] for event in events] == ["trigger", "resolve"]
    assert events[0]["routing_key"] == "routing-key"
    assert events[0]["payload"]["summary"] == "[FIRING] Batch of nightly-guests: 316 of 3000 records failed"
    assert SINCE in events[0]["payload"]["custom_details"]["firing"].splitlines()


def test_pagerduty_keeps_the_incident_of_a_failed_batch_open(messages: Messages) -> None:
    messages.fire_and_end(alert("BatchFailed", "critical"), path="/webhook/page-fact")
    # Another one of the same feed comes after what would have been the end of the first.
    messages.alertmanager.post(alert("BatchFailed", "critical", ref=REF[::-1]), annotations=ANNOTATIONS)
    events = messages.wait("/enqueue/page-fact", count=2)
    assert [event["event_action"] for event in events] == ["trigger", "trigger"]
    assert events[0]["dedup_key"] == events[1]["dedup_key"]
    details = events[0]["payload"]["custom_details"]
    assert details["firing"].startswith(f"critical: {ANNOTATIONS['summary']}\n{ANNOTATIONS['description']}\n")
    assert "\n".join(details.values()).count(REF) == 1


def mail(status: str, labels: dict[str, str], tmp_path: Path) -> tuple[str, str]:
    """Render the mail about one alert, and give its subject and its text."""
    sent = {"status": status, "labels": labels, "annotations": ANNOTATIONS, "startsAt": BEGAN}
    data = {"status": status, "groupLabels": {"feed": "nightly-guests"}, "alerts": [sent]}
    path = tmp_path / "data.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    receivers = yaml.safe_load(EVERYTHING_ON)["receivers"]
    [config] = [config for receiver in receivers for config in receiver.get("email_configs", [])]
    amtool = [program("amtool"), "template", "render", f"--template.glob={TEMPLATES}/*.tmpl", f"--template.data={path}"]
    subject, text = (
        subprocess.run([*amtool, f"--template.text={template}"], capture_output=True, text=True, check=True).stdout
        for template in (config["headers"]["Subject"], config["text"])
    )
    return subject.strip(), text


def test_the_mail_is_the_same_text(tmp_path: Path) -> None:
    subject, text = mail("resolved", alert("BatchCorrupted", "critical"), tmp_path)
    assert subject == f"[NO LONGER REPORTED] {ANNOTATIONS['summary']}"
    assert text.startswith(FACT_ENDED)


@pytest.mark.parametrize("name", ALL_ALERTS)
def test_every_alert_shows_since_when_it_fires(name: str, tmp_path: Path) -> None:
    _, text = mail("firing", alert(name), tmp_path)
    assert text.splitlines()[:3] == [f"warning: {ANNOTATIONS['summary']}", ANNOTATIONS["description"], SINCE]
