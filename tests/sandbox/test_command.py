"""The sandbox's own command."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
import requests

from sitecore_cdp_exporter.sandbox.__main__ import main
from tests.web.web_server_thread import PATIENCE
from tools.sandbox import Sandbox


def environment(**variables: str) -> dict[str, str]:
    names = ("PATH", "PYTHONPATH", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in names if name in os.environ} | variables


def run_sandbox(*arguments: str, **variables: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "sitecore_cdp_exporter.sandbox", *arguments],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_facts(process: "subprocess.Popen[str]") -> dict[str, str]:
    assert process.stdout is not None
    assert "not Sitecore CDP" in process.stdout.readline()
    return dict(process.stdout.readline().strip().split(": ", 1) for _ in range(4))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_command_at_once_with_0(number: signal.Signals, session: requests.Session) -> None:
    flags = ("--listen-address", "127.0.0.1:0", "--client-key=me")
    with run_sandbox(*flags, SITECORE_CDP_API_TOKEN="s3cret") as process:
        facts = {name: value.strip() for name, value in read_facts(process).items()}
        assert facts["Client key"] == "me"
        url = facts["Base URL"] + "/v2/batches/inspect"
        assert session.get(url, auth=("me", "s3cret"), timeout=60).status_code == 200
        assert session.get(url, auth=("me", "sandbox-token"), timeout=60).status_code == 401
        process.send_signal(number)
        output, errors = process.communicate()
    assert (process.returncode, output, errors) == (0, "", "")
    assert "s3cret" not in "".join(facts.values())


@contextmanager
def in_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> Iterator[dict[str, str]]:
    """Run the command in a thread, and yield what it prints; it gets its signal with the end of the block."""
    started, signalled = threading.Event(), threading.Event()

    def sigwait(_: object) -> None:
        started.set()
        signalled.wait()

    monkeypatch.setattr(signal, "sigwait", sigwait)
    thread = threading.Thread(target=main, args=(arguments,))
    thread.start()
    assert started.wait(PATIENCE)
    facts = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines()[1:])
    try:
        yield {name: value.strip() for name, value in facts.items()}
    finally:
        signalled.set()
        thread.join()


def test_exported_credentials_of_the_real_api_are_not_those_of_the_sandbox(
    session: requests.Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SITECORE_CDP_CLIENT_KEY", "real")
    monkeypatch.setenv("SITECORE_CDP_API_TOKEN", "s3cret")
    with in_process(monkeypatch, capsys, "--listen-address", ":0") as facts:
        url = facts["Base URL"] + "/v2/batches/inspect"
        assert session.get(url, auth=("sandbox-client", "sandbox-token"), timeout=60).status_code == 200
        assert session.get(url, auth=("real", "s3cret"), timeout=60).status_code == 401
    assert (facts["Client key"], facts["API token"]) == ("sandbox-client", "sandbox-token")


def test_without_a_token_in_the_environment_the_command_prints_its_own(
    session: requests.Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SITECORE_CDP_API_TOKEN", raising=False)
    with in_process(monkeypatch, capsys, "--listen-address", ":0", "--client-key", "me") as facts:
        url = facts["Base URL"] + "/v2/batches/inspect"
        assert url.startswith("http://127.0.0.1:")
        assert session.get(url, auth=(facts["Client key"], facts["API token"]), timeout=60).status_code == 200
    assert (facts["Client key"], facts["API token"]) == ("me", "sandbox-token")


def test_a_port_in_use_is_one_line_and_exit_code_1(sandbox: Sandbox, capsys: pytest.CaptureFixture[str]) -> None:
    port = urlsplit(sandbox.base_url).port
    # In a thread, because the signals that it blocks stay blocked.
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(main, ["--listen-address", f"127.0.0.1:{port}"]).result() == 1
    output, errors = capsys.readouterr()
    assert output == ""
    assert errors.startswith(f"Cannot listen on 127.0.0.1:{port}: ")
    assert errors.endswith("ddress already in use\n")


@pytest.mark.parametrize(
    "arguments",
    [("--listen-address", "127.0.0.1"), ("--listen-address", "x:70000"), ("--speed", "0"), ("--speed", "nan")],
)
def test_a_wrong_flag_is_explained(arguments: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert f"argument {arguments[0]}: must be" in capsys.readouterr().err


def test_the_help_documents_the_faults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    output = capsys.readouterr().out
    assert (ended.value.code, "curl -X PUT" in output, "delay " in output) == (0, True, True)
