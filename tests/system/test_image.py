"""The image's health check finds the exporter, wherever that listens. `.ci/build-image` runs it there."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.exporter_program import API_TOKEN, CLIENT_KEY, ROOT, running_exporter
from tests.web.security.web_config_server import MUTUAL_TLS, USERS, Folder
from tools.sandbox import Sandbox

DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
HEALTH_ADDRESS = "127.0.0.1:10313"


def command(instruction: str) -> list[str]:
    """Return the command of an instruction of the Dockerfile."""
    [text] = re.findall(rf"^{instruction} .*?(\[.*\])$", DOCKERFILE, flags=re.MULTILINE)
    parts: list[str] = json.loads(text)
    return parts


def health_check(port: int) -> int:
    """Run the health check with this port in place of its own, and give its exit status: 0 if all is well."""
    program, *arguments = command("HEALTHCHECK")
    assert program == "python"
    host, own_port = HEALTH_ADDRESS.split(":")
    assert f"'{host}', {own_port}, " in arguments[-1]
    arguments[-1] = arguments[-1].replace(own_port, str(port))
    # Of a proxy that the exporter is given. Nothing listens there.
    environment = {"http_proxy": "http://127.0.0.1:1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, stderr=subprocess.DEVNULL, check=False
    ).returncode


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("web_config", ["", MUTUAL_TLS, USERS], ids=["plain", "client certificates", "passwords"])
def test_the_health_check_works_with_any_web_config(web_config: str, free_port: int, tmp_path: Path) -> None:
    _, *flags = command("ENTRYPOINT")
    assert flags == [f"--web.health-listen-address={HEALTH_ADDRESS}"]
    # The address of the metrics is another one than that of the image here, too.
    flags = [f"--web.health-listen-address=127.0.0.1:{free_port}"]
    flags.append(f"--web.config.file={Folder(tmp_path).write(web_config)}")
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        with running_exporter(sandbox, tmp_path, flags=flags):
            assert health_check(free_port) == 0
        assert health_check(free_port) != 0


def test_the_image_needs_no_shell_and_has_nothing_added_but_the_environment() -> None:
    *_, final = re.split(r"(?m)^(?=FROM )", DOCKERFILE)
    assert final.startswith("FROM gcr.io/distroless/")
    assert re.findall(r"(?m)^(RUN|ADD|SHELL)\b", final) == []
    [copied] = re.findall(r"(?m)^COPY (.*)$", final)
    assert copied == "--from=build /opt/sitecore-cdp-batch-exporter /opt/sitecore-cdp-batch-exporter"
    assert [command(each)[0] for each in ("HEALTHCHECK", "ENTRYPOINT")] == ["python", "sitecore-cdp-batch-exporter"]


def test_the_image_runs_as_nobody_in_particular() -> None:
    assert re.findall(r"(?m)^USER (\d+):(\d+)$", DOCKERFILE) == [("65532", "65532")]


def test_the_image_writes_no_bytecode_where_it_cannot() -> None:
    assert "PYTHONDONTWRITEBYTECODE=1" in DOCKERFILE.rpartition("\nFROM ")[2]


def test_the_health_check_is_documented() -> None:
    documentation = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    assert f"--web.health-listen-address={HEALTH_ADDRESS}`" in documentation
