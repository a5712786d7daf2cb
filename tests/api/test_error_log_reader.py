"""Reading error logs from storage: what is sent, where it may go, and what comes of every kind of answer."""

import asyncio
import gzip
import itertools
import json
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sitecore_cdp_exporter.api import error_log_child, error_log_reader
from sitecore_cdp_exporter.api.error_log import BOUNDS, ErrorLog, LogReading, RecordCause
from sitecore_cdp_exporter.api.error_log_child import Job, is_public
from sitecore_cdp_exporter.api.error_log_reader import ErrorLogReader
from sitecore_cdp_exporter.api.error_log_url import LogUrl
from sitecore_cdp_exporter.api.errors import LogReason, Reason
from sitecore_cdp_exporter.config.model import ApiConfig, ErrorLogs
from tests.api.certificates import Certificates
from tests.conditions import wait_until
from tools.raw_server import Proxy, RawServer, answering, flooding

LINE = b'{"ref": "9c5b0f0e", "code": "400", "message": "Validation error"}\n'
LOG = gzip.compress(LINE)
ONE = ErrorLog({RecordCause.VALIDATION: 1})
PATH = "/client-key/error.log.gz?X-Amz-Signature=5ecret"
BUCKET = "bucket.s3.amazonaws.com"


def reply(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def s3_error(code: str, message: str) -> bytes:
    return f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


def job(url: str, *, is_local: bool = True, **changes: Any) -> Job:  # noqa: ANN401  Of a job.
    return {"url": url, "is_local": is_local, "proxy": None, "ca_files": [], "seconds": 60.0, **changes}  # type: ignore[typeddict-item]


def read(job: Job, seconds: float = 60.0) -> ErrorLog | Reason | LogReason:
    return error_log_child.read(job, lambda _: None, seconds)


def read_from(server: RawServer, seconds: float = 60.0) -> ErrorLog | Reason | LogReason:
    with server:
        return read(job(server.url + PATH), seconds)


def reader(base_url: str, hosts: tuple[str, ...] = (BUCKET,), **api: Any) -> ErrorLogReader:  # noqa: ANN401  Of `api`.
    return ErrorLogReader(ApiConfig(base_url=base_url, **api), ErrorLogs(hosts=hosts), {})


def read_as_told(logs: ErrorLogReader, url: str, monkeypatch: pytest.MonkeyPatch) -> ErrorLog | Reason | LogReason:
    """Do in this process what a child would be told to."""
    jobs: list[bytes] = []

    def run(job: bytes) -> bytes:
        jobs.append(job)
        return b""

    monkeypatch.setattr(logs, "_run", run)
    logs.read(LogUrl(url))
    (job,) = jobs
    return read(json.loads(job))


# What comes of an answer.


def test_a_log_is_requested_without_credentials() -> None:
    server = answering(reply(LOG))
    assert read_from(server) == ONE
    (head,) = server.heads
    request, *headers = head.rstrip().split("\r\n")
    assert request == f"GET {PATH} HTTP/1.1"
    assert {header.split(":")[0] for header in headers} == {
        *("Host", "Accept", "Accept-Encoding", "Connection", "User-Agent")
    }


@pytest.mark.parametrize(
    "answer",
    [
        reply(LOG),
        reply(LINE, "200 OK", "Content-Type: text/html", "Content-Encoding: gzip"),
        reply(LOG, "200 OK", "Content-Type: text/plain"),
        b"HTTP/1.1 200 OK\r\n\r\n" + LOG,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(LOG), LOG),
        b"HTTP/1.1 102 Processing\r\n\r\n" + reply(LOG),
    ],
    ids=["gzip", "plain", "plain type", "to the end", "chunked", "interim"],
)
def test_a_log_is_read_however_it_is_sent(answer: bytes) -> None:
    assert read_from(answering(answer)) == ONE


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply(b"<html>{}</html>"), Reason.BAD_RESPONSE),
        (reply(b"<html>Sign in</html>"), Reason.BAD_RESPONSE),
        (reply(b'[{"code": "400"}]'), Reason.BAD_RESPONSE),
        (reply(b""), Reason.BAD_RESPONSE),
        (reply(LOG[:-9]), Reason.BAD_RESPONSE),
        (reply(LOG + b" " * 9)[:-9], Reason.CONNECTION),
        (reply(LOG)[:-9], Reason.CONNECTION),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s" % (len(LOG) + 9, LOG), Reason.CONNECTION),
        (b"HTTP/1.1 200 OK\r\nContent-Le", Reason.CONNECTION),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", Reason.BAD_RESPONSE),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Reason.BAD_RESPONSE),
        (reply(s3_error("AccessDenied", "Request has expired"), "403 Forbidden"), LogReason.EXPIRED),
        (reply(s3_error("ExpiredToken", "The provided token has expired."), "400 Bad Request"), LogReason.EXPIRED),
        (reply(s3_error("AccessDenied", "Access Denied"), "403 Forbidden"), Reason.FORBIDDEN),
        (reply(s3_error("SignatureDoesNotMatch", "No"), "403 Forbidden"), Reason.FORBIDDEN),
        (reply(b"", "403 Forbidden"), Reason.FORBIDDEN),
        (reply(b"x" * 1_000_000 + b"Request has expired", "403 Forbidden"), Reason.FORBIDDEN),
        (reply(b"", "401 Unauthorized"), Reason.UNAUTHORIZED),
        (reply(s3_error("NoSuchKey", "No"), "404 Not Found"), Reason.NOT_FOUND),
        (reply(s3_error("SlowDown", "No"), "503 Slow Down"), Reason.SERVER_ERROR),
        (reply(LOG, "206 Partial Content"), Reason.HTTP_ERROR),
        (reply(b"", "204 No Content"), Reason.HTTP_ERROR),
    ],
)
def test_an_answer_that_is_not_a_log_has_a_reason(answer: bytes, reason: Reason | LogReason) -> None:
    assert read_from(answering(answer)) is reason


