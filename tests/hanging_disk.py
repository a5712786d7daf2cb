"""A disk that does not answer until a test lets it."""

import threading
from pathlib import Path
from types import ModuleType

import pytest

from sitecore_cdp_exporter.config.files import read_regular_file

MAX_WAIT = 60.0


class HangingDisk:
    """Makes the reads of a module hang until `go_on` is set. `reading` is set as soon as one has begun."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
        self.reading, self.go_on = threading.Event(), threading.Event()
        monkeypatch.setattr(module, "read_regular_file", self._read)

    def _read(self, path: Path, max_bytes: int) -> bytes:
        self.reading.set()
        assert self.go_on.wait(MAX_WAIT)
        return read_regular_file(path, max_bytes)
