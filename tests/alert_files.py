"""What prometheus/alerts.yml holds, read once for all tests of it."""

from pathlib import Path
from typing import Any

import yaml

from tools.exporter_program import ROOT

DIRECTORY = ROOT / "prometheus"


def read(path: Path) -> Any:  # noqa: ANN401  What YAML holds.
    # The loader in C: the one in Python takes seconds for the tests of the alerts.
    return yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)


GROUPS: list[dict[str, Any]] = read(DIRECTORY / "alerts.yml")["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]
