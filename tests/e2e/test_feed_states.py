"""What the dashboard calls a feed, as Prometheus evaluates it."""

import subprocess
from pathlib import Path

import pytest
import yaml

from grafana import expressions
from grafana.colors import FRESHNESS

pytestmark = pytest.mark.e2e

NOW = 3600
GRACE = 600


def series(job: str, complete_poll: int, *feeds: tuple[str, int, int]) -> dict[str, int]:
    """Expose feeds as (name, when it is due, when a batch was last accepted), all in seconds."""
    exposed = {f'sitecore_cdp_complete_poll_timestamp_seconds{{job="{job}", instance="a"}}': complete_poll}
    for name, due, accepted in feeds:
        labels = f'job="{job}", instance="a", feed="{name}"'
        exposed |= {
            f'sitecore_cdp_feed_due_timestamp_seconds{{{labels}, of="accepted"}}': due,
            f'sitecore_cdp_feed_due_timestamp_seconds{{{labels}, of="finished"}}': due,
            f"sitecore_cdp_feed_last_accepted_timestamp_seconds{{{labels}}}": accepted,
            f"sitecore_cdp_feed_grace_seconds{{{labels}}}": GRACE,
        }
    return exposed


@pytest.mark.parametrize(
    ("feed", "states"),
    [
        (".*", {"in time": "fresh", "waited for": "late", "silent": "stale", "new": "never", "unseen": "?"}),
        ("silent|unseen", {"silent": "stale", "unseen": "?"}),
    ],
)
def test_a_feed_that_became_due_while_nothing_could_be_read_is_unknown_and_not_stale(
    feed: str, states: dict[str, str], tmp_path: Path
) -> None:
    exposed = series(
        "well",
        NOW - 10,
        ("in time", NOW + 2 * GRACE, 1),
        ("waited for", NOW + GRACE // 2, 1),
        ("silent", NOW - 60, 1),
        ("new", NOW + 2 * GRACE, 0),
    ) | series("blind", NOW - 120, ("unseen", NOW - 60, 1))
    found = {
        f'{{feed="{name}"}}': code
        for name, state in states.items()
        for code in [min(code for code, (text, _) in FRESHNESS.items() if text == state)]
    }
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": f"{value}x{NOW // 60}"} for name, value in exposed.items()],
        "promql_expr_test": [
            {
                "expr": expressions.FRESHNESS.replace("$job", ".*").replace("$feed", feed),
                "eval_time": f"{NOW}s",
                "exp_samples": [{"labels": labels, "value": code} for labels, code in found.items()],
            }
        ],
    }
    path = tmp_path / "test.yml"
    path.write_text(yaml.safe_dump({"tests": [test]}), encoding="utf-8")
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
