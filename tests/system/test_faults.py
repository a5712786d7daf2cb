"""The exporter against an API that misbehaves: every scrape is answered, with the right reason, and nothing leaks."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.exporter_program import API_TOKEN, CLIENT_KEY, Exporter, running_exporter
from tools.program import wait_for
from tools.sandbox import Sandbox, faults

VICTIM = "00000000-0000-4000-8000-000000000001"
NEIGHBOUR = "00000000-0000-4000-8000-000000000002"
FINISHED = "00000000-0000-4000-8000-000000000003"
REFS = [VICTIM, NEIGHBOUR, FINISHED]

CONCURRENCY = 2
# What does not end by it has all the time that a busy machine may need.
API = {"timeout": "1m", "concurrency": CONCURRENCY}
HURRIED = {"timeout": "500ms", "concurrency": CONCURRENCY}
HEALTHY = dict.fromkeys(REFS, "ok")


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as sandbox:
        for ref, status in ((VICTIM, "processing"), (NEIGHBOUR, "processing"), (FINISHED, "success")):
            sandbox.put_batch(ref, status=status, total=7)
        yield sandbox


@pytest.fixture(autouse=True)
def healthy_again(sandbox: Sandbox) -> Iterator[None]:
    yield
    sandbox.clear_faults()
    sandbox.set_api_token(API_TOKEN)


@pytest.fixture(scope="module")
def exporter(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exporter]:
    """Run an exporter that answers one scrape at a time, and so on one thread."""
    directory = tmp_path_factory.mktemp("exporter")
    with running_exporter(sandbox, directory, batches=REFS, api=API, flags=["--web.max-requests=1"]) as exporter:
        yield exporter


@pytest.fixture(scope="module")
def at_rest(exporter: Exporter) -> tuple[int, int]:
    """Return the most threads and open files that it may have between scrapes.

    What a scrape leaves is its thread, and at most as many connections to the API as it makes at once.
    How many it makes depends on which of its threads are quicker, so one scrape is no measure for another.
    """
    threads, files = threads_and_files(exporter)
    return threads + 1, files + CONCURRENCY


@pytest.fixture
def fresh_exporter(sandbox: Sandbox, tmp_path: Path) -> Iterator[Exporter]:
    """Run an exporter that remembers no refusal of another test."""
    with running_exporter(sandbox, tmp_path, batches=REFS, api=API) as exporter:
        yield exporter


class StrangersHost:
    """A host to which no credential may go; it counts who comes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://localhost:{self._listener.getsockname()[1]}/"
        self.visits = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.visits += 1
            connection.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def outcomes(exporter: Exporter) -> tuple[dict[str, str], float | None]:
    """Scrape, and return the failure reason of each batch (or "ok") and sitecore_cdp_up."""
    samples = exporter.scrape()
    reasons = {}
    for labels in samples.get("sitecore_cdp_batch_poll_failure", {}):
        reasons[dict(labels)["ref"]] = dict(labels)["reason"]
    with_values = {dict(labels)["ref"] for labels in samples.get("sitecore_cdp_batch_total_records", {})}
    for ref in REFS:
        success = samples["sitecore_cdp_batch_poll_success"][frozenset({("ref", ref)})]
        assert (success == 1) == (ref not in reasons) == (ref in with_values)
    return {ref: reasons.get(ref, "ok") for ref in REFS}, samples["sitecore_cdp_up"].get(frozenset())


def threads_and_files(exporter: Exporter) -> tuple[int, int]:
    process = Path("/proc") / str(exporter.program.process.pid)
    return len([*(process / "task").iterdir()]), len([*(process / "fd").iterdir()])


