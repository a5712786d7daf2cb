"""The commands of docs/runbook.md, in the real Prometheus' parser and the real Alertmanager.

What its queries show is in test_stories.py.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from sitecore_cdp_exporter.poll.advice import silence_command
from tests.e2e.alertmanager_server import Alertmanager, program
from tests.e2e.test_alertmanager import alert
from tests.markdown import blocks
from tests.system.test_runbook import ALERT_NAMES, RUNBOOK
from tools.program import wait_for

pytestmark = pytest.mark.e2e

[NAMES] = [block.text for block in blocks(RUNBOOK) if (block.heading, block.language) == ("What a batch is", "sh")]
SILENCES = {block.heading: block.text for block in blocks(RUNBOOK) if block.text.startswith("amtool silence add")}


def test_prometheus_can_read_every_query(tmp_path: Path) -> None:
    queries = [block.text for block in blocks(RUNBOOK) if block.language == "promql"]
    rules = [{"record": f"query_{number}", "expr": query} for number, query in enumerate(queries)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "runbook", "rules": rules}]}), encoding="utf-8")
    check = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)
    assert (check.returncode, f"SUCCESS: {len(queries)} rules found" in check.stdout) == (0, True), check.stderr


@pytest.mark.parametrize("name", ALERT_NAMES)
def test_the_line_silences_this_alert_and_no_other(name: str, alertmanager: Alertmanager, tmp_path: Path) -> None:
    # The job of this test stands in for the one that the runbook names, so that tests do not meet.
    script = f"{NAMES}JOB={name}\nREF={name}\nALERTMANAGER={alertmanager.url}\n{SILENCES[name]}"
    silenced = alert(name.removeprefix("SitecoreCdp"), job=name, ref=name)
    others = [
        alert(name.removeprefix("SitecoreCdp"), job=f"not {name}", ref=f"not {name}"),
        alert("BatchFailed", job=name, ref=f"another of {name}"),
    ]
    assert silenced_by(script, alertmanager, tmp_path, [silenced, *others]) == [True, False, False]


@pytest.mark.parametrize("number", [1, 3, 4000])
def test_the_command_of_a_report_silences_its_batches_and_no_other(
    number: int, alertmanager: Alertmanager, tmp_path: Path
) -> None:
    refs = [str(uuid4()) for _ in range(number)]
    script = silence_command(refs).replace("http://localhost:9093", alertmanager.url)
    # The first, those in the middle and the last of many.
    some = [refs[index] for index in sorted({0, number // 4 - 1, number // 4, number - 1}) if index >= 0]
    alerts = [alert("BatchCorrupted", job=refs[0], ref=ref) for ref in (*some, str(uuid4()))]
    assert silenced_by(script, alertmanager, tmp_path, alerts) == [True] * len(some) + [False]


def silenced_by(script: str, alertmanager: Alertmanager, home: Path, alerts: Sequence[Mapping[str, str]]) -> list[bool]:
    """Run a script that makes silences, and return which of these alerts they silence."""
    program("amtool")
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "USER": "somebody"}
    # As somebody does who pastes it: a shell reads it, and no program gets it as an argument.
    done = subprocess.run(["sh", "-eu"], input=script, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    identifiers = set(done.stdout.split())
    active = {silence["id"] for silence in alertmanager.silences() if silence["status"]["state"] == "active"}
    assert identifiers
    assert identifiers <= active
    alertmanager.post(*alerts)

    def seen() -> list[bool] | None:
        states = {
            frozenset(each["labels"].items()): not identifiers.isdisjoint(each["status"]["silencedBy"])
            for each in alertmanager.alerts()
        }
        keys = [frozenset(labels.items()) for labels in alerts]
        return [states[key] for key in keys] if set(keys) <= states.keys() else None

    return wait_for("the alerts", seen, programs=[alertmanager.program])
