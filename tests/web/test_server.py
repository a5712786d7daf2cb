import gzip
import http.client
import io
import logging
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from sitecore_cdp_exporter.config.model import WatchedBatch
from sitecore_cdp_exporter.web import server as web
from tests.conditions import wait_until
from tests.exporter_program import API_TOKEN, CLIENT_KEY, Exporter, running_exporter
from tests.web.web_server_thread import PATIENCE, ScriptedPoller, WebServerThread, exporter_of
from tools.sandbox import Sandbox, faults

LISTED = "12af3453-62da-4b31-b646-631b7b5f3009"
UNLISTED = "3ee694e5-0b77-2d1e-af19-1aa78f500785"
MISSING = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
WATCHED = WatchedBatch(ref=LISTED, feed='night "ly"', labels={"team": 'crm\\\n"ä'})
TIMEOUT = "X-Prometheus-Scrape-Timeout-Seconds"
# The exporter keeps this much of the timeout for the way there and back.
RESERVE = 0.5
TEXT = "text/plain; version=0.0.4; charset=utf-8"
TEXT_1 = "text/plain; version=1.0.0; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
# What Prometheus 3 sends as Accept.
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
# Pieces of requests, to be put together wrongly.
PIECES = (
    *(b"GET /metrics", b"POST /probe?target=", b"%ff", b" HTTP/1.1", b"\r\n", b"\r\n\r\n", b":", b"Host: a"),
    *(b"Content-Length: 7", b"Transfer-Encoding: chunked", b"Content-Encoding: gzip", b"Expect: 100-continue"),
    b"Upgrade: websocket\r\nConnection: upgrade",
)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        sandbox.put_batch(LISTED, status="processing")
        sandbox.put_batch(UNLISTED, status="error", total=121776, succeeded=121460, failed=316, log=True)
        yield sandbox


@pytest.fixture
def exporter(sandbox: Sandbox) -> Iterator[WebServerThread]:
    with exporter_of(sandbox, [WATCHED]) as exporter:
        yield exporter


@pytest.fixture
def poller() -> ScriptedPoller:
    return ScriptedPoller()


@pytest.fixture
def server(poller: ScriptedPoller) -> Iterator[WebServerThread]:
    with WebServerThread(poller, max_requests=64) as server:
        yield server


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """The whole exporter, for what only the command wires together."""
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        sandbox.put_batch(LISTED, status="error", total=121776, succeeded=121460, failed=316, log=True)
        batches = [{"ref": LISTED, "feed": "nightly", "labels": {"team": "crm"}}, MISSING]
        flags = ["--web.telemetry-path=/batch/metrics"]
        directory = tmp_path_factory.mktemp("exporter")
        with running_exporter(sandbox, directory, batches=batches, flags=flags) as process:
            yield process


def get(process: Exporter, path: str, **headers: str) -> requests.Response:
    return requests.get(f"{process.url}{path}", headers=headers, timeout=PATIENCE)


def samples(response: requests.Response) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return the labels and values of a scrape by sample name."""
    assert response.status_code == 200
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in parse_text(response.content.decode()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((dict(sample.labels), sample.value))
    return found


def value(response: requests.Response, name: str, **labels: str) -> float | None:
    """Return the value of the one series that has these labels, None if there is none."""
    matching = [
        each
        for has, each in samples(response).get(name, [])
        if all(has.get(key) == text for key, text in labels.items())
    ]
    assert len(matching) <= 1
    return matching[0] if matching else None


def exchange(server: WebServerThread, sent: bytes) -> bytes:
    """Send raw bytes, and read until the server closes the connection."""
    with server.connect() as connection:
        with suppress(ConnectionError):  # The server may refuse it before the last byte.
            connection.sendall(sent)
        return read_all(connection)


def send_much(connection: socket.socket, piece: bytes) -> None:
    """Send more than the system's buffers hold."""
    for _ in range(200_000_000 // len(piece)):
        connection.sendall(piece)


def read_all(connection: socket.socket) -> bytes:
    received = b""
    with suppress(ConnectionResetError):  # The server closed the connection with our bytes unread.
        while piece := connection.recv(65536):
            received += piece
    return received


def scrapes(
    server: WebServerThread, number: int, stack: ExitStack, **options: object
) -> list[Future[requests.Response]]:
    """Begin to scrape, each in a thread of its own."""
    threads = stack.enter_context(ThreadPoolExecutor(number))
    return [threads.submit(server.get, "/metrics", **options) for _ in range(number)]


def has_been_asked(poller: ScriptedPoller, scrapes: int) -> bool:
    return len(poller.deadlines) == scrapes


def faults_logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if is_fault(record)]


