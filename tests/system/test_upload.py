"""examples/upload.py as a user runs it, against the sandbox and against servers that fail in its own ways."""

import gzip
import json
import os
import signal
import ssl
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from tests.conditions import wait_until
from tests.exporter_program import ROOT
from tests.system.example_script import load_example
from tools.raw_server import RawServer
from tools.sandbox import Sandbox, faults

SCRIPT = ROOT / "examples" / "upload.py"
REF = "12af3453-62da-4b31-b646-631b7b5f3009"
RECORD = b'{"ref": "9d94ee11-7043-4b71-980c-a777d00a7b46", "schema": "order", "mode": "upsert", "value": {}}\n'
CREDENTIALS = {"SITECORE_CDP_CLIENT_KEY": "key", "SITECORE_CDP_API_TOKEN": "s3cret"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "records.jsonl"
    file.write_bytes(RECORD * 2)
    return file


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(client_key="key", api_token="s3cret", speed=1000) as sandbox:
        yield sandbox


def command(base_url: str, *arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", str(SCRIPT), base_url, *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **CREDENTIALS, **variables}


def upload(base_url: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command(base_url, *arguments), env=environment(**variables), capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert "s3cret" not in done.stdout + done.stderr
    assert "Signature" not in done.stderr
    return done


MODULE = load_example("upload")


def refusal(monkeypatch: pytest.MonkeyPatch, base_url: str, file: Path, **variables: str) -> str:
    """Run the script in this process, up to where it refuses to begin; return why."""
    monkeypatch.setattr(sys, "argv", ["upload.py", base_url, str(file)])
    for name, value in {**CREDENTIALS, **variables}.items():
        monkeypatch.setenv(name, value)
    threads = threading.active_count()
    with pytest.raises(SystemExit) as refused:
        MODULE.main()
    # Not even its clock has started.
    assert threading.active_count() == threads
    return str(refused.value.code)


def upload_here(base_url: str, *, proxy_from_environment: bool = False) -> None:
    """Upload in this process, as the script does once it has read its arguments and the file."""
    api = MODULE.BatchApi(base_url, "key:s3cret", proxy_from_environment=proxy_from_environment)
    api.upload(uuid.UUID(REF), RECORD)


def failure(base_url: str) -> str:
    """Upload in this process, and return why that failed. Programs that fail are started further below."""
    with pytest.raises(MODULE.RequestError) as failed:
        upload_here(base_url)
    assert "s3cret" not in str(failed.value)
    return str(failed.value)


# --- The upload and its outcome


@pytest.mark.parametrize("content", [RECORD * 2, gzip.compress(RECORD * 2)], ids=["plain", "gzipped"])
def test_it_uploads_the_file_and_prints_the_ref(content: bytes, sandbox: Sandbox, file: Path) -> None:
    file.write_bytes(content)
    done = upload(f"{sandbox.base_url}/", file, "--ref", REF)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{REF}\n", "")
    allocation, storage = sandbox.requests
    assert [entry.status for entry in (allocation, storage)] == [200, 200]
    assert "Content-Md5" not in allocation.headers
    assert "Content-Md5" in storage.headers
    assert "Authorization" not in storage.headers
    status_url = f"{sandbox.base_url}/v2/batches/inspect/{REF}"

    def status() -> Any:  # noqa: ANN401  JSON.
        return requests.get(status_url, auth=("key", "s3cret"), timeout=60).json()

    wait_until(lambda: status()["status"]["code"] == "success")
    assert status()["summaryStats"]["succeededCount"] == 2


def test_it_generates_a_ref(sandbox: Sandbox, file: Path) -> None:
    done = upload(sandbox.base_url, file)
    assert done.returncode == 0, done.stderr
    assert str(uuid.UUID(done.stdout.strip())) in sandbox.requests[0].path


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"<html>", "the answer is not JSON"),
        (b"[" * 100_000, "the answer is not JSON"),
        (b"[]", "The answer has no location.href"),
        (b'{"location": null}', "The answer has no location.href"),
        (b'{"location": {"href": 7}}', "The answer has no location.href"),
    ],
    ids=["HTML", "nested", "list", "null", "number"],
)
def test_what_is_not_an_answer_of_the_batch_api_is_said(body: bytes, error: str, sandbox: Sandbox) -> None:
    sandbox.set_fault(faults.Body(body))
    assert error in failure(sandbox.base_url)


