"""What docs/runbook.md tells people to run, in the real Prometheus' parser and the real Alertmanager."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.e2e.alertmanager_server import Alertmanager, program
from tests.e2e.program import wait_for
from tests.e2e.test_alertmanager import alert
from tests.markdown import blocks
from tests.test_runbook import ALERTS, RUNBOOK

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


@pytest.mark.parametrize("name", ALERTS)
def test_the_line_silences_this_alert_and_no_other(name: str, alertmanager: Alertmanager, tmp_path: Path) -> None:
    # The job of this test stands in for the one that the runbook names, so that tests do not meet.
    script = f"{NAMES}JOB={name}\nREF={name}\nALERTMANAGER={alertmanager.url}\n{SILENCES[name]}"
    program("amtool")
    silenced = alert(name.removeprefix("SitecoreCdp"), job=name, ref=name)
    others = [
        alert(name.removeprefix("SitecoreCdp"), job=f"not {name}", ref=f"not {name}"),
        alert("BatchFailed", job=name, ref=f"another of {name}"),
    ]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "USER": "somebody"}
    done = subprocess.run(["sh", "-eu", "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    identifier = done.stdout.strip()
    assert [silence["status"]["state"] for silence in alertmanager.silences() if silence["id"] == identifier] == [
        "active"
    ]
    alertmanager.post(silenced, *others)

    def seen() -> list[bool] | None:
        states = {
            frozenset(each["labels"].items()): identifier in each["status"]["silencedBy"]
            for each in alertmanager.alerts()
        }
        keys = [frozenset(labels.items()) for labels in (silenced, *others)]
        return [states[key] for key in keys] if set(keys) <= states.keys() else None

    assert wait_for("the alerts", seen, programs=[alertmanager.program]) == [True, False, False]