def is_fault(record: logging.LogRecord) -> bool:
    """Return whether the server complains, and not some thread of another test."""
    of_the_server = record.name.startswith(("sitecore_cdp_exporter.web.server", "aiohttp", "asyncio"))
    return of_the_server and (record.levelno >= logging.WARNING or record.exc_info is not None)


# /metrics


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (None, TEXT),
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html", TEXT),
        ("text/plain", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        ("text/plain;version=1.0.0;escaping=allow-utf-8", f"{TEXT_1}; escaping=allow-utf-8"),
        ("application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text;version=1.0.0", f"{OPENMETRICS}; escaping=underscores"),
        ("application/openmetrics-text;version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", TEXT),
        (PROMETHEUS_3, f"{OPENMETRICS}; escaping=allow-utf-8"),
        # What means nothing gets the plainest format, never an error.
        ("application/openmetrics-text; version=abc", TEXT),
        ("application/openmetrics-text; version=1.x", TEXT),
        ("application/openmetrics-text; version=", OPENMETRICS),
        ("text/plain; version=-; version=2", TEXT),
        (";;;,,,=;=", TEXT),
        ("x\t;q", TEXT),
    ],
)
def test_the_format_is_negotiated(one_server: WebServerThread, accept: str | None, content_type: str) -> None:
    response = one_server.get("/metrics", headers={"Accept": accept})
    assert response.status_code == 200
    assert response.headers["Content-Type"] == content_type
    assert b"sitecore_cdp_watched_batches" in response.content
    assert response.content.endswith(b"# EOF\n") == content_type.startswith("application/openmetrics-text")


@given(accept=st.text(st.characters(codec="latin-1", exclude_categories=["Cc"])))
@settings(max_examples=15, deadline=None)
def test_no_accept_header_makes_an_error(one_server: WebServerThread, accept: str) -> None:
    for header in (accept, f"application/openmetrics-text;version={accept}", f"text/plain;version=1.0.0.{accept}"):
        assert one_server.get("/metrics", headers={"Accept": header.strip().encode("latin-1")}).status_code == 200


@pytest.fixture(scope="module")
def one_server() -> Iterator[WebServerThread]:
    """One server for all examples of a property, and all rows of a table."""
    with WebServerThread(ScriptedPoller()) as server:
        yield server


