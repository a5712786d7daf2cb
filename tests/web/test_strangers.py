"""Clients, files and answers that mean no good: while they try, a normal scrape is answered, within bounds."""

import gc
import json
import logging
import os
import re
import resource
import shlex
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from sitecore_cdp_exporter.cli import main
from sitecore_cdp_exporter.config.model import WatchedBatch
from sitecore_cdp_exporter.web import connections
from sitecore_cdp_exporter.web.server import MAX_CONNECTIONS
from tests.conditions import wait_until
from tests.exporter_program import API_TOKEN, CLIENT_KEY, running_exporter
from tests.web.security.web_config_server import TLS, USERS, Folder, SecureServerThread, secure_server
from tests.web.test_server import faults_logged, has_been_asked, read_all
from tests.web.web_server_thread import (
    LARGE_ANSWER,
    PATIENCE,
    ScriptedPoller,
    WebServerThread,
    exporter_of,
    large_snapshot,
)
from tools.exporter_program import COMMAND
from tools.program import running, wait_for_address
from tools.sandbox import Sandbox, faults

REF = "12af3453-62da-4b31-b646-631b7b5f3009"
OTHER_REF = "3ee694e5-0b77-2d1e-af19-1aa78f500785"
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-Prometheus-Scrape-Timeout-Seconds: 100\r\n\r\n"
HEALTHY = b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n"
# What breaks out of a label, a line, a page or a terminal, if anything lets it.
HOSTILE = (
    'x"} 1\nsitecore_cdp_up 1\n# HELP \\" \\n \\\\ </td><script>alert(1)</script><img src=x onerror=alert(1)> '
    "&amp; ' {{ $labels.ref }} \r \x1b[2J \x07 \x9b31m \x7f"
)
# What a config file cannot hold at all, and a feed's name cannot hold either.
PRINTABLE_HOSTILE = re.sub(r"[\x00-\x1f\x7f-\x9f]", "", HOSTILE)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        sandbox.put_batch(REF, status="processing", total=7)
        yield sandbox


@pytest.fixture
def exporter(sandbox: Sandbox) -> Iterator[WebServerThread]:
    with exporter_of(sandbox, [WatchedBatch(ref=REF)]) as exporter:
        yield exporter


@pytest.fixture
def server() -> Iterator[WebServerThread]:
    with WebServerThread(ScriptedPoller()) as server:
        yield server


def is_served(server: WebServerThread) -> bool:
    """Return whether a second client gets what it came for."""
    scrape = server.get("/metrics")
    return scrape.ok and "sitecore_cdp_watched_batches" in scrape.text and server.get("/-/healthy").ok


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def send_until_it_is_too_much(connection: socket.socket, pieces: Iterator[bytes]) -> int:
    """Send until the server has enough, and return how much it took."""
    sent = 0
    with suppress(ConnectionError):
        for piece in pieces:
            connection.sendall(piece)
            sent += len(piece)
    return sent


# Crowds


@pytest.mark.parametrize(
    ("sent", "limit"),
    [
        pytest.param(b"", 100, id="silent"),
        # As many as the server takes if nothing else is asked for.
        pytest.param(b"GET /metrics HTTP/1.1\r\nHost: a\r\nX-Half: ", MAX_CONNECTIONS, id="half a request"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 50, 100, id="many headers"),
        pytest.param(b"POST /-/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n", 100, id="no body"),
        pytest.param(HEALTHY, 100, id="kept alive"),
        pytest.param(SCRAPE, 100, id="never reads"),
    ],
)
def test_many_slow_connections_do_not_prevent_a_scrape(sandbox: Sandbox, sent: bytes, limit: int) -> None:
    crowd = limit + 50
    needed = 3 * crowd + 200  # Both ends of each are in this process, and the server leaves a third for all else.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"needs {needed} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        exporter = stack.enter_context(exporter_of(sandbox, [WatchedBatch(ref=REF)], max_connections=limit))
        before = resident_bytes()
        for number in range(crowd):
            stack.enter_context(exporter.connect(sent))
            if number % 100 == 0:
                wait_until(lambda: is_served(exporter))
        # Scrapes of a crowd are at most 64 at once, and each ends soon.
        wait_until(lambda: is_served(exporter))
        wait_until(lambda: exporter.connections() <= limit)
        assert resident_bytes() - before < 100_000 * crowd