ENDLESS_FAULTS = [
    faults.Hang(),
    faults.DripHeaders(interval=0.2),
    faults.DripBody(interval=0.2),
    faults.Delay(seconds=2),
]
FAULTS = [
    (faults.CutBody(), "connection", 0),
    (faults.CutConnection(), "connection", 0),
    (faults.CutConnection(reset=True), "connection", 0),
    (faults.Status(404), "not_found", 1),
    (faults.Status(429), "rate_limited", 0),
    (faults.Status(500), "server_error", 0),
    (faults.Status(503), "server_error", 0),
    (faults.Status(400), "http_error", 0),
    (faults.Status(204), "http_error", 0),
    (faults.Redirect("https://elsewhere.example/"), "http_error", 0),
    (faults.Html(), "bad_response", 0),
    (faults.Html(status=502), "server_error", 0),
    (faults.MalformedJson(), "bad_response", 0),
    (faults.LargeBody(mebibytes=5), "bad_response", 0),
    (faults.GzipBomb(mebibytes=16), "bad_response", 0),
    (faults.Body(b"null"), "bad_response", 0),
    (faults.Body(b'{"status": {"code": "success"}, "size": "12"}'), "bad_response", 0),
    (faults.Body(b"not gzip", content_encoding="gzip"), "bad_response", 0),
]


def wait_until_at_rest(exporter: Exporter, at_rest: tuple[int, int]) -> None:
    wait_for(
        "the end of its threads and files",
        lambda: all(now <= most for now, most in zip(threads_and_files(exporter), at_rest, strict=True)),
        programs=[exporter.program],
    )


@pytest.mark.parametrize(("fault", "reason", "up"), FAULTS, ids=[str(fault) for fault, _, _ in FAULTS])
def test_a_fault_is_reported_of_its_batch_and_ends_without_a_trace(
    sandbox: Sandbox, exporter: Exporter, at_rest: tuple[int, int], fault: faults.Fault, reason: str, up: int
) -> None:
    assert outcomes(exporter) == (HEALTHY, 1)
    sandbox.set_fault(fault, ref=VICTIM)
    assert outcomes(exporter) == ({**HEALTHY, VICTIM: reason}, 1)
    sandbox.clear_faults()
    sandbox.set_fault(fault)
    assert outcomes(exporter) == ({**HEALTHY, VICTIM: reason, NEIGHBOUR: reason}, up)
    sandbox.clear_faults()
    assert outcomes(exporter) == (HEALTHY, 1)
    wait_until_at_rest(exporter, at_rest)


@pytest.mark.parametrize("fault", ENDLESS_FAULTS, ids=str)
def test_what_would_last_too_long_ends_by_the_timeout_without_a_trace(
    sandbox: Sandbox, tmp_path: Path, fault: faults.Fault
) -> None:
    with running_exporter(sandbox, tmp_path, batches=REFS, api=HURRIED, flags=["--web.max-requests=1"]) as exporter:
        threads, files = threads_and_files(exporter)

        def expect(expected: dict[str, str], up: int) -> None:
            # On a busy machine good answers come too late, too, at times.
            wait_for(f"{expected}", lambda: outcomes(exporter) == (expected, up), programs=[exporter.program])

        expect(HEALTHY, 1)
        sandbox.set_fault(fault, ref=VICTIM)
        expect({**HEALTHY, VICTIM: "timeout"}, 1)
        sandbox.clear_faults()
        sandbox.set_fault(fault)
        expect({**HEALTHY, VICTIM: "timeout", NEIGHBOUR: "timeout"}, 0)
        sandbox.clear_faults()
        expect(HEALTHY, 1)
        wait_until_at_rest(exporter, (threads + 1, files + CONCURRENCY))


@pytest.mark.parametrize("fault", [faults.CloseReusedConnection(), faults.SetCookie()], ids=str)
def test_what_is_not_a_fault_of_the_api_is_not_noticed(
    sandbox: Sandbox, exporter: Exporter, fault: faults.Fault
) -> None:
    sandbox.set_fault(fault)
    sandbox.clear_requests()
    for _ in range(3):
        assert outcomes(exporter) == (HEALTHY, 1)
    assert not any("Cookie" in request.headers for request in sandbox.requests)