@pytest.mark.parametrize(
    ("accept_encoding", "is_packed"),
    [("gzip", True), ("deflate, GZIP;q=1.0", True), ("identity", False), (None, False), ("", False), ("br", False)],
)
def test_gzip_is_used_only_if_accepted(
    one_server: WebServerThread,
    accept_encoding: str | None,
    is_packed: bool,  # noqa: FBT001  A column of the table.
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", one_server.port, timeout=PATIENCE)
    connection.putrequest("GET", "/metrics", skip_accept_encoding=True)
    if accept_encoding is not None:
        connection.putheader("Accept-Encoding", accept_encoding)
    connection.endheaders()
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.headers.get("Content-Encoding") == ("gzip" if is_packed else None)
    assert b"sitecore_cdp_watched_batches" in (gzip.decompress(body) if is_packed else body)
    assert response.headers["Vary"] == "Accept, Accept-Encoding"


def test_both_parsers_of_prometheus_read_the_metrics(process: Exporter) -> None:
    text = get(process, "/batch/metrics").text
    openmetrics = get(process, "/batch/metrics", Accept="application/openmetrics-text").text
    names = {family.name for family in parse_text(text)}
    assert names == {family.name for family in parse_openmetrics(openmetrics)}  # type: ignore[no-untyped-call]
    assert {"sitecore_cdp_batch_status", "sitecore_cdp_up", "sitecore_cdp_api_requests"} <= names


def test_metrics_has_those_of_the_process_and_no_creation_times(process: Exporter) -> None:
    names = samples(get(process, "/batch/metrics"))
    assert {"process_open_fds", "python_info", "python_gc_collections_total"} <= names.keys()
    assert {"sitecore_cdp_exporter_build_info", "sitecore_cdp_api_requests_total"} <= names.keys()
    assert not [name for name in names if name.endswith("_created")]


def test_a_probe_has_the_metrics_of_one_batch_only(process: Exporter) -> None:
    names = samples(get(process, f"/probe?target={LISTED}"))
    assert names["sitecore_cdp_batch_failed_records"] == [({"feed": "nightly", "ref": LISTED, "team": "crm"}, 316)]
    assert {name for name in names if not name.startswith("sitecore_cdp_batch_")} == set()


def test_an_error_batch_has_all_its_numbers(process: Exporter) -> None:
    response = get(process, "/batch/metrics")
    assert value(response, "sitecore_cdp_batch_status", ref=LISTED, status="error") == 1
    assert sum(each for _, each in samples(response)["sitecore_cdp_batch_status"]) == 1
    assert value(response, "sitecore_cdp_batch_status_code", ref=LISTED) == 5
    assert value(response, "sitecore_cdp_batch_poll_success", ref=LISTED) == 1
    assert value(response, "sitecore_cdp_batch_poll_success", ref=MISSING) == 0
    assert value(response, "sitecore_cdp_batch_poll_failure", ref=MISSING, reason="not_found") == 1


def test_label_values_survive_the_format(exporter: WebServerThread) -> None:
    labels, _ = samples(exporter.get("/metrics"))["sitecore_cdp_batch_poll_success"][0]
    assert labels == {"ref": LISTED, "feed": WATCHED.feed, **WATCHED.labels}


@pytest.mark.parametrize(
    "path", ["/", "/-/healthy", "/-/ready", "/batch/metrics", f"/batches/{LISTED}", f"/probe?target={LISTED}"]
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_other_methods_than_get_are_refused(process: Exporter, method: str, path: str) -> None:
    response = requests.request(method, f"{process.url}{path}", timeout=PATIENCE, data=b"x")
    assert response.status_code == 405
    assert "GET" in response.headers["Allow"].split(",")


def test_head_is_answered_without_a_scrape(server: WebServerThread, poller: ScriptedPoller) -> None:
    for path in ("/metrics", f"/probe?target={LISTED}"):
        response = requests.head(f"http://127.0.0.1:{server.port}{path}", timeout=PATIENCE)
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert poller.deadlines == []


@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "/batch", "/batch/metrics/", "//batch/metrics", "/Batch/metrics", "/batch/metrics%0a"),
        *(
            "/probe/",
            "/batches",
            "/batches/",
            f"/batches/{LISTED}/",
            "/-/",
            "/-/reload/",
            "/%00",
            "/favicon.ico",
            "/-/healthy/../../x",
            "/" + "a" * 8000,
        ),
    ],
)
def test_other_paths_are_not_found(process: Exporter, path: str) -> None:
    connection = http.client.HTTPConnection(process.url.removeprefix("http://"), timeout=PATIENCE)
    connection.request("GET", path)
    assert connection.getresponse().status == 404
    connection.close()


@pytest.mark.parametrize("query", ["?", "?a=b", "?name[]=x&collect[]=y", "?%zz&&==%ff"])
def test_the_query_of_metrics_is_ignored(process: Exporter, query: str) -> None:
    assert value(get(process, f"/batch/metrics{query}"), "sitecore_cdp_batch_status_code", ref=LISTED) == 5


def test_answers_do_not_reveal_what_they_are_made_with(process: Exporter) -> None:
    for path in ("/", "/batch/metrics", "/-/healthy", "/nothing"):
        headers = get(process, path).headers
        assert headers["Server"] == "sitecore-cdp-batch-exporter"
        assert headers["X-Content-Type-Options"] == "nosniff"


# The deadline