def test_few_open_files_are_shared_so_that_a_crowd_leaves_room(sandbox: Sandbox, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"api": {"base_url": sandbox.base_url}, "batches": [REF]}), encoding="utf-8")
    exporter = shlex.join([*COMMAND, f"--config.file={config}", "--web.listen-address=127.0.0.1:0"])
    command = ["bash", "-c", f"ulimit -n 90; exec {exporter}"]
    with running(command, log=tmp_path / "exporter.log") as program, ExitStack() as stack:
        port = int(wait_for_address(program).removeprefix("127.0.0.1:"))

        def connect(_: int) -> None:
            stack.enter_context(socket.create_connection(("127.0.0.1", port), PATIENCE)).sendall(b"GET / HTTP/1.1\r\n")

        # At once, because they wait for each other otherwise.
        with ThreadPoolExecutor(110) as threads:
            list(threads.map(connect, range(110)))
        for path in ("/-/healthy", "/metrics", "/"):
            assert requests.get(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE).status_code == 200
        assert "out of system resource" not in program.output()


def test_many_connections_without_a_handshake_do_not_prevent_a_scrape(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write(f"{TLS}{USERS}")
    with secure_server(folder) as server, ExitStack() as stack:
        before = resident_bytes()
        for number in range(250):
            stack.enter_context(server.connect(b"\x16\x03\x01\x02\x00"[: number % 6]))
            if number % 100 == 0:
                assert has_scraped(server)
        assert has_scraped(server)
        gc.collect()
        assert resident_bytes() - before < 150_000_000


def has_scraped(server: SecureServerThread) -> bool:
    return server.get("/metrics", auth=("prometheus", "change-me")).ok


# Requests that are too large


def endless_header() -> Iterator[bytes]:
    while True:
        yield b"a" * 4000


def endless_headers() -> Iterator[bytes]:
    while True:
        yield b"X: " + b"a" * 4000 + b"\r\n"


def small_headers() -> Iterator[bytes]:
    while True:
        yield b"X: a\r\n" * 600


@pytest.mark.parametrize(
    ("beginning", "pieces"),
    [
        pytest.param(b"GET /", endless_header, id="path"),
        pytest.param(b"GET / HTTP/1.1\r\nX: ", endless_header, id="header"),
        pytest.param(b"GET / HTTP/1.1\r\n", endless_headers, id="headers"),
        pytest.param(b"GET / HTTP/1.1\r\n", small_headers, id="small headers"),
        pytest.param(HEALTHY + b"GET / HTTP/1.1\r\n", endless_headers, id="after another request"),
        pytest.param(b"", endless_header, id="method"),
        pytest.param(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", endless_headers, id="chunks"),
        pytest.param(b"POST /-/reload HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n", endless_header, id="body"),
        pytest.param(
            b"PUT / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9999999\r\n\r\n", endless_header, id="put"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n", endless_header, id="upgrade"),
    ],
)
def test_a_request_without_an_end_is_cut_off(
    server: WebServerThread,
    caplog: pytest.LogCaptureFixture,
    beginning: bytes,
    pieces: Callable[[], Iterator[bytes]],
) -> None:
    with caplog.at_level(logging.INFO), server.connect(beginning) as connection:
        # What it took is in the buffers of the system, too.
        assert send_until_it_is_too_much(connection, pieces()) < 20_000_000
    assert is_served(server)
    assert faults_logged(caplog) == []


def test_many_requests_without_an_end_are_cut_off_before_they_are_kept(server: WebServerThread) -> None:
    headers = (b"X: " + b"a" * 7000 + b"\r\n") * 20
    with ExitStack() as stack:
        for _ in range(200):
            connection = stack.enter_context(server.connect(b"GET / HTTP/1.1\r\n"))
            with suppress(ConnectionError):
                connection.sendall(headers)
        wait_until(lambda: server.connections() == 0)
        assert is_served(server)


def test_what_follows_a_request_counts_from_its_end(server: WebServerThread) -> None:
    with server.connect(HEALTHY) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        with suppress(ConnectionError):
            connection.sendall(b"GET / HTTP/1.1\r\n" + (b"X: " + b"a" * 7000 + b"\r\n") * 5)
        # It is cut off, and not kept until its time is over.
        assert read_all(connection) == b""


def test_a_head_of_the_usual_size_is_accepted(server: WebServerThread) -> None:
    headers = {f"X-{number}": "a" * 1000 for number in range(20)} | {"Cookie": "a" * 8000}
    with requests.Session() as session:
        for _ in range(3):
            url = f"http://127.0.0.1:{server.port}/metrics"
            assert session.get(url, headers=headers, timeout=PATIENCE).status_code == 200


# Answers that nobody reads


@pytest.mark.parametrize(
    ("web_config", "bound", "answers", "fewer_than"),
    [
        pytest.param("", 6, 1, 15, id="plain"),
        pytest.param(TLS, 10, 1, 15, id="TLS"),
        # What is written after the first answer waits above TLS, and not below it.
        pytest.param(TLS, 14, 2, 10, id="TLS, two answers each"),
    ],
)
def test_clients_that_read_nothing_bound_what_is_kept_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web_config: str, bound: int, answers: int, fewer_than: int
) -> None:
    monkeypatch.setattr(connections, "MAX_UNREAD_BYTES", bound * LARGE_ANSWER)
    folder, poller = Folder(tmp_path), ScriptedPoller(large_snapshot())
    folder.write(web_config)
    most = 0
    with secure_server(folder, poller) as server, ExitStack() as stack:
        for number in range(20):
            reader = stack.enter_context(server.open(SCRAPE * answers, receive_buffer=4096))
            assert reader.recv(1)
            wait_until(partial(has_been_asked, poller, answers * (number + 1)))
            most = max(most, server.connections())
        # The system's buffers hold a part of each.
        assert connections.NEWEST_KEPT < most < fewer_than
        assert len(server.get("/metrics").content) > LARGE_ANSWER


@pytest.mark.parametrize(("web_config", "stay"), [("", 20), (TLS, 7)], ids=["plain", "TLS"])
def test_clients_that_stay_after_a_large_answer_bound_what_tls_keeps_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web_config: str, stay: int
) -> None:
    monkeypatch.setattr(connections, "MAX_UNREAD_BYTES", 8 * LARGE_ANSWER)
    folder = Folder(tmp_path)
    folder.write(web_config)
    with secure_server(folder, ScriptedPoller(large_snapshot())) as server, ExitStack() as stack:
        for _ in range(20):
            left = LARGE_ANSWER
            reader = stack.enter_context(server.open(SCRAPE))
            while left > 0:
                left -= len(reader.recv(1_000_000))
        # OpenSSL keeps as much memory for a connection as its largest answer took.
        wait_until(lambda: server.connections() == stay)


@pytest.mark.parametrize("web_config", ["", TLS], ids=["plain", "TLS"])
def test_small_answers_to_others_drop_nobody_who_is_still_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, web_config: str
) -> None:
    monkeypatch.setattr(connections, "MAX_UNREAD_BYTES", 1)
    folder = Folder(tmp_path)
    folder.write(web_config)
    with secure_server(folder, ScriptedPoller(large_snapshot())) as server, ExitStack() as stack:
        slow = stack.enter_context(server.open(SCRAPE, receive_buffer=65536))
        left = LARGE_ANSWER - len(slow.recv(1))
        for _ in range(2 * connections.NEWEST_KEPT):
            other = stack.enter_context(server.open(HEALTHY))
            assert other.recv(1000).startswith(b"HTTP/1.1 200")
        while left > 0 and (piece := slow.recv(1_000_000)):
            left -= len(piece)
        assert left <= 0


