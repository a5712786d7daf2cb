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
    def read(cls, path: Path) -> "Unit":
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] not in "#["]
        pairs = (line.split("=", maxsplit=1) for line in lines)
        return cls(tuple((name, value) for name, value in pairs))

    def values(self, name: str) -> list[str]:
        """Return all values of a setting."""
        return [value for each, value in self.settings if each == name]

    def command(self, name: str) -> list[str]:
        """Return the words of the only command line of this name."""
        [line] = self.values(name)
        return shlex.split(line)