@pytest.mark.parametrize(("header", "timeout"), [("5", 5.0), ("1e9", 120.0), (None, 10.0)])
def test_the_scrape_timeout_sets_the_deadline(
    server: WebServerThread, poller: ScriptedPoller, header: str | None, timeout: float
) -> None:
    before = time.monotonic()
    for path in ("/metrics", f"/probe?target={LISTED}"):
        headers = {} if header is None else {TIMEOUT: header.encode()}
        assert server.get(path, headers=headers).status_code == 200
    after = time.monotonic()
    for deadline in poller.deadlines:
        assert before + timeout - RESERVE <= deadline <= after + timeout - RESERVE


def test_of_two_timeouts_the_first_counts(server: WebServerThread, poller: ScriptedPoller) -> None:
    before = time.monotonic()
    head = "GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    assert b"200 OK" in exchange(server, f"{head}{TIMEOUT}: 7\r\n{TIMEOUT}: 70\r\n\r\n".encode())
    assert before + 7 - RESERVE <= poller.deadlines[0] <= time.monotonic() + 7 - RESERVE


class SlowCollector(Collector):
    """Makes the encoding of a scrape slow."""

    seconds = 0.4

    def collect(self) -> Iterator[Metric]:
        time.sleep(self.seconds)
        yield from ()


def test_the_reserve_follows_the_last_encoding_of_the_same_path(poller: ScriptedPoller) -> None:
    registry = CollectorRegistry()
    registry.register(SlowCollector())
    with WebServerThread(poller, registry=registry) as server:
        for path in ("/metrics", f"/probe?target={LISTED}", "/metrics", f"/probe?target={LISTED}"):
            before = time.monotonic()
            server.get(path)
    *_, scrape, _ = poller.times_left
    assert scrape <= 10 - 1.5 * SlowCollector.seconds
    assert poller.deadlines[-1] >= before + 10 - RESERVE


@pytest.mark.parametrize("hasty_first", [True, False])
def test_a_scrape_with_a_short_deadline_does_not_shorten_a_shared_poll(
    sandbox: Sandbox,
    exporter: WebServerThread,
    hasty_first: bool,  # noqa: FBT001  A column of the table.
) -> None:
    sandbox.set_fault(faults.Hang())
    with ExitStack() as stack:
        if hasty_first:
            hasty = exporter.get("/metrics", headers={TIMEOUT: "1e-9"})
        patient = scrapes(exporter, 1, stack, headers={TIMEOUT: "100"})[0]
        wait_until(lambda: len(sandbox.requests) == 1)
        if not hasty_first:
            hasty = exporter.get("/metrics", headers={TIMEOUT: "1e-9"})
        assert not patient.done()
        sandbox.clear_faults()
        assert value(patient.result(), "sitecore_cdp_batch_status_code", ref=LISTED) == 2
    assert value(hasty, "sitecore_cdp_batch_poll_failure", reason="deadline", ref=LISTED) == 1
    assert value(hasty, "sitecore_cdp_batch_status_code", ref=LISTED) is None
    assert len(sandbox.requests) == 1


def test_a_scrape_of_a_stuck_api_ends_by_its_deadline(sandbox: Sandbox, exporter: WebServerThread) -> None:
    sandbox.set_fault(faults.Hang())
    response = exporter.get("/metrics", headers={TIMEOUT: "0.7"})
    assert value(response, "sitecore_cdp_batch_poll_failure", reason="deadline", ref=LISTED) == 1
    sandbox.clear_faults()


# /probe


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?",
        "?target",
        "?target=",
        "?Target=" + LISTED,
        f"?target={LISTED}&target={LISTED}",
        f"?target={LISTED}&target=",
        f"?target={LISTED}%0a",
        f"?target=%20{LISTED}",
        f"?target={LISTED[:-1]}",
        f"?target={{{LISTED}}}",
        f"?target={LISTED.replace('-', '')}",
        "?target=http://example.com/" + LISTED,
        "?target=../../../" + LISTED,
        f"?target={LISTED}/../..",
        f"?target={LISTED}%00",
        "?target=%ff%fe",
        "?target=\uff11\uff12af3453-62da-4b31-b646-631b7b5f3009",
        "?target=" + "a" * 8000,
        "?target=" + "a" * 100_000,
    ],
)
def test_a_target_that_is_not_one_uuid_is_refused(one_server: WebServerThread, query: str) -> None:
    response = one_server.get(f"/probe{query}")
    assert response.status_code == 400
    assert "aaaa" not in response.text[300:]
    # The stand-in for the API lets no request through.
    assert one_server.get("/-/healthy").status_code == 200