# /probe


def test_probes_never_exceed_the_concurrency_towards_the_api() -> None:
    refs = [f"12af3453-62da-4b31-b646-{number:012}" for number in range(30)]
    with Sandbox() as sandbox:
        for ref in refs:
            sandbox.put_batch(ref)
        sandbox.set_fault(faults.Delay(0.1))
        with exporter_of(sandbox, max_requests=60) as exporter, ThreadPoolExecutor(30) as threads:
            scraped = threads.map(lambda ref: exporter.get(f"/probe?target={ref}"), refs * 2)
            assert {response.status_code for response in scraped} <= {200, 503}
        assert 1 < sandbox.most_concurrent_requests <= 16
        assert {request.method for request in sandbox.requests} == {"GET"}


@pytest.mark.parametrize(
    "target",
    [
        *("http://169.254.169.254/latest/meta-data", "//evil.example", "evil.example:80", "../../admin", "..%2f..%2f"),
        *(f"{REF}?a=b", f"{REF}%23", f"{REF}/../x", f"{REF}%0d%0aX-Evil:%201", f"{REF};x", f"{REF}@evil", "%00", "*"),
        *("file:///etc/passwd", "{{7*7}}", "$(id)", "' OR 1=1 --", "<script>", "\u202e", "a" * 7000),
    ],
)
def test_a_hostile_target_is_never_requested(sandbox: Sandbox, exporter: WebServerThread, target: str) -> None:
    response = exporter.get(f"/probe?target={target}")
    assert response.status_code == 400
    # Nothing of it is in the answer.
    assert response.text == "Name one batch: /probe?target=<ref>, where <ref> is a UUID.\n"
    assert response.headers["Content-Type"].startswith("text/plain")
    assert sandbox.requests == []


