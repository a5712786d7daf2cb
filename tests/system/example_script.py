"""The scripts in `examples/`, imported from their files: the folder is no package."""

import importlib.util
from types import ModuleType

from tools.exporter_program import ROOT


def load_example(name: str) -> ModuleType:
    """Import a script of that folder, without its suffix."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