def test_an_unlisted_batch_has_its_ref_alone(exporter: WebServerThread) -> None:
    found = samples(exporter.get(f"/probe?target={UNLISTED}"))
    assert found["sitecore_cdp_batch_total_records"] == [({"ref": UNLISTED}, 121776)]
    assert {tuple(labels) for labels, _ in found["sitecore_cdp_batch_poll_success"]} == {("ref",)}


def test_a_listed_batch_keeps_feed_and_labels_for_a_target_in_any_case(exporter: WebServerThread) -> None:
    for target in (LISTED, LISTED.upper()):
        found = samples(exporter.get(f"/probe?target={target}"))
        labels = {"ref": LISTED, "feed": WATCHED.feed, **WATCHED.labels}
        assert found["sitecore_cdp_batch_poll_success"] == [(labels, 1)]


def test_a_probe_of_a_batch_that_the_api_does_not_know_is_a_scrape(exporter: WebServerThread) -> None:
    response = exporter.get(f"/probe?target={MISSING}")
    assert value(response, "sitecore_cdp_batch_poll_success", ref=MISSING) == 0
    assert value(response, "sitecore_cdp_batch_poll_failure", ref=MISSING, reason="not_found") == 1


def test_a_probe_never_changes_up(sandbox: Sandbox) -> None:
    sandbox.put_batch(LISTED, status="success")
    with exporter_of(sandbox, [WATCHED]) as exporter:
        exporter.get(f"/probe?target={UNLISTED}")
        assert "sitecore_cdp_up" not in samples(exporter.get("/metrics", headers={TIMEOUT: "1e-9"}))
        assert value(exporter.get("/metrics"), "sitecore_cdp_up") == 1
        sandbox.set_fault(faults.Status(500))
        assert value(exporter.get(f"/probe?target={MISSING}"), "sitecore_cdp_batch_poll_failure", reason="server_error")
        assert value(exporter.get("/metrics"), "sitecore_cdp_up") == 1


def test_a_token_that_a_probe_found_revoked_is_not_up(sandbox: Sandbox, exporter: WebServerThread) -> None:
    assert value(exporter.get("/metrics"), "sitecore_cdp_up") == 1
    sandbox.set_api_token("another")
    exporter.get(f"/probe?target={UNLISTED}")
    assert value(exporter.get("/metrics"), "sitecore_cdp_up") == 0


def test_probes_and_scrapes_share_concurrency(sandbox: Sandbox) -> None:
    refs = [f"12af3453-62da-4b31-b646-{number:012}" for number in range(40)]
    for ref in refs:
        sandbox.put_batch(ref)
    sandbox.set_fault(faults.Hang())
    with (
        exporter_of(sandbox, [WatchedBatch(ref=ref) for ref in refs[:20]]) as exporter,
        ThreadPoolExecutor(30) as threads,
    ):
        paths = ["/metrics"] * 2 + [f"/probe?target={ref}" for ref in refs[20:]]
        responses = threads.map(lambda path: exporter.get(path, headers={TIMEOUT: "100"}), paths)
        wait_until(lambda: sandbox.most_concurrent_requests == 16)
        sandbox.clear_faults()
        for response in responses:
            assert all(each == 1 for _, each in samples(response)["sitecore_cdp_batch_poll_success"])
    assert sandbox.most_concurrent_requests == 16
    assert len(sandbox.requests) == 40


# Health, and bounds on what clients can do


