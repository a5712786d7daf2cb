"""What `make stack` does before it starts anything. It runs in e2e/test_make_stack.py."""

import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import yaml

from stack.__main__ import StackError, choose_addresses, line_about_the_sandbox, main
from stack.config_files import (
    ALERTMANAGER_CONFIG,
    PROMETHEUS_CONFIG,
    SHIPPED,
    Addresses,
    alertmanager_config,
    prometheus_config,
)
from stack.programs import Server
from tools.exporter_program import ROOT
from tools.program import Program, terminating

RunStack = Callable[..., tuple[int, str, str]]
ADDRESSES = Addresses(
    exporter="127.0.0.1:1", prometheus="127.0.0.1:2", alertmanager="127.0.0.1:3", webhook_receiver="127.0.0.1:4"
)


def test_prometheus_gets_the_shipped_config_with_the_addresses_of_this_run() -> None:
    text = PROMETHEUS_CONFIG.read_text(encoding="utf-8")
    expected = yaml.safe_load(
        text.replace(SHIPPED.exporter, "127.0.0.1:1").replace(SHIPPED.alertmanager, "127.0.0.1:3")
    )
    expected["rule_files"] = [str(ROOT / "prometheus" / "alerts.yml")]
    expected["scrape_configs"][1]["file_sd_configs"] = [{"files": [str(ROOT / "prometheus" / "batches*.yaml")]}]
    assert yaml.safe_load(prometheus_config(ADDRESSES)) == expected
    assert "localhost" not in prometheus_config(ADDRESSES)


def test_alertmanager_gets_the_shipped_config_with_the_addresses_of_this_run() -> None:
    text = ALERTMANAGER_CONFIG.read_text(encoding="utf-8")
    expected = yaml.safe_load(text.replace(f"http://{SHIPPED.webhook_receiver}/", "http://127.0.0.1:4/"))
    expected["templates"] = [str(ROOT / "alertmanager" / "templates" / "*.tmpl")]
    assert yaml.safe_load(alertmanager_config(ADDRESSES)) == expected


def stand_in(directory: Path, name: str) -> None:
    """Make a program of this name that only leaves a trace of having been started."""
    program = directory / name
    program.write_text(f"#!/bin/sh\necho started > {directory / 'trace'}\n", encoding="utf-8")
    program.chmod(0o755)


@pytest.fixture
def run_stack(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[RunStack]:
    """Run the stack with `data` as its folder, and with no program on the PATH but those in `path`."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    handlers = [signal.getsignal(number) for number in numbers]

    def run(data: Path, *, path: Path) -> tuple[int, str, str]:
        monkeypatch.setenv("PATH", str(path))
        return main([f"--data={data}"]), *capsys.readouterr()

    yield run
    for number, handler in zip(numbers, handlers, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("there", "missing", "package"),
    [
        ([], "prometheus", "prometheus"),
        (["prometheus-alertmanager"], "prometheus", "prometheus"),
        (["prometheus"], "prometheus-alertmanager or alertmanager", "prometheus-alertmanager"),
    ],
    ids=["none", "Alertmanager only", "Prometheus only"],
)
def test_a_missing_program_is_reported_with_its_package_and_nothing_is_started(
    run_stack: RunStack, there: list[str], missing: str, package: str, tmp_path: Path
) -> None:
    for name in there:
        stand_in(tmp_path, name)
    status, _, errors = run_stack(tmp_path / "data", path=tmp_path)
    assert status == 1
    assert f"{missing} is not on the PATH" in errors
    assert f"sudo apt install {package}\n" in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(there)


def test_a_folder_that_cannot_be_created_is_reported_in_one_line(run_stack: RunStack, tmp_path: Path) -> None:
    for name in ("prometheus", "prometheus-alertmanager"):
        stand_in(tmp_path, name)
    file = tmp_path / "file"
    file.touch()
    assert run_stack(file, path=tmp_path) == (1, "", f"stack: {file}: File exists\n")


def test_two_stacks_that_start_at_once_get_different_ports() -> None:
    with ExitStack() as listeners:
        one = choose_addresses(listeners)
        other = choose_addresses(listeners)
    assert not {*vars(one).values()} & {*vars(other).values()}


@pytest.fixture
def stopping() -> Iterator[threading.Event]:
    """Return an event that is set in the end, so that no wait for it lasts forever."""
    event = threading.Event()
    timer = threading.Timer(60, event.set)
    timer.start()
    yield event
    timer.cancel()


@contextmanager
def exporter(command: str, log: Path) -> Iterator[Server]:
    """Run a stand-in for the exporter, whose log is that of one that has started."""
    log.write_text("msg=listening\n", encoding="utf-8")
    process = subprocess.Popen(["sh", "-c", command])
    with terminating(process):
        yield Server("exporter", Program(process, log), "http://127.0.0.1:1/")


def test_an_exporter_that_ends_before_it_prints_its_sandbox_is_reported(
    stopping: threading.Event, tmp_path: Path
) -> None:
    log = tmp_path / "exporter.log"
    with (
        exporter(f"echo it crashed >> {log}; exit 3", log) as server,
        pytest.raises(StackError, match=r"(?s)^exporter has ended with exit code 3\n.*    it crashed$"),
    ):
        line_about_the_sandbox(log, [server], stopping)


def test_the_line_about_the_sandbox_is_waited_for(stopping: threading.Event, tmp_path: Path) -> None:
    log = tmp_path / "exporter.log"
    line = "    http://127.0.0.1:2  the sandbox itself, for curl"
    with exporter(f"sleep 0.3; echo '{line}' >> {log}; exec sleep 60", log) as server:
        assert line_about_the_sandbox(log, [server], stopping) == f"{line}\n"


def test_a_signal_ends_the_wait_for_the_line_about_the_sandbox(stopping: threading.Event, tmp_path: Path) -> None:
    log = tmp_path / "exporter.log"
    with exporter("exec sleep 60", log) as server:
        threading.Timer(0.3, stopping.set).start()
        assert line_about_the_sandbox(log, [server], stopping) == ""
        assert not server.has_ended()


def test_a_program_that_does_not_end_by_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.program.SECONDS_TO_END", 0.1)
    process = subprocess.Popen(["sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done"], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout, terminating(process):
        process.stdout.readline()
    assert process.returncode == -signal.SIGKILL


def test_make_takes_a_path_with_spaces() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "stack", "CONFIG=my config/c.yaml"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--config.file='my config/c.yaml'" in done.stdout