def test_connections_that_were_closed_between_scrapes_are_not_noticed(sandbox: Sandbox, exporter: Exporter) -> None:
    for _ in range(3):
        assert outcomes(exporter) == (HEALTHY, 1)
        sandbox.close_idle_connections()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_request_follows_a_redirect(sandbox: Sandbox, exporter: Exporter, status: int) -> None:
    with closing(StrangersHost()) as stranger:
        sandbox.set_fault(faults.Redirect(stranger.url, status=status))
        assert outcomes(exporter)[0][VICTIM] == "http_error"
        assert stranger.visits == 0


def test_after_a_401_the_rest_is_skipped(sandbox: Sandbox, fresh_exporter: Exporter) -> None:
    sandbox.set_api_token("another")
    reasons, up = outcomes(fresh_exporter)
    assert set(reasons.values()) <= {"unauthorized", "skipped"}
    assert "unauthorized" in reasons.values()
    assert up == 0
    sandbox.clear_requests()
    assert outcomes(fresh_exporter) == (dict.fromkeys(REFS, "skipped"), 0)
    assert sandbox.requests == []


def test_403_for_everything_is_a_refusal(sandbox: Sandbox, fresh_exporter: Exporter) -> None:
    sandbox.set_fault(faults.Status(403))
    assert outcomes(fresh_exporter) == (dict.fromkeys(REFS, "forbidden"), 0)
    sandbox.clear_requests()
    assert outcomes(fresh_exporter) == (dict.fromkeys(REFS, "skipped"), 0)
    assert sandbox.requests == []


def test_403_for_one_batch_is_its_own(sandbox: Sandbox, fresh_exporter: Exporter) -> None:
    sandbox.set_fault(faults.Status(403), ref=VICTIM)
    for _ in range(3):
        assert outcomes(fresh_exporter) == ({**HEALTHY, VICTIM: "forbidden"}, 1)


@pytest.mark.parametrize(("status", "reason"), [(429, "rate_limited"), (503, "server_error")])
def test_retry_after_is_kept(sandbox: Sandbox, fresh_exporter: Exporter, status: int, reason: str) -> None:
    sandbox.set_fault(faults.Status(status, retry_after=120))
    reasons, up = outcomes(fresh_exporter)
    assert set(reasons.values()) <= {reason, "skipped"}
    assert reason in reasons.values()
    assert up == 0
    sandbox.clear_faults()
    sandbox.clear_requests()
    assert outcomes(fresh_exporter) == (dict.fromkeys(REFS, "skipped"), 0)
    assert sandbox.requests == []


def test_an_api_that_refuses_connections_is_down(tmp_path: Path) -> None:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as gone:
        pass
    with running_exporter(gone, tmp_path, batches=REFS, api=API) as exporter:
        assert outcomes(exporter) == (dict.fromkeys(REFS, "connection"), 0)


def test_an_api_that_speaks_no_tls_is_down_for_tls(sandbox: Sandbox, tmp_path: Path) -> None:
    api = API | {"base_url": sandbox.base_url.replace("http://", "https://")}
    with running_exporter(sandbox, tmp_path, batches=REFS, api=api) as exporter:
        assert outcomes(exporter) == (dict.fromkeys(REFS, "tls"), 0)


def test_a_token_file_that_is_missing_and_comes_back_needs_no_restart(sandbox: Sandbox, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    api = API | {"basic_auth": {"username": CLIENT_KEY, "password_file": "token"}}
    sandbox.clear_requests()
    with running_exporter(sandbox, tmp_path, batches=REFS, api=api) as exporter:
        assert outcomes(exporter) == (dict.fromkeys(REFS, "credentials"), 0)
        assert sandbox.requests == []
        token_file.write_text(f"{API_TOKEN}\n", encoding="utf-8")
        assert outcomes(exporter) == (HEALTHY, 1)