def test_health_answers_while_scrapes_are_stuck_and_clients_send_half_a_request(
    sandbox: Sandbox, exporter: WebServerThread
) -> None:
    sandbox.set_fault(faults.Hang())
    with ExitStack() as stack:
        stuck = scrapes(exporter, 50, stack, headers={TIMEOUT: "100"})
        for number in range(500):
            stack.enter_context(exporter.connect(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\nX-Half: "[: 1 + number % 40]))
        wait_until(lambda: len(sandbox.requests) == 1)
        for port in (exporter.port, exporter.health_port):
            for path in ("/-/healthy", "/-/ready"):
                assert requests.get(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE).status_code == 200
        assert exporter.get("/").status_code == 200
        assert not any(scrape.done() for scrape in stuck)
        sandbox.clear_faults()
        for scrape in stuck:
            assert re.search(
                f'^sitecore_cdp_batch_status_code{{.*ref="{LISTED}".*}} 2.0$', scrape.result().text, re.MULTILINE
            )
    assert len(sandbox.requests) == 1


@pytest.mark.parametrize("path", ["/", "/metrics", f"/probe?target={LISTED}", "/-/reload"])
def test_the_health_listener_serves_nothing_else(exporter: WebServerThread, path: str) -> None:
    response = requests.get(f"http://127.0.0.1:{exporter.health_port}{path}", timeout=PATIENCE)
    assert response.status_code == 404


def test_too_many_scrapes_get_503_until_one_ends(poller: ScriptedPoller) -> None:
    poller.go_on.clear()
    with WebServerThread(poller, max_requests=2) as server, ExitStack() as stack:
        stuck = scrapes(server, 2, stack, headers={TIMEOUT: "100"})
        wait_until(lambda: len(poller.deadlines) == 2)
        for path in ("/metrics", f"/probe?target={LISTED}"):
            response = server.get(path)
            assert response.status_code == 503
            assert "--web.max-requests" in response.text
        assert server.get("/-/healthy").status_code == 200
        assert server.get("/").status_code == 200
        poller.go_on.set()
        assert [scrape.result().status_code for scrape in stuck] == [200, 200]
        wait_until(lambda: server.get("/metrics").status_code == 200)


def test_probes_leave_room_for_scrapes(poller: ScriptedPoller) -> None:
    poller.go_on.clear()
    probe = f"/probe?target={LISTED}"
    with WebServerThread(poller, max_requests=5) as server, ThreadPoolExecutor() as clients:
        waiting = []
        for number, path in enumerate([probe, probe, "/metrics", "/metrics", "/metrics"], start=1):
            waiting.append(clients.submit(server.get, path, headers={TIMEOUT: "100"}))
            wait_until(partial(has_been_asked, poller, number))
            if number > 1:
                assert server.get(probe).status_code == 503
        poller.go_on.set()
        assert [answer.result().status_code for answer in waiting] == [200] * 5


def test_a_scrape_whose_client_has_gone_counts_until_it_ends(poller: ScriptedPoller) -> None:
    poller.go_on.clear()
    with WebServerThread(poller, max_requests=1) as server:
        server.connect(f"GET /metrics HTTP/1.1\r\nHost: a\r\n{TIMEOUT}: 100\r\n\r\n".encode()).close()
        wait_until(lambda: len(poller.deadlines) == 1)
        assert server.get("/metrics").status_code == 503
        poller.go_on.set()
        wait_until(lambda: server.get("/metrics").status_code == 200)


def test_pipelined_requests_are_answered_in_order(server: WebServerThread) -> None:
    paths = ["/-/healthy", "/metrics", "/nothing"]
    sent = [f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n" for path in paths]
    sent.append("GET /-/ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    received = exchange(server, "".join(sent).encode())
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200", b"404", b"200"]
    assert received.endswith(b"The exporter is ready.\n")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 2, id="TLS client hello"),
        pytest.param(b"\x00\r\n\r\n" * 100, id="zeros"),
        pytest.param(b"what is this\r\n\r\n", id="words"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="HTTP/2"),
        pytest.param(b"GET /metrics HTTP/9.9\r\n\r\n", id="HTTP/9.9"),
        pytest.param(b"GET http://[::1 HTTP/1.1\r\nHost: a\r\n\r\n", id="broken URL"),
        pytest.param(b"CONNECT a:b HTTP/1.1\r\nHost: a\r\n\r\n", id="CONNECT to no port"),
        pytest.param(b"GET /metrics HTTP/1.1\r\nno colon\r\n\r\n", id="header without a colon"),
        pytest.param(b"GET / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", id="two lengths"),
        pytest.param(b"GET / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", id="negative length"),
        pytest.param(b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", id="smuggling"),
        pytest.param(b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n", id="long path"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 1_000_000 + b"\r\n\r\n", id="long header"),
        pytest.param(b"GET / HTTP/1.1\r\nX: " + b"a" * 1_000_000, id="long header without an end"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: a\r\n" * 100_000 + b"\r\n", id="many headers"),
    ],
)
def test_what_is_not_a_request_is_refused_and_not_logged(
    server: WebServerThread, caplog: pytest.LogCaptureFixture, sent: bytes
) -> None:
    with caplog.at_level(logging.INFO):
        received = exchange(server, sent)
    assert received == b"" or re.match(rb"HTTP/1.[01] 4\d\d ", received)
    assert b"200 OK" not in received
    assert len(received) < 1000
    assert not faults_logged(caplog)
    assert server.get("/-/healthy").status_code == 200


@pytest.fixture(scope="module")
def hasty_server() -> Iterator[WebServerThread]:
    """A server that waits for the rest of a request for an instant only."""
    with WebServerThread(ScriptedPoller(), idle_seconds=0.03) as server:
        yield server


@given(sent=st.lists(st.binary(max_size=40) | st.sampled_from(PIECES)).map(b"".join))
@settings(max_examples=60, deadline=None)
def test_no_bytes_make_a_fault(hasty_server: WebServerThread, sent: bytes) -> None:
    log = io.StringIO()
    listener = logging.StreamHandler(log)
    listener.addFilter(is_fault)
    logging.getLogger().addHandler(listener)
    try:
        received = exchange(hasty_server, sent)
    finally:
        logging.getLogger().removeHandler(listener)
    assert b" 500 " not in received
    assert log.getvalue() == ""


@pytest.mark.parametrize("path", ["/metrics", "/", "/nothing", "/-/healthy"])
def test_a_large_body_is_not_read(server: WebServerThread, caplog: pytest.LogCaptureFixture, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000000\r\n\r\n".encode()
    # The server closes the connection; one that reads on would take it all.
    with server.connect(head) as connection, pytest.raises(ConnectionError):
        send_much(connection, bytes(1_000_000))
    assert not faults_logged(caplog)
    assert server.get("/-/healthy").status_code == 200


def test_a_client_that_sends_without_reading_is_throttled_or_cut_off(server: WebServerThread) -> None:
    with server.connect() as connection:
        connection.settimeout(0.3)
        with pytest.raises((TimeoutError, ConnectionError)):
            send_much(connection, b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)
    assert server.get("/-/healthy").status_code == 200


def test_an_internal_error_is_a_500_and_logged(
    server: WebServerThread, poller: ScriptedPoller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: float) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(poller, "poll", fail)
    response = server.get("/metrics")
    assert response.status_code == 500
    assert "a bug" not in response.text
    assert faults_logged(caplog) == ["Error handling request from 127.0.0.1"]


# The end


def test_stopping_answers_the_waiting_scrapes(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SECONDS_TO_STOP", 1.0)
    sandbox.set_fault(faults.Hang())
    with exporter_of(sandbox, [WATCHED]) as exporter, ExitStack() as stack:
        waiting = scrapes(exporter, 5, stack, headers={TIMEOUT: "100"})
        wait_until(lambda: len(sandbox.requests) == 1)
        assert exporter.get("/-/ready").status_code == 200
        exporter.begin_to_stop()
        wait_until(lambda: exporter.get("/-/ready").status_code == 503)
        assert exporter.get("/-/healthy").status_code == 200
        late = exporter.get("/metrics", headers={TIMEOUT: "100"})
        for response in [late, *(scrape.result() for scrape in waiting)]:
            assert value(response, "sitecore_cdp_batch_poll_failure", reason="deadline", ref=LISTED) == 1
    sandbox.clear_faults()


def test_stopping_leaves_no_thread_behind(sandbox: Sandbox) -> None:
    before = set(threading.enumerate())
    with exporter_of(sandbox, [WATCHED]) as exporter:
        assert exporter.get("/metrics").status_code == 200
        assert exporter.get("/").status_code == 200
    wait_until(lambda: set(threading.enumerate()) <= before)
