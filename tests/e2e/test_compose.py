"""docker-compose reads compose.yaml: the old one of Debian, or the new one."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.alertmanager_server import program
from tools.exporter_program import ROOT

pytestmark = pytest.mark.e2e


def docker_compose() -> list[str]:
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    return [program("docker-compose", package="docker-compose")]


def config(**environment: str) -> tuple[dict[str, Any], str]:
    """Return what it makes of the file, and what it warns of."""
    done = subprocess.run(
        [*docker_compose(), "--file", str(ROOT / "compose.yaml"), "config"],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout), done.stderr


def test_it_is_valid_without_warnings() -> None:
    services, warnings = config()
    assert len(services["services"]) == 5
    assert warnings == ""


def test_one_variable_names_the_folder_of_the_config(tmp_path: Path) -> None:
    exporter = config(CONFIG_FOLDER=str(tmp_path))[0]["services"]["exporter"]
    assert exporter["environment"]["CONFIG_FOLDER"] == str(tmp_path)
    assert exporter["volumes"][0]["source"] == str(tmp_path)
    assert exporter["volumes"][0]["read_only"] is True


def test_credentials_of_the_shell_reach_the_exporter_only() -> None:
    services = config(SITECORE_CDP_API_TOKEN="a-token", SITECORE_CDP_CLIENT_KEY="a-key")[0]["services"]
    assert [name for name, service in services.items() if "a-token" in str(service)] == ["exporter"]
    assert services["exporter"]["environment"]["SITECORE_CDP_API_TOKEN"] == "a-token"
