import json
import os
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from sitecore_cdp_exporter import __version__, serve, systemd
from sitecore_cdp_exporter.cli import _parse_flags, main
from sitecore_cdp_exporter.config.model import Config, load_config
from sitecore_cdp_exporter.config.reload import ReadFile, Reloader
from sitecore_cdp_exporter.web.address import ListenAddress
from sitecore_cdp_exporter.web.server import WebServer
from tests import hanging_resolver
from tests.conditions import wait_until
from tests.config_file import BROKEN_WEB_CONFIG, OTHER_REF, REF, SECRET, write_config
from tests.exporter_program import API_TOKEN, CLIENT_KEY, Exporter, forked, running_demo, running_exporter
from tests.web.security.web_config_server import TLS, USERS, Folder
from tests.web.web_server_thread import PATIENCE
from tools.program import answers_ok
from tools.sandbox import Sandbox, faults

PATIENT = {"X-Prometheus-Scrape-Timeout-Seconds": "60"}
FLAGS = (
    *("--once", "--wait", "--output"),
    *("--config.file", "--config.check", "--demo", "--version", "--help", "--log.level", "--log.format"),
    *("--config.auto-reload", "--web.enable-lifecycle"),
    *("--web.listen-address", "--web.health-listen-address", "--web.telemetry-path", "--web.max-requests"),
    *("--web.config.file", "--web.disable-exporter-metrics", "--write-assets"),
)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(REF, status="processing")
        yield sandbox


def stop(exporter: Exporter, number: int = signal.SIGTERM) -> int:
    """Send a signal, and return the exit status."""
    exporter.program.process.send_signal(number)
    return exporter.program.process.wait(PATIENCE)


def get(exporter: Exporter, path: str) -> requests.Response:
    return requests.get(f"{exporter.url}{path}", headers=PATIENT, timeout=PATIENCE)


# Flags


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"sitecore-cdp-batch-exporter {__version__}\n"


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert set(re.findall(r"--[a-z.-]+", capsys.readouterr().out)) == set(FLAGS)