def test_the_host_and_forwarding_headers_choose_nothing(sandbox: Sandbox, exporter: WebServerThread) -> None:
    headers = {
        "Host": "evil.example",
        "X-Forwarded-Host": "evil.example",
        "X-Original-URL": "/-/reload",
        "X-HTTP-Method-Override": "DELETE",
        "Forwarded": "host=evil.example",
        "Proxy": "http://evil.example",
    }
    for path in ("/", "/metrics", f"/probe?target={REF}"):
        response = exporter.get(path, headers=headers)
        assert response.status_code == 200
        assert "evil.example" not in response.text
        assert "evil.example" not in str(response.headers)
    assert {request.method for request in sandbox.requests} == {"GET"}


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "get", "G" * 100, "DELETE"])
def test_no_method_reflects_or_changes_anything(exporter: WebServerThread, method: str) -> None:
    with exporter.connect() as connection:
        request = f"{method} / HTTP/1.1\r\nHost: a\r\nX-Secret: x5ecretx\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        received = read_all(connection)
    assert re.match(rb"HTTP/1\.[01] (400|404|405)", received)
    assert b"x5ecretx" not in received
    assert is_served(exporter)


# What answers reveal about the server


@pytest.mark.parametrize(
    "sent", [b"what\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n"]
)
def test_a_refusal_names_no_software_and_is_plain_text(server: WebServerThread, sent: bytes) -> None:
    with server.connect(sent) as connection:
        head, _, body = read_all(connection).partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 400 ", head)
    assert b"\r\nServer: sitecore-cdp-batch-exporter\r\n" in head + b"\r\n"
    assert b"\r\nX-Content-Type-Options: nosniff\r\n" in head + b"\r\n"
    assert b"text/plain" in head
    assert re.search(rb"aiohttp|python", head + body, re.IGNORECASE) is None


def test_the_page_lets_a_browser_do_nothing_but_show_it(server: WebServerThread) -> None:
    headers = server.get("/").headers
    policy = dict(rule.strip().split(" ", 1) for rule in headers["Content-Security-Policy"].split(";"))
    assert policy.pop("style-src") == "'unsafe-inline'"
    assert policy == dict.fromkeys(["default-src", "base-uri", "form-action", "frame-ancestors"], "'none'")
    assert (headers["X-Frame-Options"], headers["X-Content-Type-Options"]) == ("deny", "nosniff")
    assert headers["Referrer-Policy"] == "no-referrer"


# What others write


