"""What people get again when Prometheus or Alertmanager was away, as docs/alerting.md says under "Restarts"."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.e2e.alertmanager_server import Alertmanager, Inbox, running_alertmanager, running_inbox
from tests.e2e.test_alertmanager import alert
from tests.e2e.test_alertmanager_messages import NO_REMINDERS, Messages, quick_config
from tools.program import wait_for

pytestmark = pytest.mark.e2e

FACT, CONDITION = alert("BatchFailed", "critical"), alert("ApiDown", "critical")


def send_until(messages: Messages, **counts: int) -> None:
    """Send both alerts as Prometheus does, each time with a new end, until the receivers have got so many messages."""

    def arrived() -> bool:
        # Seconds stand for the four minutes after which Alertmanager takes an alert of a silent Prometheus to be over.
        messages.post(FACT, CONDITION, endsAt=(datetime.now(UTC) + timedelta(seconds=5)).isoformat())
        return messages.counts() == counts

    wait_for(f"{counts}", arrived, programs=[messages.alertmanager.program])


def statuses(inbox: Inbox, receiver: str) -> list[str]:
    """Return the status of each message that the receiver got."""
    return [json.loads(body)["status"] for body in inbox.posted(f"/webhook/{receiver}")]


def test_after_a_gap_of_prometheus_a_fact_is_sent_once_more_and_never_as_resolved(tmp_path: Path) -> None:
    with running_inbox() as inbox:
        config = quick_config(tmp_path, inbox, reminders=NO_REMINDERS)
        with running_alertmanager(config, tmp_path) as alertmanager:
            messages = Messages(alertmanager, inbox)
            send_until(messages, **{"page": 1, "page-fact": 1})
            messages.wait("/webhook/page", count=2)
            messages.wait_for_what_comes_later()
            assert statuses(inbox, "page") == ["firing", "resolved"]
            assert statuses(inbox, "page-fact") == ["firing"]
            send_until(messages, **{"notify": 2, "page": 3, "page-fact": 2})
    assert statuses(inbox, "page")[-1] == "firing"
    assert statuses(inbox, "page-fact") == ["firing", "firing"]


@pytest.mark.parametrize(("how", "again"), [("in order", 0), ("killed", 1)])
def test_an_alertmanager_that_ended_in_order_remembers_what_it_sent(how: str, again: int, tmp_path: Path) -> None:
    """It saves that every quarter of an hour, and when it ends."""

    def fire(alertmanager: Alertmanager) -> Messages:
        messages = Messages(alertmanager, inbox)
        messages.post(FACT, CONDITION)
        return messages

    with running_inbox() as inbox:
        config = quick_config(tmp_path, inbox, reminders=NO_REMINDERS)
        with running_alertmanager(config, tmp_path) as alertmanager:
            messages = fire(alertmanager)
            for receiver in ("page", "page-fact"):
                messages.wait(f"/webhook/{receiver}", count=1)
                messages.wait(f"/enqueue/{receiver}", count=1)
            messages.wait_for_what_comes_later()
            if how == "killed":
                alertmanager.program.process.kill()
                alertmanager.program.process.wait()
        with running_alertmanager(config, tmp_path) as alertmanager:
            messages = fire(alertmanager)
            for receiver in ("page", "page-fact"):
                messages.wait(f"/webhook/{receiver}", count=1 + again)
            messages.wait_for_what_comes_later()
            assert messages.counts() == {"notify": 4, "page": 1 + again, "page-fact": 1 + again}
    assert set(statuses(inbox, "page")) == {"firing"}