def test_a_server_that_never_answers_ends_by_the_time_limit(sandbox: Sandbox, file: Path) -> None:
    for fault in (faults.Hang(), faults.DripHeaders(), faults.DripBody()):
        sandbox.set_fault(fault)
        done = upload(sandbox.base_url, file, "--timeout=1")
        assert (done.returncode, done.stderr) == (1, "Not finished after 1 s; gave up.\n")


@pytest.fixture
def ctrl_c_counts() -> Iterator[None]:
    """Let Ctrl-C reach what is started. A shell has its background jobs, and so what these start, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_counts")
def test_ctrl_c_ends_it_without_a_traceback(sandbox: Sandbox, file: Path) -> None:
    sandbox.set_fault(faults.Hang())
    with subprocess.Popen(
        command(sandbox.base_url, file),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_until(lambda: sandbox.requests)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert (process.returncode, errors) == (130, "Interrupted.\n")


@pytest.mark.parametrize("option", ["--timeout=0", "--timeout=nan", "--timeout=1e300"])
def test_a_time_that_is_none_is_a_mistake(option: str, file: Path) -> None:
    done = upload("http://127.0.0.1:1", file, option)
    assert (done.returncode, "invalid seconds value" in done.stderr) == (2, True)


# --- The credentials


def test_the_credentials_are_sent_as_utf_8(file: Path) -> None:
    with Sandbox(client_key="kéy", api_token="s3cret-€🐉") as sandbox:
        accepted = upload(sandbox.base_url, file, SITECORE_CDP_CLIENT_KEY="kéy", SITECORE_CDP_API_TOKEN="s3cret-€🐉")
    assert accepted.returncode == 0, accepted.stderr


@pytest.mark.parametrize(
    ("variable", "value", "error"),
    [
        ("SITECORE_CDP_API_TOKEN", "", "SITECORE_CDP_API_TOKEN is missing."),
        ("SITECORE_CDP_CLIENT_KEY", "", "SITECORE_CDP_CLIENT_KEY is missing."),
        ("SITECORE_CDP_CLIENT_KEY", "a:b", "has a colon"),
        ("SITECORE_CDP_API_TOKEN", "s3cret\n", "has a line break"),
        ("SITECORE_CDP_API_TOKEN", "\ufeffs3cret", "another invisible character"),
        ("SITECORE_CDP_API_TOKEN", "s3cret\udce9", "not UTF-8"),
    ],
)
def test_credentials_that_cannot_be_sent_are_named_and_nothing_is_sent(
    variable: str, value: str, error: str, sandbox: Sandbox, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = refusal(monkeypatch, sandbox.base_url, file, **{variable: value})
    assert error in reason
    assert "s3cret" not in reason
    assert sandbox.requests == []


def test_failures_are_named_without_a_secret(sandbox: Sandbox, file: Path) -> None:
    wrong_token = upload(sandbox.base_url, file, SITECORE_CDP_API_TOKEN="s3cret-of-another-place")
    no_file = upload(sandbox.base_url, file.with_name("nothing"))
    upload_url = json.dumps({"location": {"href": "http://127.0.0.1:1/storage?Signature=s3cret"}}).encode()
    sandbox.set_fault(faults.Body(upload_url))
    no_storage = upload(sandbox.base_url, file)
    assert "Allocating the batch failed: HTTP 401 Unauthorized." in wrong_token.stderr
    assert "No such file" in no_file.stderr
    assert "Uploading the file failed: [Errno 111] Connection refused." in no_storage.stderr
    for done in (wrong_token, no_file, no_storage):
        assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize(
    "base_url",
    [
        "http://api.example",
        "http://localhost.example",
        "http://127.0.0.1.example",
        "http://127.0.0.1@api.example",
        "http://127.0.0.1\\@api.example",
        "http://127.0.0.1#@api.example",
        "http://api.example#127.0.0.1",
        "https://key:token@api.example",
        "ftp://127.0.0.1",
        "file:///etc/hostname",
        "https://",
        "https://[",
        "https://api.example:99999",
        "https://api.example/v2",
        "https://api.example/v2/batches/",
        "api.example",
        "",
    ],
)
def test_credentials_go_over_https_or_to_this_machine_only(
    base_url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert refusal(monkeypatch, base_url, file).startswith("The base URL ")


@pytest.mark.parametrize(
    "upload_url",
    [
        "http://storage.example/?Signature=s3cret",
        "file:///tmp/s3cret",
        "https://user:s3cret@storage.example/",
        "s3cret",
    ],
)
def test_the_file_goes_over_https_or_to_this_machine_only(upload_url: str, sandbox: Sandbox) -> None:
    sandbox.set_fault(faults.Body(json.dumps({"location": {"href": upload_url}}).encode()))
    with pytest.raises(SystemExit, match=r"^The upload URL ") as refused:
        upload_here(sandbox.base_url)
    assert "s3cret" not in str(refused.value)
    assert len(sandbox.requests) == 1


def test_an_api_elsewhere_cannot_send_the_file_to_this_machine_openly() -> None:
    api = MODULE.BatchApi("https://api.example", "key:s3cret", proxy_from_environment=False)
    api._allocate = lambda *_arguments: {"location": {"href": "http://127.0.0.1:1/"}}
    with pytest.raises(SystemExit, match=r"^The upload URL is not https://"):
        api.upload(uuid.UUID(REF), b"content")


def test_a_netrc_file_is_ignored(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("default login somebody password of-another-place\n", encoding="ascii")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    upload_here(sandbox.base_url)
    assert ["Authorization" in entry.headers for entry in sandbox.requests] == [True, False]


def test_redirects_are_not_followed(sandbox: Sandbox) -> None:
    with Sandbox(client_key="key", api_token="s3cret") as elsewhere:
        for status in (301, 302, 303, 307, 308):
            sandbox.set_fault(faults.Redirect(f"{elsewhere.base_url}/v2/batches/{REF}", status=status))
            assert f"HTTP {status}" in failure(sandbox.base_url)
        assert elsewhere.requests == []


PROXY_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")


@pytest.mark.parametrize("proxy_from_environment", [False, True])
def test_loopback_hosts_are_reached_without_a_proxy(
    proxy_from_environment: bool,  # noqa: FBT001  A parameter of the test.
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in PROXY_VARIABLES:
        monkeypatch.setenv(variable, "http://127.0.0.1:1")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    upload_here(sandbox.base_url, proxy_from_environment=proxy_from_environment)
    assert len(sandbox.requests) == 2


def test_a_proxy_of_the_environment_is_used_when_asked_for_and_never_sees_the_token(file: Path) -> None:
    async def refuse(reader: Any, writer: Any) -> None:  # noqa: ANN401
        await server.read_head(reader)
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    with RawServer(refuse) as server:
        proxies = dict.fromkeys(PROXY_VARIABLES, server.url)
        unasked = upload("https://api.invalid", file, "--timeout=60", **proxies)
        assert (unasked.returncode, server.connections) == (1, 0)
        asked = upload("https://api.invalid", file, "--proxy-from-environment", "--timeout=60", **proxies)
        assert (asked.returncode, server.connections) == (1, 1)
    (head,) = server.heads
    assert head.startswith("CONNECT api.invalid:443")
    assert "authorization" not in head.lower()


def test_tls_is_verified_and_its_keys_are_not_written_down(file: Path, tmp_path: Path) -> None:
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    keys = tmp_path / "keys.log"
    with Sandbox(client_key="key", api_token="s3cret", ssl_context=context) as sandbox:
        refused = upload(sandbox.base_url, file)
        accepted = upload(sandbox.base_url, file, SSL_CERT_FILE=str(ca_file), SSLKEYLOGFILE=str(keys))
        assert (refused.returncode, "CERTIFICATE_VERIFY_FAILED" in refused.stderr) == (1, True)
        assert accepted.returncode == 0, accepted.stderr
        assert len(sandbox.requests) == 2
    assert not keys.exists()