class Elements(HTMLParser):
    """Collects the elements and attributes of a page, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found |= {tag, *(name for name, _ in attrs)}

    def handle_data(self, data: str) -> None:
        self.text += data


def test_what_config_files_and_batch_files_hold_stays_inside_of_its_label(tmp_path: Path) -> None:
    file_name = 'a"b\\c\n<script>.yaml'
    entry = {"ref": OTHER_REF, "feed": PRINTABLE_HOSTILE, "labels": {"note": HOSTILE}}
    (tmp_path / file_name).write_text(json.dumps([entry, {"ref": HOSTILE, HOSTILE: HOSTILE}]), encoding="utf-8")
    batches = [{"ref": REF, "feed": PRINTABLE_HOSTILE, "labels": {"note": HOSTILE}}]
    feeds = [{"name": PRINTABLE_HOSTILE, "labels": {"owner": HOSTILE}, "expect_success_every": "1h"}]
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        for ref in (REF, OTHER_REF):
            sandbox.put_batch(ref, status="success", total=1)
        with running_exporter(
            sandbox, tmp_path, batches=batches, feeds=feeds, batch_files=["a*.yaml"], flags=["--log.level=debug"]
        ) as exporter:
            text = requests.get(f"{exporter.url}/metrics", timeout=PATIENCE).text
            page = requests.get(exporter.url, timeout=PATIENCE).text
            exporter.program.process.send_signal(signal.SIGTERM)
            exporter.program.process.wait(PATIENCE)
            log = exporter.program.output().encode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    for ref in (REF, OTHER_REF):
        [labels] = [
            sample.labels
            for sample in samples
            if sample.name == "sitecore_cdp_batch_poll_success" and sample.labels["ref"] == ref
        ]
        assert (labels["feed"], labels["note"], labels["owner"]) == (PRINTABLE_HOSTILE, HOSTILE, HOSTILE)
    assert [sample.value for sample in samples if sample.name == "sitecore_cdp_up"] == [1]
    assert file_name.replace("\n", r"\n") in {sample.labels.get("file") for sample in samples}
    elements = Elements(page)
    assert elements.found.isdisjoint({"script", "img", "onerror", "src"})
    assert "<script>alert(1)</script>" in elements.text
    # No new line was started, and no control character reached a terminal.
    assert re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", log) is None
    assert all(line.startswith(b"time=") for line in log.splitlines())


@pytest.mark.parametrize("endpoint", ["batches", "inspect"])
def test_what_the_api_answers_reaches_no_label_page_or_log(endpoint: str, tmp_path: Path) -> None:
    answers = [
        {"status": {"code": HOSTILE, "log": HOSTILE}, "ref": REF, "location": {"uri": HOSTILE}},
        {"status": {"code": "processing"}, "ref": HOSTILE},
        {"status": {"code": "processing"}, "ref": REF, "createdAt": HOSTILE},
        {"status": {"code": "processing"}, "ref": REF, "size": HOSTILE, HOSTILE: HOSTILE},
        {"status": HOSTILE, "summaryStats": HOSTILE},
        HOSTILE,
    ]
    with (
        Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox,
        running_exporter(
            sandbox, tmp_path, batches=[REF], api={"endpoint": endpoint}, flags=["--log.level=debug"]
        ) as exporter,
    ):
        for answer in answers:
            for status in (200, 400, 503):
                sandbox.set_fault(faults.Body(json.dumps(answer).encode(), status=status))
                for path in ("/metrics", f"/probe?target={REF}", "/"):
                    response = requests.get(f"{exporter.url}{path}", timeout=PATIENCE)
                    assert response.status_code == 200
                    assert "alert(1)" not in response.text
                    assert "onerror" not in response.text
        assert "alert(1)" not in exporter.program.output()


def test_an_unknown_status_is_the_unknown_one(sandbox: Sandbox, exporter: WebServerThread) -> None:
    sandbox.set_fault(faults.Body(json.dumps({"status": {"code": HOSTILE}, "ref": REF}).encode()))
    text = exporter.get("/metrics").text
    statuses = set(re.findall(r'sitecore_cdp_batch_status\{.*status="(.*?)"', text))
    assert statuses == {"uploading", "file_uploaded", "processing", "success", "corrupted", "error", "unknown"}


def test_a_config_that_would_inject_is_refused_in_one_plain_line_each(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    config = tmp_path / "config.yaml"
    document = {
        "api": {"base_url": "https://x.example/\r\nHost: evil"},
        "batches": [{"ref": HOSTILE}, {"ref": REF, "labels": {HOSTILE: "x", "a-b": "x", "__name__": "x", "le": "x"}}],
        "feeds": [{"name": HOSTILE}],
        HOSTILE: HOSTILE,
    }
    config.write_text(json.dumps(document), encoding="utf-8")
    assert main([f"--config.file={config}", "--config.check"]) == 1
    printed = capfdbinary.readouterr()
    assert printed.out == b""
    lines = printed.err.split(b"\n")[:-1]
    assert len(lines) == 8
    assert all(line.startswith(f"{config}:1: ".encode()) for line in lines)
    assert re.search(rb"[\x00-\x09\x0b-\x1f\x7f]|\xc2[\x80-\x9f]", printed.err) is None


# All at once


def test_a_scrape_is_answered_amid_hostile_clients(sandbox: Sandbox, exporter: WebServerThread) -> None:
    sandbox.set_fault(faults.Delay(0.02))
    stop = threading.Event()

    def garbage() -> None:
        while not stop.is_set():
            for sent in (
                b"\x16\x03\x01\x02\x00",
                b"GET /" + b"a" * 100_000,
                b"\x00" * 1000,
                HEALTHY * 20,
                b"X: " * 9000,
            ):
                with suppress(OSError), exporter.connect(sent) as connection:
                    connection.shutdown(socket.SHUT_WR)
                    read_all(connection)

    def probes() -> None:
        for number in range(10_000):
            if stop.is_set():
                return
            with suppress(requests.RequestException):
                exporter.get(f"/probe?target=12af3453-62da-4b31-b646-{number:012}")

    with ThreadPoolExecutor(6) as threads:
        strangers = [threads.submit(each) for each in (garbage, garbage, probes, probes)]
        try:
            for _ in range(10):
                text = exporter.get("/metrics").text
                assert f'sitecore_cdp_batch_total_records{{ref="{REF}"}} 7.0' in text
                assert exporter.get("/-/healthy").ok
        finally:
            stop.set()
        for stranger in strangers:
            stranger.result()
    assert sandbox.most_concurrent_requests <= 16
