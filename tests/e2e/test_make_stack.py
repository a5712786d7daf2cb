"""`make stack` as a newcomer runs it: all programs come up, know each other, and end together."""

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

from tests.alert_files import GROUPS
from tests.e2e.alertmanager_server import program
from tools.exporter_program import API_TOKEN, CLIENT_KEY, ROOT
from tools.program import MAX_WAIT, Program, running, wait_for
from tools.sandbox import Sandbox

pytestmark = pytest.mark.e2e

NAMES = ("prometheus", "alertmanager", "exporter", "webhook-receiver")
REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class RunningStack:
    """A stack that has printed its URLs, and those."""

    program: Program
    prometheus: str
    alertmanager: str
    exporter: str

    def children(self) -> dict[str, int]:
        """Return the process of each of its programs."""
        pid = self.program.process.pid
        found = {}
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split():
            command = Path(f"/proc/{child}/cmdline").read_bytes().decode().replace("_", "-")
            [name] = [name for name in NAMES if re.search(rf"{name}(\.py)?\0", command.partition("--")[0])]
            found[name] = int(child)
        return found


def is_running(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


@contextmanager
def running_stack(data: Path, *flags: str, path: Sequence[Path] = ()) -> Iterator[RunningStack]:
    for names in (("prometheus",), ("prometheus-alertmanager", "alertmanager")):
        program(*names)
    data.mkdir(exist_ok=True)
    search = os.pathsep.join(map(str, path)) or os.environ["PATH"]
    command = ["env", "--chdir", str(ROOT), f"PATH={search}", sys.executable, "-m", "stack", f"--data={data}", *flags]
    with running(command, log=data / "stack.log") as stack:
        printed = wait_for(
            "the URLs",
            lambda: re.findall(r"(?m)^    http://(127\.0\.0\.1:\d+)/", stack.output())[2:],
            programs=[stack],
        )
        assert len(printed) == 1
        urls = [f"http://{each}" for each in re.findall(r"(?m)^    http://(127\.0\.0\.1:\d+)/", stack.output())]
        yield RunningStack(stack, *urls)


def test_all_programs_run_know_each_other_and_end_on_ctrl_c(tmp_path: Path) -> None:
    with socket.socket() as taken:
        # Somebody else may have it already, and then it is just as taken.
        with suppress(OSError):
            taken.bind(("127.0.0.1", 10311))
            taken.listen()
        with running_stack(tmp_path) as stack:
            assert not stack.exporter.endswith(":10311")
            prometheus = f"{stack.prometheus}/api/v1"
            groups = requests.get(f"{prometheus}/rules", timeout=60).json()["data"]["groups"]
            assert [group["name"] for group in groups] == [group["name"] for group in GROUPS]
            wait_for(
                "Prometheus to find the exporter",
                lambda: f"{stack.exporter}/metrics" in requests.get(f"{prometheus}/targets", timeout=60).text,
                programs=[stack.program],
            )
            wait_for(
                "Prometheus to find Alertmanager",
                lambda: stack.alertmanager in requests.get(f"{prometheus}/alertmanagers", timeout=60).text,
                programs=[stack.program],
            )
            receivers = requests.get(f"{stack.alertmanager}/api/v2/status", timeout=60).json()["config"]["original"]
            [receiver] = re.findall(r"waiting for alerts on (http://\S+)", stack.program.output())
            assert receiver in receivers
            children = stack.children()
            assert sorted(children) == sorted(NAMES)
            stack.program.process.send_signal(signal.SIGINT)
            assert stack.program.process.wait(MAX_WAIT) == 0
            assert [name for name, pid in children.items() if is_running(pid)] == []
            assert "Traceback" not in stack.program.output()
    assert (tmp_path / ".gitignore").read_text(encoding="ascii") == "*\n"


@pytest.mark.parametrize("name", NAMES)
def test_when_one_ends_all_end_and_it_is_reported_which(name: str, tmp_path: Path) -> None:
    with running_stack(tmp_path) as stack:
        children = stack.children()
        os.kill(children[name], signal.SIGKILL)
        assert stack.program.process.wait(MAX_WAIT) == 1
        assert [name for name, pid in children.items() if is_running(pid)] == []
        assert f"stack: {name} has ended with exit code -9" in stack.program.output()
        assert "Traceback" not in stack.program.output()


def test_a_custom_config_is_watched_and_data_survives(tmp_path: Path) -> None:
    # Where Prometheus' own releases are installed, Alertmanager has its short name.
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "prometheus").symlink_to(program("prometheus"))
    (programs / "alertmanager").symlink_to(program("prometheus-alertmanager", "alertmanager"))
    config = tmp_path / "config.yaml"
    data = tmp_path / "data"
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(REF, status="processing", total=7)
        api = {"base_url": sandbox.base_url, "basic_auth": {"username": CLIENT_KEY, "password": API_TOKEN}}
        config.write_text(yaml.safe_dump({"api": api, "batches": [REF]}), encoding="utf-8")
        with running_stack(data, f"--config.file={config}", path=[programs]) as stack:
            metrics = requests.get(f"{stack.exporter}/metrics", timeout=60).text
            assert f'sitecore_cdp_batch_total_records{{ref="{REF}"}} 7.0' in metrics
            silence = {
                "matchers": [{"name": "ref", "value": REF, "isRegex": False}],
                "startsAt": "2026-01-01T00:00:00Z",
                "endsAt": "2100-01-01T00:00:00Z",
                "createdBy": "somebody",
                "comment": "uploaded again",
            }
            assert requests.post(
                f"{stack.alertmanager}/api/v2/silences", data=json.dumps(silence), headers=JSON, timeout=60
            ).ok
            second = [sys.executable, "-m", "stack", f"--data={data}"]
            with running(["env", "--chdir", str(ROOT), *second], log=tmp_path / "second.log") as other:
                assert other.process.wait(MAX_WAIT) == 1
                assert "another stack, or what is left of one" in other.output()
            stack.program.process.terminate()
            assert stack.program.process.wait(MAX_WAIT) == 0
        with running_stack(data, f"--config.file={config}", path=[programs]) as stack:
            kept = requests.get(f"{stack.alertmanager}/api/v2/silences", timeout=60).json()
            assert [each["comment"] for each in kept] == ["uploaded again"]
            children = stack.children()
            # As when the terminal is closed.
            stack.program.process.send_signal(signal.SIGHUP)
            assert stack.program.process.wait(MAX_WAIT) == 0
            assert [name for name, pid in children.items() if is_running(pid)] == []


def test_a_config_with_a_mistake_is_reported(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("api:\n  base_ulr: x\n", encoding="utf-8")
    command = [sys.executable, "-m", "stack", f"--data={tmp_path / 'data'}", f"--config.file={config}"]
    with running(["env", "--chdir", str(ROOT), *command], log=tmp_path / "stack.log") as stack:
        assert stack.process.wait(MAX_WAIT) == 1
        assert "exporter has ended with exit code 1" in stack.output()
        assert "unknown key; did you mean base_url?" in stack.output()


def test_make_runs_it(tmp_path: Path) -> None:
    command = ["make", "--no-print-directory", "--directory", str(ROOT), f"VENV={sys.prefix}", "INSTALL=:", "stack"]
    with running([*command, f"ARGS=--data={tmp_path / 'data'}"], log=tmp_path / "make.log") as make:
        wait_for("the URLs", lambda: "Ctrl-C ends all of it." in make.output(), programs=[make])
        pid = make.process.pid
        [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        os.kill(int(child), signal.SIGINT)
        assert make.process.wait(MAX_WAIT) == 0
