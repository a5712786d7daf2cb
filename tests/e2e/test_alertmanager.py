"""alertmanager/alertmanager.yml in the real Alertmanager: who is notified, what is inhibited, and how messages read."""

import itertools
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from stack.config_files import ALERTMANAGER_CONFIG
from tests.e2e.alertmanager_server import RETENTION, Alertmanager, program, running_alertmanager
from tools.program import wait_for

pytestmark = pytest.mark.e2e

SHIPPED = ALERTMANAGER_CONFIG.read_text(encoding="utf-8")
TEMPLATES = ALERTMANAGER_CONFIG.parent / "templates"
# As the head of the file says.
EVERYTHING_ON = re.sub(r"(?m)^#    ", "    ", SHIPPED)

FACTS = (
    "BatchFailed",
    "BatchPartlyFailed",
    "BatchCorrupted",
    "BatchErrorWithoutLog",
    "BatchUploadExpired",
    "FeedTooFewRecords",
)
OTHER_BATCH_ALERTS = ("BatchStuck", "BatchNotFound", "BatchUnreadable", "BatchStatusUnknown")
FEED_ALERTS = ("FeedStale", "FeedNeverAccepted")
JOB_ALERTS = (
    "ApiDown",
    "ApiUnauthorized",
    "AllNotFound",
    "DiscoveryFailing",
    "DiscoveryDropped",
    "ExporterDown",
    "ConfigReloadFailed",
    "BatchFileError",
    "NothingWatched",
)
ALL_ALERTS = (*FACTS, *OTHER_BATCH_ALERTS, *FEED_ALERTS, *JOB_ALERTS)
REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
OTHER_REF = "439332a9-f837-496f-9e4a-87491689bb90"


def alert(name: str, severity: str = "warning", *, job: str = "sitecore-cdp", ref: str = REF) -> dict[str, str]:
    """Return the labels of an alert, those that the rules give to one of this name."""
    labels = {"alertname": f"SitecoreCdp{name}", "severity": severity, "job": job}
    if name in JOB_ALERTS:
        return labels
    labels["feed"] = "nightly-guests"
    return labels if name in FEED_ALERTS else {**labels, "ref": ref}


def amtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [program("amtool"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def everything_on(tmp_path: Path) -> Path:
    path = tmp_path / "alertmanager.yml"
    path.write_text(EVERYTHING_ON, encoding="utf-8")
    (tmp_path / "templates").symlink_to(TEMPLATES)
    return path


def test_the_shipped_config_is_valid() -> None:
    check = amtool("check-config", str(ALERTMANAGER_CONFIG))
    assert check.returncode == 0, check.stderr
    assert "1 templates" in check.stdout


def test_the_config_is_valid_with_all_that_is_switched_off(everything_on: Path) -> None:
    check = amtool("check-config", str(everything_on))
    assert check.returncode == 0, check.stdout + check.stderr
    kinds = {kind for receiver in yaml.safe_load(EVERYTHING_ON)["receivers"] for kind in receiver} - {"name"}
    assert kinds == {"webhook_configs", "pagerduty_configs", "slack_configs", "email_configs"}


def test_the_shipped_config_needs_no_time_zone_database() -> None:
    def locations(config: str) -> list[str | None]:
        times = [time for named in yaml.safe_load(config)["time_intervals"] for time in named["time_intervals"]]
        return [time.get("location") for time in times]

    assert locations(SHIPPED) == [None] * 3
    assert locations(EVERYTHING_ON) == ["Europe/Berlin"] * 3


def test_the_sed_line_of_the_config_switches_all_on() -> None:
    [line] = re.findall(r"sed '.*?' alertmanager\.yml", SHIPPED)
    switched = subprocess.run(["sh", "-c", line], cwd=ALERTMANAGER_CONFIG.parent, capture_output=True, check=True)
    assert switched.stdout.decode() == EVERYTHING_ON != SHIPPED


def test_what_is_switched_on_reads_its_secrets_from_files() -> None:
    config = yaml.safe_load(EVERYTHING_ON)
    settings = [
        setting
        for receiver in config["receivers"]
        for integrations in receiver.values()
        if isinstance(integrations, list)
        for integration in integrations
        for setting in integration
    ]
    files = {setting for setting in settings if setting.endswith("_file")}
    assert files == {"routing_key_file", "api_url_file", "auth_password_file"}
    assert {name.removesuffix("_file") for name in files}.isdisjoint(settings)


@pytest.mark.parametrize(
    ("name", "severity", "receiver"),
    [
        *[(name, "critical", "page-fact,remind") for name in FACTS],
        *[(name, "warning", "notify-fact,remind") for name in FACTS],
        *[(name, "warning", "notify") for name in ALL_ALERTS if name not in FACTS],
        *[(name, "info", "quiet") for name in ALL_ALERTS],
        *[(name, "critical", "page") for name in (*OTHER_BATCH_ALERTS, *FEED_ALERTS, *JOB_ALERTS)],
    ],
)
def test_an_alert_goes_by_its_severity(name: str, severity: str, receiver: str) -> None:
    labels = [f"{label}={value}" for label, value in alert(name, severity).items()]
    routed = amtool(
        "config", "routes", "test", f"--config.file={ALERTMANAGER_CONFIG}", f"--verify.receivers={receiver}", *labels
    )
    assert routed.returncode == 0, routed.stdout + routed.stderr


def test_an_alert_of_somebody_else_is_not_lost() -> None:
    routed = amtool("config", "routes", "test", f"--config.file={ALERTMANAGER_CONFIG}", "alertname=DiskFull")
    assert (routed.returncode, routed.stdout.strip()) == (0, "notify")


@pytest.mark.parametrize(
    ("labels", "route"),
    [
        ({"alertname": "SitecoreCdpFeedStale", "severity": "critical", "feed": "office-import"}, "weekend"),
        ({"alertname": "SitecoreCdpFeedStale", "severity": "critical", "feed": "nightly-guests"}, None),
        ({"alertname": "SitecoreCdpBatchFailed", "severity": "critical", "feed": "office-import"}, None),
    ],
    ids=["late feed of working days", "late feed of all days", "failed batch"],
)
def test_a_weekend_mutes_only_that_a_feed_of_working_days_is_late(labels: dict[str, str], route: str | None) -> None:
    routes = yaml.safe_load(EVERYTHING_ON)["route"]["routes"]
    taken = next(route for route in routes if matches(route, labels))
    assert taken.get("mute_time_intervals") == ([route] if route else None)


def matches(route: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether the route takes an alert. Knows = and =~, all that the config uses."""
    parsed = [re.fullmatch(r'(\w+)(=~?)"(.*)"', matcher) for matcher in route["matchers"]]
    return all(
        match and re.fullmatch(match[3] if match[2] == "=~" else re.escape(match[3]), labels.get(match[1], ""))
        for match in parsed
    )


DURATION = {"d": 24.0, "h": 1.0}


def hours(duration: str) -> float:
    """Return a duration such as 8d in hours."""
    return float(duration[:-1]) * DURATION[duration[-1]]


def test_a_fact_is_sent_once_in_the_seven_days_that_it_lasts_and_alertmanager_remembers_it_for_longer() -> None:
    fact, *_ = [route for route in yaml.safe_load(SHIPPED)["route"]["routes"] if route.get("continue")]
    assert all(matches(fact, alert(name)) == (name in FACTS) for name in ALL_ALERTS)
    # It is kept for the retention, and looked at every group_interval. Minutes pass until the last one of a group ends.
    assert 7 * 24 + 12 <= hours(fact["repeat_interval"]) <= hours(RETENTION) - 12
    for file in ("compose.yaml", "stack/__main__.py", "alertmanager/alertmanager.yml", "docs/alerting.md"):
        assert f"--data.retention={RETENTION}" in (ALERTMANAGER_CONFIG.parent.parent / file).read_text("utf-8"), file


TOO_LONG = "repeat_interval is greater than the data retention period"


def test_alertmanager_has_no_objection_to_the_config(alertmanager: Alertmanager) -> None:
    assert "Starting Alertmanager" in alertmanager.program.output()
    assert TOO_LONG not in alertmanager.program.output()


def test_alertmanager_objects_to_a_repeat_interval_that_is_longer_than_what_it_remembers(tmp_path: Path) -> None:
    (tmp_path / "templates").symlink_to(TEMPLATES)
    with running_alertmanager(SHIPPED.replace("repeat_interval: 8d", "repeat_interval: 11d"), tmp_path) as alertmanager:
        assert TOO_LONG in alertmanager.program.output()


def test_a_reminder_has_its_moment_in_every_working_day_and_comes_once_a_day() -> None:
    config = yaml.safe_load(SHIPPED)
    [reminder] = [route for route in config["route"]["routes"] if route["receiver"] == "remind"]
    assert all(matches(reminder, alert(name)) == (name in FACTS) for name in ALL_ALERTS)
    [name] = reminder["active_time_intervals"]
    [interval] = [each["time_intervals"] for each in config["time_intervals"] if each["name"] == name]
    [working_hours] = interval[0]["times"]
    begin, end = (int(working_hours[edge].removesuffix(":00")) for edge in ("start_time", "end_time"))
    assert interval[0]["weekdays"] == ["monday:friday"]
    # Alertmanager looks at the group once in each group_interval, so at least twice in the working hours of a day.
    assert 2 * hours(reminder["group_interval"]) <= end - begin
    # From the end of the working hours to their begin nothing is sent. A repeat of a day and more would drift.
    assert 24 - (end - begin) < hours(reminder["repeat_interval"]) < 24 - hours(reminder["group_interval"]) + 1


def test_only_what_has_an_end_is_sent_as_resolved() -> None:
    """The end of the alert about a batch is not that its data was loaded."""
    sent = {
        receiver["name"]: {
            integration.get("send_resolved", kind in {"webhook_configs", "pagerduty_configs"})
            for kind, integrations in receiver.items()
            if kind != "name"
            for integration in integrations
        }
        for receiver in yaml.safe_load(EVERYTHING_ON)["receivers"]
    }
    once = {"page-fact": {False}, "notify-fact": {False}, "remind": {False}}
    assert sent == once | {"page": {True}, "notify": {True}, "quiet": set()}


def test_an_alert_that_fires_at_one_evaluation_only_is_reported() -> None:
    config = yaml.safe_load((ALERTMANAGER_CONFIG.parent.parent / "prometheus" / "prometheus.yml").read_text("utf-8"))
    waits = re.findall(r"group_wait: (\d+)s\n", SHIPPED)
    assert len(waits) == 1
    assert int(waits[0]) < int(config["global"]["evaluation_interval"].removesuffix("s"))


# What each alert hides when both are about one batch, if they are about a batch at all.
UNKNOWN_FOR_NOW = {"BatchNotFound", "BatchUnreadable", "BatchStatusUnknown"}
UNFINISHED = UNKNOWN_FOR_NOW | {"BatchUploadExpired", "BatchStuck"}
HIDDEN_BY_FAILURE = UNFINISHED | {"BatchPartlyFailed", "BatchErrorWithoutLog"}
HIDDEN_BY_OUTAGE = {"BatchNotFound", "BatchUnreadable", "BatchStuck", "BatchUploadExpired", "DiscoveryFailing"}
HIDDEN_ON_BATCH = {
    "BatchFailed": HIDDEN_BY_FAILURE,
    "BatchCorrupted": HIDDEN_BY_FAILURE,
    "FeedTooFewRecords": HIDDEN_BY_FAILURE,
    "BatchErrorWithoutLog": UNFINISHED | {"BatchPartlyFailed"},
    "BatchPartlyFailed": UNFINISHED,
    "BatchUploadExpired": UNKNOWN_FOR_NOW,
    "BatchStuck": UNKNOWN_FOR_NOW,
    "BatchNotFound": {"BatchUnreadable", "BatchStatusUnknown"},
    "BatchUnreadable": {"BatchStatusUnknown"},
}
# And what each hides when they have no more in common than the job.
HIDDEN_ON_JOB = {
    "ExporterDown": set(ALL_ALERTS) - {"ExporterDown"},
    "ApiUnauthorized": HIDDEN_BY_OUTAGE | {"ApiDown"},
    "ApiDown": HIDDEN_BY_OUTAGE,
    "AllNotFound": {"ApiDown", "BatchNotFound", "DiscoveryFailing"},
}
PAIRS = list(itertools.combinations(ALL_ALERTS, 2))


def inhibited(alertmanager: Alertmanager, *alerts: Mapping[str, str]) -> dict[frozenset[tuple[str, str]], bool]:
    """Fire all of them at once, and return by their labels whether another one inhibits each."""
    job = f"last {uuid4()}"
    last, hidden_by_it = alert("ExporterDown", job=job), alert("ApiDown", job=job)
    alertmanager.post(hidden_by_it, *alerts, last)

    def seen() -> dict[frozenset[tuple[str, str]], bool]:
        return {
            frozenset(each["labels"].items()): bool(each["status"]["inhibitedBy"])
            for each in alertmanager.alerts()
            if each["status"]["state"] == ("suppressed" if each["status"]["inhibitedBy"] else "active")
        }

    # What inhibits takes the alerts in their order, some time after they are there.
    wait_for(
        "the last one to inhibit", lambda: seen().get(frozenset(hidden_by_it.items())), programs=[alertmanager.program]
    )
    sent = {frozenset(labels.items()) for labels in alerts}

    def all_seen() -> dict[frozenset[tuple[str, str]], bool] | None:
        states = seen()
        return {labels: states[labels] for labels in sent} if sent <= states.keys() else None

    return wait_for(f"{len(sent)} alerts", all_seen, programs=[alertmanager.program])


def hidden_in_pairs(
    alertmanager: Alertmanager, pairs: Mapping[tuple[str, str], tuple[dict[str, str], dict[str, str]]]
) -> dict[str, set[str]]:
    """Let pairs of alerts fire. Give, by the alert that hides another, what it hides."""
    seen = inhibited(alertmanager, *itertools.chain.from_iterable(pairs.values()))
    hidden: dict[str, set[str]] = {}
    for names, alerts in pairs.items():
        for name, hider, labels in zip(names, reversed(names), alerts, strict=True):
            if seen[frozenset(labels.items())]:
                hidden.setdefault(hider, set()).add(name)
    return hidden


def test_of_two_alerts_of_one_batch_the_one_that_says_more_is_reported(alertmanager: Alertmanager) -> None:
    pairs = {(a, b): (alert(a, job=f"{a} {b}"), alert(b, job=f"{a} {b}")) for a, b in PAIRS}
    assert hidden_in_pairs(alertmanager, pairs) == HIDDEN_ON_BATCH | HIDDEN_ON_JOB


def test_of_two_batches_of_an_organisation_only_causes_hide_symptoms(alertmanager: Alertmanager) -> None:
    pairs = {(a, b): (alert(a, job=f"other {a} {b}"), alert(b, job=f"other {a} {b}", ref=OTHER_REF)) for a, b in PAIRS}
    assert hidden_in_pairs(alertmanager, pairs) == HIDDEN_ON_JOB


def test_two_organisations_hide_nothing_of_each_other(alertmanager: Alertmanager) -> None:
    pairs = {(a, b): (alert(a, job=f"one {a} {b}"), alert(b, job=f"two {a} {b}")) for a, b in PAIRS}
    assert hidden_in_pairs(alertmanager, pairs) == {}


def test_of_all_alerts_of_a_batch_at_once_each_severest_one_is_reported(alertmanager: Alertmanager) -> None:
    alerts = [alert(name, job="at once") for name in (*FACTS, *OTHER_BATCH_ALERTS)]
    notified = {dict(labels)["alertname"] for labels, hidden in inhibited(alertmanager, *alerts).items() if not hidden}
    # No batch has more than one of these three.
    assert notified == {"SitecoreCdpBatchFailed", "SitecoreCdpBatchCorrupted", "SitecoreCdpFeedTooFewRecords"}


def test_an_outage_of_all_at_once_is_reported_once(alertmanager: Alertmanager) -> None:
    alerts = [alert(name, job="outage") for name in ("ApiUnauthorized", *sorted(HIDDEN_ON_JOB["ApiUnauthorized"]))]
    notified = {dict(labels)["alertname"] for labels, hidden in inhibited(alertmanager, *alerts).items() if not hidden}
    assert notified == {"SitecoreCdpApiUnauthorized"}


def test_a_long_outage_is_reported_as_critical_only(alertmanager: Alertmanager) -> None:
    warning, critical = (alert("ApiDown", severity, job="long outage") for severity in ("warning", "critical"))
    seen = inhibited(alertmanager, warning, critical)
    assert (seen[frozenset(warning.items())], seen[frozenset(critical.items())]) == (True, False)


FAILED_UPLOADS = {"BatchFailed", "BatchPartlyFailed", "BatchCorrupted", "BatchErrorWithoutLog", "BatchUploadExpired"}


@pytest.mark.parametrize("why", ["upload_failed", "nothing_uploaded"])
def test_a_late_feed_is_explained_by_its_failed_upload_alone(why: str, alertmanager: Alertmanager) -> None:
    """A failure of another upload, silenced or not, must not hide that nothing was uploaded."""
    late = {name: {**alert("FeedStale", "critical", job=f"{why} {name}"), "why": why} for name in ALL_ALERTS}
    others = [alert(name, job=f"{why} {name}") for name in ALL_ALERTS if name != "FeedStale"]
    elsewhere = [{**alert(name, job=f"{why} FeedStale"), "feed": "orders"} for name in FAILED_UPLOADS]
    # A batch with rejected records that counts as loaded.
    loaded = alert("BatchPartlyFailed", "info", job=f"{why} FeedStale")
    seen = inhibited(alertmanager, *late.values(), *others, *elsewhere, loaded)
    hiders = {name for name, labels in late.items() if seen[frozenset(labels.items())]}
    assert hiders == {"ExporterDown"} | (FAILED_UPLOADS if why == "upload_failed" else set())


def test_two_exporters_that_are_down_do_not_hide_each_other(alertmanager: Alertmanager) -> None:
    down = alert("ExporterDown", "critical", job="two exporters")
    seen = inhibited(alertmanager, {**down, "region": "eu"}, {**down, "region": "us"})
    assert set(seen.values()) == {False}
