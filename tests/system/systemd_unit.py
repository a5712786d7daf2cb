"""The systemd unit that is shipped, read as far as its settings need it."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from tools.exporter_program import ROOT

UNIT_FILE = ROOT / "deploy" / "systemd" / "sitecore-cdp-batch-exporter.service"


@dataclass(frozen=True)
class Unit:
    """The settings of a unit file in their order. A setting may be given many times, which `configparser` cannot do."""

    settings: tuple[tuple[str, str], ...]

    @classmethod
    def read(cls, path: Path, name: str | None = None) -> "Unit":
        """Read a unit file as systemd does for a unit of this name, without `.service`; None: that of the file."""
        text = path.read_text(encoding="utf-8").replace("%N", name or path.stem)
        lines = [line for line in text.splitlines() if line and line[0] not in "#["]
        pairs = (line.split("=", maxsplit=1) for line in lines)
        return cls(tuple((setting, value) for setting, value in pairs))

    def values(self, name: str) -> list[str]:
        """Return all values of a setting."""
        return [value for each, value in self.settings if each == name]

    def command(self, name: str) -> list[str]:
        """Return the words of the only command line of this name. A variable of the unit may become many."""
        [line] = self.values(name)
        assignments = [word for value in self.values("Environment") for word in shlex.split(value)]
        environment = dict(assignment.split("=", maxsplit=1) for assignment in assignments)
        return [
            word
            for text in shlex.split(line)
            for word in (shlex.split(environment[text[1:]]) if text[1:] in environment else [text])
        ]