def test_a_redirect_is_not_followed() -> None:
    with answering(reply(LOG)) as elsewhere:
        found = reply(b"", "302 Found", f"Location: {elsewhere.url}")
        assert read_from(answering(found)) is Reason.HTTP_ERROR
        assert elsewhere.connections == 0


def test_the_processor_time_of_a_job_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process of tests has worked for minutes before it reads a log."""
    monkeypatch.setattr("time.process_time", itertools.count(1000.0, 1.0).__next__)
    assert read_from(answering(reply(LOG))) == ONE
    monkeypatch.setattr("time.process_time", itertools.count(1000.0, 60.0).__next__)
    assert read_from(answering(reply(LOG))) is Reason.TIMEOUT


def test_a_server_that_drips_ends_with_the_time() -> None:
    head = b"HTTP/1.1 200 OK\r\n"
    assert read_from(flooding(head, b"X-Drip: 1\r\n", 0.05), seconds=1.0) is Reason.TIMEOUT
    assert read_from(flooding(head + b"\r\n", b" ", 0.05), seconds=1.0) is Reason.TIMEOUT
    dripping = read_from(flooding(head + b"\r\n" + LINE, b" ", 0.05), seconds=1.0)
    assert dripping == ErrorLog({RecordCause.VALIDATION: 1}, truncated=True)


def test_a_server_that_says_nothing_ends_with_the_time() -> None:
    async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()
        await asyncio.sleep(3600)

    assert read_from(RawServer(silent), seconds=1.0) is Reason.TIMEOUT


def test_a_port_without_a_listener_is_a_connection_error() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert read(job(f"http://127.0.0.1:{unused.getsockname()[1]}/")) is Reason.CONNECTION


# Where it may go.


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    found = [
        (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 443))
        for each in addresses
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: found)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["172.16.0.1"],
        ["192.168.0.1"],
        ["169.254.169.254"],
        ["100.64.0.1"],
        ["0.0.0.0"],  # noqa: S104  Nothing is bound.
        ["224.0.0.1"],
        ["255.255.255.255"],
        ["::1"],
        ["::"],
        ["fd00:ec2::254"],
        ["fe80::1%eth0"],
        ["::ffff:127.0.0.1"],
        ["::ffff:169.254.169.254"],
        ["64:ff9b::7f00:1"],
        ["64:ff9b::a9fe:a9fe"],
        ["2002:7f00:1::1"],
        ["ff02::1"],
        # One that is public makes no good of another.
        ["52.218.0.1", "10.0.0.1"],
    ],
    ids=" ".join,
)
def test_a_host_that_resolves_to_a_private_address_is_not_contacted(
    monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    def connect(*_: object) -> None:
        pytest.fail("it connected")

    monkeypatch.setattr(socket.socket, "connect", connect)
    resolve_to(monkeypatch, *addresses)
    assert read(job(f"https://{BUCKET}{PATH}", is_local=False)) is LogReason.HOST_NOT_ALLOWED


@pytest.mark.parametrize("address", ["52.218.0.1", "2600:1fa0:80::1", "64:ff9b::34da:1", "::ffff:52.218.0.1"])
def test_public_addresses_are_known_as_such(address: str) -> None:
    assert is_public(address)


def test_a_host_is_resolved_once_so_that_dns_rebinding_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    lookups: list[tuple[object, ...]] = []
    connected: list[object] = []

    def look_up(*arguments: object) -> list[tuple[object, ...]]:
        lookups.append(arguments)
        address = "52.218.0.1" if len(lookups) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))]

    def connect(_: socket.socket, address: object) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket.socket, "connect", connect)
    assert read(job(f"https://{BUCKET}{PATH}", is_local=False)) is Reason.CONNECTION
    assert (len(lookups), connected) == (1, [("52.218.0.1", 443)])


def test_a_local_log_is_read_from_this_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    resolve_to(monkeypatch, "10.0.0.1")
    assert read(job("http://localhost/log.gz")) is LogReason.HOST_NOT_ALLOWED


@pytest.mark.parametrize(
    "url", [f"https://evil.example{PATH}", f"https://{BUCKET}@evil.example{PATH}", f"http://127.0.0.1:8080{PATH}"]
)
def test_a_url_that_is_not_allowed_starts_no_process(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    assert reader("https://api.example").read(LogUrl(url)) == LogReading(LogReason.HOST_NOT_ALLOWED)


# TLS and proxies.


def test_the_ca_file_is_trusted_here_too(certificates: Certificates) -> None:
    with TlsServer(certificates.server()) as server:
        found = reader(server.url, tls_config=certificates.trusted()).read(LogUrl(server.url + PATH))
        assert found is not None
        assert found.log == ONE


@pytest.mark.parametrize("settings", [{}, {"insecure_skip_verify": True}])
def test_an_unknown_authority_is_a_tls_error_even_with_insecure_skip_verify(
    certificates: Certificates, settings: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    with TlsServer(certificates.server()) as server:
        logs = reader(server.url, tls_config=settings)
        assert read_as_told(logs, server.url + PATH, monkeypatch) is Reason.TLS
        assert server.heads == []


def test_the_client_certificate_is_not_presented(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    tls = certificates.trusted(cert_file=certificates.cert_file, key_file=certificates.key_file)
    with TlsServer(certificates.server(asks_for_certificate=True)) as server:
        logs = reader(server.url, tls_config=tls)
        assert isinstance(read_as_told(logs, server.url + PATH, monkeypatch), Reason)
        assert server.heads == []


def test_a_ca_file_that_cannot_be_read_is_a_tls_error(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "missing.pem"):
        assert read(job("https://127.0.0.1/", ca_files=[f"{tmp_path / name}"])) is Reason.TLS


def test_behind_a_proxy_the_name_is_not_resolved(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up: list[str] = []
    getaddrinfo = socket.getaddrinfo

    def look_up(host: str, *rest: Any) -> Any:  # noqa: ANN401  As in getaddrinfo.
        looked_up.append(host)
        return getaddrinfo(host, *rest)

    with TlsServer(certificates.server(BUCKET)) as server, Proxy() as proxy:
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        through = ("http", "127.0.0.1", proxy.port, "Basic cHJveHk6NWVjcmV0")
        url = f"https://{BUCKET}:{server.port}{PATH}"
        assert read(job(url, is_local=False, proxy=through, ca_files=[f"{certificates.ca_file}"])) == ONE
        assert looked_up == ["127.0.0.1"]
        assert f"CONNECT {BUCKET}:{server.port} HTTP/1.1\r\n" in proxy.heads[0]
        assert "Proxy-Authorization: Basic cHJveHk6NWVjcmV0" in proxy.heads[0]
        assert "Proxy-Authorization" not in server.heads[0]


@pytest.mark.parametrize("from_environment", [False, True])
def test_the_proxy_of_the_config_stands_before_the_storage(
    monkeypatch: pytest.MonkeyPatch, *, from_environment: bool
) -> None:
    with Proxy(refusal=b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n") as proxy:
        if from_environment:
            config = ApiConfig(base_url="https://api.example", proxy_from_environment=True)
        else:
            config = ApiConfig.model_validate({"base_url": "https://api.example", "proxy_url": proxy.url})
        logs = ErrorLogReader(config, ErrorLogs(), {"HTTPS_PROXY": proxy.url})
        assert read_as_told(logs, f"https://{BUCKET}{PATH}", monkeypatch) is Reason.CONNECTION
        assert f"CONNECT {BUCKET}:443 HTTP/1.1" in proxy.heads[0]


class TlsServer(RawServer):
    """Answers each request with a log."""

    def __init__(self, context: ssl.SSLContext) -> None:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.read_head(reader)
            writer.write(reply(LOG))

        super().__init__(script, context)


# The child process.


def read_by_child(server: RawServer) -> LogReading:
    found = reader(server.url).read(LogUrl(server.url + PATH))
    assert found is not None
    return found


def test_a_child_returns_counts_and_what_they_cost() -> None:
    with answering(reply(LOG)) as server:
        found = read_by_child(server)
    assert found.log == ONE
    assert found.received == len(LOG)
    assert 0 < found.seconds < 60


def test_a_child_returns_why_there_are_no_counts() -> None:
    with answering(reply(s3_error("AccessDenied", "Request has expired"), "403 Forbidden")) as server:
        assert read_by_child(server).log is LogReason.EXPIRED
    with answering(reply(b"<html>")) as server:
        assert read_by_child(server).log is Reason.BAD_RESPONSE


def test_a_child_needs_no_working_directory_and_sees_no_secret(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[dict[str, Any]] = []
    popen = subprocess.Popen

    def start(command: list[str], **settings: Any) -> Any:  # noqa: ANN401  As in Popen.
        started.append({"command": command, **settings})
        return popen(command, **settings)

    (tmp_path / "json.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SITECORE_CDP_API_TOKEN", "t0ken")
    monkeypatch.setattr(subprocess, "Popen", start)
    with answering(reply(LOG)) as server:
        assert read_by_child(server).log == ONE
    (child,) = started
    assert "5ecret" not in f"{child}"
    assert "SITECORE_CDP_API_TOKEN" not in child["env"]


class Hanging(RawServer):
    """Takes a request and never answers it."""

    def __init__(self) -> None:
        async def script(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            await self.read_head(reader)
            await reader.read()

        super().__init__(script)


def test_stopping_ends_the_child_and_begins_no_other() -> None:
    found: list[LogReading | None] = []
    with Hanging() as server:
        logs = reader(server.url)
        thread = threading.Thread(target=lambda: found.append(logs.read(LogUrl(server.url + PATH))))
        thread.start()
        wait_until(lambda: server.heads)
        (child,) = logs._children
        logs.stop()
        thread.join()
        assert child.returncode < 0
        assert found == [None]
        assert logs.read(LogUrl(server.url + PATH)) is None
        assert server.connections == 1


def test_a_child_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_log_reader, "MAX_SECONDS", 3.0)
    with Hanging() as server:
        found = read_by_child(server)
    assert found.log is Reason.INTERNAL
    # It may have used all that there was.
    assert found.received == BOUNDS.packed
    assert found.seconds >= 3.0


@pytest.mark.parametrize("executable", ["/nonexistent/python", "/bin/false"])
def test_a_child_that_cannot_work_is_an_internal_failure(monkeypatch: pytest.MonkeyPatch, executable: str) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    found = reader("http://127.0.0.1:7").read(LogUrl("http://127.0.0.1:7/"))
    assert found is not None
    assert found.log is Reason.INTERNAL


def test_a_child_loads_no_large_library() -> None:
    code = f"import sys, {error_log_child.__name__}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"requests", "pydantic", "prometheus_client", "aiohttp", "yaml"} & set(loaded) == set()