@pytest.mark.parametrize(
    "flags",
    [
        ["--unknown"],
        ["config.yaml"],
        [REF],
        ["--demo", REF],
        ["--wait=1m"],
        ["--output=json"],
        ["--once", "config.yaml"],
        ["--once", "--config.check"],
        ["--once", "--output=yaml"],
        *[["--once", f"--wait={value}"] for value in ("", "5", "1.5m", "-1m", "m", "1s1m", "300y", "inf")],
        ["--once", "--demo", "--config.file=config.yaml"],
        ["--config.fil=config.yaml"],
        ["--web.listen=:80"],
        ["--vers"],
        ["--demo", "--config.file=config.yaml"],
        ["--demo", "--config.check"],
        ["--api.password=x"],
        *[
            ["--write-assets=folder", flag]
            for flag in ("--once", "--config.check", "--demo", REF, "--web.max-requests=9")
        ],
        *[["--once", flag] for flag in ("--web.enable-lifecycle", "--web.max-requests=64", "--config.auto-reload")],
        ["--once", "--demo", "--web.listen-address", ":9000"],
        ["--write-assets"],
        ["--write-assets="],
        ["--log.level=trace"],
        ["--log.level=INFO"],
        ["--log.format=text"],
        ["--config.file"],
        ["--config.file="],
        ["--web.config.file="],
        *[[f"--web.max-requests={value}"] for value in ("0", "-1", "1.5", "many", "", "\u0661", "9" * 5000)],
        *[[f"--web.listen-address={value}"] for value in ("10311", ":99999", "::1", "host:", "", ":http", "9" * 5000)],
        *[[f"--web.health-listen-address={value}"] for value in ("10311", "a:b:1")],
        *[
            [f"--web.telemetry-path={value}"]
            for value in (
                *("", "metrics", "/", "/probe", "/-/metrics", "/-/healthy", "/a/../b", "/..", "/./a", "//metrics"),
                *("/me trics", "/m?x", "/m#x", "/{m}", "/%6d", "/m\n", '/"', "/m\u00e9", "/a//b", "http://x/metrics"),
            )
        ],
    ],
)
def test_wrong_flags_end_with_usage_and_2(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(flags)
    assert ended.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    usage, *what = output.err.splitlines()
    assert usage.startswith("usage: sitecore-cdp-batch-exporter")
    assert what != []
    assert len(what) <= 2, "what is wrong is not lost below a long usage"
    assert "Traceback" not in output.err


@pytest.mark.parametrize(
    ("flags", "addresses"),
    [
        ([], [ListenAddress(None, 10311)]),
        (["--demo"], [ListenAddress("127.0.0.1", 10311)]),
        (["--demo", "--web.listen-address=:80"], [ListenAddress(None, 80)]),
        (
            ["--web.listen-address=:80", "--web.listen-address=[::1]:81"],
            [ListenAddress(None, 80), ListenAddress("::1", 81)],
        ),
    ],
)
def test_the_demo_listens_on_loopback_unless_a_flag_says_otherwise(
    flags: list[str], addresses: list[ListenAddress]
) -> None:
    assert _parse_flags(flags).listen_addresses == addresses


def test_a_url_as_address_is_refused_with_what_to_write(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--web.listen-address=http://localhost:10311"])
    assert "expected host:port or :port, without http://" in capsys.readouterr().err


# The config file


@pytest.mark.parametrize("flags", [["--config.check"], []])
def test_a_missing_config_is_one_line_that_says_what_to_do(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags, f"--config.file={tmp_path / 'none.yaml'}"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    remedy = "name yours with --config.file, with make by CONFIG=PATH, or try --demo, which needs none"
    assert f"none.yaml: No such file or directory; {remedy}" in line


def test_an_invalid_config_does_not_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"api: {{base_url: 'https://user:{SECRET}@x'}}\nbatches: [abc, def]\n", encoding="utf-8")
    assert main([f"--config.file={config}", "--log.format=json"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    messages = [json.loads(line)["msg"] for line in output.err.splitlines()]
    assert [message.removeprefix(f"{config}:")[:1] for message in messages] == ["1", "2", "2"]
    assert SECRET not in output.err


# --web.config.file


def test_a_broken_web_config_does_not_start(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    web_config = tmp_path / "web.yml"
    web_config.write_text(BROKEN_WEB_CONFIG, encoding="utf-8")
    assert main([f"--config.file={config}", f"--web.config.file={web_config}", "--log.format=json"]) == 1
    output = capsys.readouterr()
    messages = [json.loads(line)["msg"] for line in output.err.splitlines()]
    assert [message.removeprefix(f"{web_config}:")[:1] for message in messages] == ["1", "3", "4"]
    assert SECRET not in output.err


def test_a_certificate_that_is_not_there_does_not_start_but_passes_the_check(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web_config = tmp_path / "web.yml"
    web_config.write_text("tls_server_config: {cert_file: a, key_file: b}\n", encoding="utf-8")
    flags = [f"--config.file={config}", f"--web.config.file={web_config}"]
    assert main(flags) == 1
    assert f"cert_file: cannot be read: No such file or directory ({tmp_path / 'a'})" in capsys.readouterr().err
    assert main([*flags, "--config.check"]) == 0
    output = capsys.readouterr()
    assert output.err == ""
    assert "is valid" in output.out


def test_the_log_says_whether_tls_and_passwords_are_on(sandbox: Sandbox, tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for text, tls, basic_auth in (("", "false", "false"), (f"{TLS}{USERS}", "true", "true")):
        flags = [f"--web.config.file={folder.write(text)}"]
        with running_exporter(sandbox, tmp_path, batches=[REF], flags=flags) as exporter:
            assert f"tls={tls} basic_auth={basic_auth}" in exporter.program.output()
            assert stop(exporter) == 0
    with running_exporter(sandbox, tmp_path, batches=[REF]) as exporter:
        assert "tls=false basic_auth=false" in exporter.program.output()


def test_the_log_says_which_api_is_asked(sandbox: Sandbox, tmp_path: Path) -> None:
    with running_exporter(sandbox, tmp_path, api={"endpoint": "batches"}) as exporter:
        assert f"base_url={sandbox.base_url} endpoint=batches " in exporter.program.output()


def test_the_demo_names_its_url_with_tls(tmp_path: Path) -> None:
    web_config = Folder(tmp_path).write(TLS)
    with running_demo(tmp_path, flags=[f"--web.config.file={web_config}"]) as (exporter, _):
        response = requests.get(f"{exporter.url}/metrics", verify=str(tmp_path / "server_ca.crt"), timeout=PATIENCE)
    assert exporter.url.startswith("https://127.0.0.1:")
    assert "sitecore_cdp_up" in response.text


def test_without_the_exporters_metrics_only_those_of_its_process_are_gone(sandbox: Sandbox, tmp_path: Path) -> None:
    with running_exporter(sandbox, tmp_path, batches=[REF]) as exporter:
        everything = set(exporter.scrape())
    with running_exporter(sandbox, tmp_path, batches=[REF], flags=["--web.disable-exporter-metrics"]) as exporter:
        left = set(exporter.scrape())
    assert everything - left == {name for name in everything if name.startswith(("process_", "python_"))}
    assert {"process_resident_memory_bytes", "python_info", "python_gc_collections_total"} <= everything - left
    assert left - everything == set()
    assert "sitecore_cdp_exporter_build_info" in left


# What will not work, said at the start


def test_all_credentials_that_cannot_be_read_are_named_at_the_start(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SITECORE_CDP_CLIENT_KEY", raising=False)
    auth = {"password_file": "none"}
    with running_exporter(sandbox, tmp_path, batches=[REF], api={"basic_auth": auth}) as exporter:
        at_start = exporter.program.output()
        assert 'reason="credentials"' in get(exporter, "/metrics").text
        later = exporter.program.output().removeprefix(at_start)
    (error,) = [line for line in at_start.splitlines() if "level=error" in line]
    assert "cannot ask the Batch API without credentials: " in error
    assert "there is no username: set api.basic_auth.username_file or the environment variable" in error
    assert f"api.basic_auth.password_file ({tmp_path / 'none'}): No such file or directory" in error
    # It was never asked.
    assert "cannot query the Batch API: " in later
    assert "is down" not in later


def test_batch_files_that_are_not_there_are_named_at_the_start(sandbox: Sandbox, tmp_path: Path) -> None:
    with running_exporter(sandbox, tmp_path, batch_files=["none.yaml", "*.none"]) as exporter:
        warnings = [line for line in exporter.program.output().splitlines() if "level=warn" in line]
    assert [line.partition(" path=")[2] for line in warnings] == [f"{tmp_path / 'none.yaml'}"]


# Addresses


@pytest.fixture
def taken_address() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.mark.parametrize(
    "flags",
    [
        ["--web.listen-address="],
        ["--web.listen-address=127.0.0.1:0", "--web.listen-address="],
        ["--web.listen-address=127.0.0.1:0", "--web.health-listen-address="],
        ["--demo", "--web.listen-address="],
    ],
)
def test_a_port_in_use_is_one_line_that_names_the_flag(
    config: Path, taken_address: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    config_flags = [] if "--demo" in flags else [f"--config.file={config}"]
    assert main([*config_flags, *flags[:-1], f"{flags[-1]}{taken_address}"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    remedy = f"choose another with {flags[-1]}HOST:PORT, with make by ARGS={flags[-1]}HOST:PORT"
    assert line.endswith(f'source=cli msg="cannot listen on {taken_address}: Address already in use; {remedy}"')


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("203.0.113.7:10311", "Cannot assign requested address"),
        ("[2001:db8::1]:10311", "(Cannot assign requested address|Address family not supported by protocol)"),
        ("no..name:10311", "this is no host name"),
        (f"{'a' * 64}.invalid:10311", "this is no host name"),
    ],
)
def test_an_address_that_is_not_of_this_machine_is_one_line_and_1(
    config: Path, address: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"--config.file={config}", f"--web.listen-address={address}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(f'msg="cannot listen on {re.escape(address)}: {reason}; ', line)


def test_a_host_without_an_address_is_logged_in_words(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert main([f"--config.file={config}", "--web.listen-address=none.invalid:10311"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.partition("msg=")[2].startswith('"cannot listen on none.invalid:10311: Name or service not known; ')


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0(sandbox: Sandbox, tmp_path: Path, number: int) -> None:
    with running_exporter(sandbox, tmp_path, batches=[REF]) as exporter:
        assert get(exporter, "/metrics").status_code == 200
        assert stop(exporter, number) == 0
        last = exporter.program.output().splitlines()[-1]
    assert last.endswith("level=info source=serve msg=stopping")


def test_a_signal_gives_waiting_scrapes_their_answer_and_waits_for_no_request(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.set_fault(faults.Hang())
    with (
        running_exporter(sandbox, tmp_path, batches=[REF], api={"timeout": "2m"}) as exporter,
        ThreadPoolExecutor(10) as threads,
        exporter_connection(exporter) as idle,
    ):
        scrapes = [threads.submit(get, exporter, path) for path in ("/metrics", f"/probe?target={OTHER_REF}") * 5]
        wait_until(lambda: len(sandbox.requests) == 2)
        # Half a request must not hold up the end either.
        idle.sendall(b"GET / HTTP/1.1\r\n")
        exporter.program.process.send_signal(signal.SIGTERM)
        wait_until(lambda: get(exporter, "/-/ready").status_code == 503)
        assert get(exporter, "/-/healthy").status_code == 200
        for scrape in scrapes:
            assert scrape.result().status_code == 200
            assert 'reason="deadline"' in scrape.result().text
        assert exporter.program.process.wait(PATIENCE) == 0
        assert "Traceback" not in exporter.program.output()
    assert [request.status for request in sandbox.requests] == [None, None]


def exporter_connection(exporter: Exporter) -> socket.socket:
    host, _, port = exporter.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE)


def test_a_resolver_that_hangs_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    config = write_config(
        tmp_path, base_url=f"https://{hanging_resolver.HOST}", basic_auth={"username": "a", "password": "b"}
    )
    flags = [f"--config.file={config}", "--web.listen-address=127.0.0.1:0"]
    with forked(flags, log=tmp_path / "log", command=hanging_resolver.main) as program:
        assert program.process.wait(PATIENCE) == 0, program.output()
    assert "scraped: 200\n" in program.output()
    assert "Traceback" not in program.output()


def test_a_signal_during_the_start_ends_it_and_leaves_signals_as_they_were(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = WebServer.start

    async def start_after_a_signal(self: WebServer, *addresses: Any) -> list[ListenAddress]:  # noqa: ANN401  Those of start.
        os.kill(os.getpid(), signal.SIGTERM)
        return await start(self, *addresses)

    monkeypatch.setattr(WebServer, "start", start_after_a_signal)
    numbers = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        assert main([f"--config.file={config}", "--web.listen-address=127.0.0.1:0"]) == 0
        assert [signal.getsignal(number) for number in numbers] == [signal.SIG_IGN] * 3
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_systemd_learns_when_it_listens_and_when_it_stops(
    config: Path, free_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, _, port = free_address.partition(":")
    states = []

    def notify(state: str) -> None:
        states.append(state)
        # It would be refused before the exporter listens.
        socket.create_connection((host, int(port))).close()
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(systemd, "notify", notify)
    assert main([f"--config.file={config}", f"--web.listen-address={free_address}"]) == 0
    assert states == ["READY=1", "STOPPING=1"]


def test_a_sighup_while_the_config_is_read_loads_it_again(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = load_config

    def load_then_change(path: Path, read: ReadFile) -> Config:
        loaded = load(path, read)
        os.kill(os.getpid(), signal.SIGHUP)
        return loaded

    reloaded: list[Reloader] = []

    def reload(reloader: Reloader) -> None:
        reloaded.append(reloader)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("sitecore_cdp_exporter.service.load_config", load_then_change)
    monkeypatch.setattr(serve, "_reload", reload)
    assert main([f"--config.file={config}", "--web.listen-address=127.0.0.1:0"]) == 0
    assert len(reloaded) == 1


# Logs


@pytest.fixture
def free_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"


def test_the_remaining_flags_do_what_they_say(sandbox: Sandbox, tmp_path: Path, free_address: str) -> None:
    sandbox.set_fault(faults.Hang())
    flags = [f"--web.health-listen-address={free_address}", "--web.telemetry-path=/m", "--web.max-requests=1"]
    with running_exporter(sandbox, tmp_path, batches=[REF], flags=flags) as exporter, ThreadPoolExecutor() as threads:
        scrape = threads.submit(get, exporter, "/m")
        wait_until(lambda: len(sandbox.requests) == 1)
        assert get(exporter, "/m").status_code == 503
        assert requests.get(f"http://{free_address}/-/ready", timeout=PATIENCE).status_code == 200
        assert requests.get(f"http://{free_address}/m", timeout=PATIENCE).status_code == 404
        sandbox.clear_faults()
        assert scrape.result().status_code == 200
        assert get(exporter, "/metrics").status_code == 404


def test_the_log_is_json_if_asked_for(sandbox: Sandbox, tmp_path: Path, free_address: str) -> None:
    config = write_config(tmp_path, base_url=sandbox.base_url, tls_config={"insecure_skip_verify": True})
    flags = [f"--config.file={config}", f"--web.listen-address={free_address}", "--log.format=json"]
    with forked(flags, log=tmp_path / "log") as program:
        wait_until(lambda: program.process.poll() is not None or answers_ok(f"http://{free_address}/-/ready"))
        program.process.terminate()
        assert program.process.wait(PATIENCE) == 0
    insecure, listening, stopping = [json.loads(line) for line in program.output().splitlines()]
    assert listening.items() >= {"version": __version__, "address": free_address, "watched_batches": 2}.items()
    assert insecure["level"] == "warn"
    assert "insecure_skip_verify" in insecure["msg"]
    assert stopping["msg"] == "stopping"


def test_no_error_shows_a_secret(tmp_path: Path) -> None:
    token, client_key = f"token-{SECRET}", f"client-{SECRET}"
    secret_url = f"https://{SECRET}.invalid/{SECRET}?signature={SECRET}"
    broken: list[faults.Fault] = [
        faults.Status(403, body=SECRET),
        faults.Status(404, body=SECRET),
        faults.Status(429, retry_after=SECRET, body=SECRET),
        faults.Status(503, body=SECRET),
        faults.Hang(),
        faults.DripHeaders(),
        faults.DripBody(),
        faults.CutBody(),
        faults.CutConnection(),
        faults.CutConnection(reset=True),
        faults.MalformedJson(),
        faults.Html(),
        faults.LargeBody(2),
        faults.GzipBomb(2),
        faults.Redirect(secret_url),
        faults.SetCookie(SECRET, SECRET),
        faults.Body(SECRET.encode()),
        faults.Body(f'{{"status": {{"code": "{SECRET}", "log": "{secret_url}"}}}}'.encode()),
        faults.Body(f'{{"status": {{"code": "error"}}, "createdAt": "{secret_url}"}}'.encode()),
        faults.Body(b"x", content_encoding=SECRET),
        faults.Body(b"x", content_encoding="gzip"),
    ]
    refs = [f"12af3453-62da-4b31-b646-{number:012}" for number in range(len(broken) + 1)]
    flags = ["--log.level=debug"]
    basic_auth = {"username": client_key, "password": token}
    shown = ""
    with Sandbox(client_key=client_key, api_token=token) as sandbox:
        for ref, fault in zip(refs, [*broken, None], strict=True):
            sandbox.put_batch(ref, status="error", total=2, failed=1, log=True)
            if fault is not None:
                sandbox.set_fault(fault, ref=ref)
        listed = requests.get(f"{sandbox.base_url}/v2/batches/{refs[-1]}", auth=(client_key, token), timeout=PATIENCE)
        log_url = listed.json()["status"]["log"]
        api = {"basic_auth": basic_auth, "timeout": "500ms"}
        with running_exporter(sandbox, tmp_path, batches=refs, api=api, flags=flags) as exporter:
            shown += get(exporter, "/metrics").text
            sandbox.set_api_token("another")
            shown += get(exporter, f"/probe?target={OTHER_REF}").text + get(exporter, "/metrics").text
            shown += get(exporter, "/").text
            assert stop(exporter) == 0
            shown += exporter.program.output()
        api |= {"base_url": "https://api.example", "proxy_url": f"http://proxy:{SECRET}@127.0.0.1:1"}
        with running_exporter(sandbox, tmp_path, batches=refs, api=api, flags=flags) as exporter:
            shown += get(exporter, "/metrics").text + get(exporter, "/").text + exporter.program.output()
    assert "a batch cannot be read" in shown
    assert "unauthorized" in shown
    for secret in (SECRET, log_url, log_url.partition("?")[0], log_url.partition("?")[2]):
        assert secret not in shown
    assert "Traceback" not in shown
    # As a reason; it is also a cause, which the counters of a feed show with 0.
    assert not re.search('reason="?internal', shown)
