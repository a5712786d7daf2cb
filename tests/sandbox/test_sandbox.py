# ruff: noqa: ANN401, S324  JSON is Any; the Batch API's checksum is MD5.
import base64
import gzip
import hashlib
import http.client
import io
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import trustme
from hypothesis import given
from hypothesis import strategies as st

from sitecore_cdp_exporter.sandbox import records
from sitecore_cdp_exporter.sandbox.records import ImportResult, ImportStoppedError, check_record, import_file
from sitecore_cdp_exporter.sandbox.state import Batch, Batches, State
from tests.conditions import wait_until
from tools.sandbox import Sandbox, faults

CLIENT_KEY, API_TOKEN = "key", "töken"
# As bytes, because requests encodes text in Latin-1 and the API expects UTF-8.
AUTH = (CLIENT_KEY.encode(), API_TOKEN.encode())
AUTHORIZATION = "Basic " + base64.b64encode(b":".join(AUTH)).decode()
REF = "12af3453-62da-4b31-b646-631b7b5f3009"
NOW = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
RECORD = {
    "ref": "9D94EE11-7043-4B71-980C-A777D00A7B46",
    "schema": "guest",
    "mode": "upsert",
    "value": {"email": "a@b.c"},
}


class Clock:
    """A wall clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Client:
    """An uploader as a careful person would write it, with each step to be changed by a test."""

    def __init__(self, sandbox: Sandbox, session: requests.Session) -> None:
        self.sandbox = sandbox
        self.session = session

    def request(self, method: str, path: str, **options: Any) -> requests.Response:
        options = {"auth": AUTH, "timeout": 10, "allow_redirects": False, **options}
        return self.session.request(method, self.sandbox.base_url + path, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.request("GET", path, **options)

    def show(self, ref: str = REF) -> Any:
        return self.get(f"/v2/batches/{ref}").json()

    def inspect(self, ref: str = REF) -> Any:
        return self.get(f"/v2/batches/inspect/{ref}").json()

    def allocate(self, content: bytes, ref: str = REF, **changes: Any) -> requests.Response:
        body = {"checksum": hashlib.md5(content).hexdigest(), "size": len(content), **changes}
        return self.request("PUT", f"/v2/batches/{ref}", json=body)

    def store(self, url: str, content: bytes, **headers: str) -> requests.Response:
        return self.session.put(url, data=content, headers=headers, timeout=10)

    def upload(self, content: bytes, ref: str = REF, **changes: Any) -> None:
        url = self.allocate(content, ref, **changes).json()["location"]["href"]
        assert self.store(url, content).status_code == 200

    def wait_until_final(self, ref: str = REF) -> Any:
        wait_until(lambda: self.inspect(ref)["status"]["code"] in {"success", "error", "corrupted"})
        return self.inspect(ref)


def lines(*items: Any) -> bytes:
    return b"".join((item if isinstance(item, bytes) else json.dumps(item).encode()) + b"\n" for item in items)


def zipped(content: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("import.json", content)
    return archive.getvalue()


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, speed=1000) as sandbox:
        yield sandbox


@pytest.fixture
def client(sandbox: Sandbox, session: requests.Session) -> Client:
    return Client(sandbox, session)


# --- The life of a batch


def test_a_batch_goes_through_its_states_and_modified_at_is_when_each_began(session: requests.Session) -> None:
    clock = Clock()
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, clock=clock) as sandbox:
        client = Client(sandbox, session)
        content = gzip.compress(lines(RECORD, RECORD))
        allocated = client.allocate(content).json()
        assert client.show() == allocated
        assert allocated == {
            "href": f"{sandbox.base_url}/v2/batches/{REF}",
            "ref": REF,
            "checksum": hashlib.md5(content).hexdigest(),
            "size": len(content),
            "location": {"href": allocated["location"]["href"], "expiry": "2026-03-01T13:00:00.123Z"},
            "status": {"code": "uploading"},
            "createdAt": "2026-03-01T12:00:00.123Z",
            "modifiedAt": "2026-03-01T12:00:00.123Z",
        }
        clock.move(2)
        assert client.store(allocated["location"]["href"], content).content == b""

        seen = [(client.inspect(), client.show()["status"])]
        clock.move(14.999)
        seen.append((client.inspect(), client.show()["status"]))
        clock.move(0.001)
        seen.append((client.inspect(), client.show()["status"]))
        clock.move(25)
        wait_until(lambda: client.show()["status"]["code"] != "processing")
        clock.move(1000)
        seen.append((client.inspect(), client.show()["status"]))

        assert [(body["status"]["code"], body["modifiedAt"][14:], status["code"]) for body, status in seen] == [
            ("file_uploaded", "00:02.123Z", "uploading"),
            ("file_uploaded", "00:02.123Z", "uploading"),
            ("processing", "00:17.123Z", "processing"),
            ("success", "00:42.123Z", "success"),
        ]
        assert ["summaryStats" in body for body, _ in seen] == [False, False, False, True]
        assert seen[-1][0]["href"] == f"{sandbox.base_url}/v2/batches/inspect/{REF}"
        assert seen[-1][0]["summaryStats"] == {
            "timeToProcessMillis": 25000,
            "totalCount": 2,
            "succeededCount": 2,
            "failedCount": 0,
        }
        assert "log" not in seen[-1][0]["status"]


def test_bad_records_end_as_error_with_counts_and_a_log_of_them(client: Client) -> None:
    bad = {**RECORD, "mode": "replace"}
    client.upload(gzip.compress(lines(RECORD, bad, b"{", RECORD, RECORD)))
    body = client.wait_until_final()
    assert body["status"]["code"] == "error"
    # At this speed 25 ms are planned; a busy machine takes longer.
    assert body["summaryStats"].pop("timeToProcessMillis") >= 25
    assert body["summaryStats"] == {"totalCount": 5, "succeededCount": 3, "failedCount": 2}
    response = client.session.get(body["status"]["log"], timeout=10)
    assert response.headers["Content-Type"] == "application/gzip"
    assert [json.loads(line) for line in gzip.decompress(response.content).splitlines()] == [
        {"ref": RECORD["ref"], "code": "402", "message": "Unsupported mode"},
        {"ref": "null", "code": "400", "message": "Failed to parse import line"},
    ]


@pytest.mark.parametrize(
    ("content", "changes", "status"),
    [
        (gzip.compress(lines(RECORD)), {"checksum": "0" * 32}, "corrupted"),
        (gzip.compress(lines(RECORD)), {"size": 7}, "corrupted"),
        (zipped(lines(RECORD)), {}, "error"),
        (lines(RECORD), {}, "error"),
        (gzip.compress(lines(RECORD))[:-9], {}, "error"),
        (gzip.compress(lines(RECORD)) + b"more", {}, "error"),
    ],
)
def test_a_file_that_was_not_read_has_neither_counts_nor_log(
    client: Client, content: bytes, changes: dict[str, Any], status: str
) -> None:
    client.upload(content, **changes)
    body = client.wait_until_final()
    assert body["status"] == {"code": status}
    assert "summaryStats" not in body


def test_the_checksum_is_compared_with_its_case(client: Client) -> None:
    content = gzip.compress(lines(RECORD))
    checksum = hashlib.md5(content).hexdigest()
    assert checksum != checksum.upper()
    client.upload(content, checksum=checksum.upper())
    assert client.wait_until_final()["status"] == {"code": "corrupted"}


def test_a_file_is_kept_as_it_came_whatever_its_content_encoding(client: Client) -> None:
    content = gzip.compress(lines(RECORD))
    url = client.allocate(content).json()["location"]["href"]
    client.store(url, content, **{"Content-Encoding": "gzip"})
    assert client.wait_until_final()["status"] == {"code": "success"}


def test_a_second_upload_changes_nothing(client: Client) -> None:
    content = gzip.compress(lines(RECORD))
    url = client.allocate(content).json()["location"]["href"]
    assert client.store(url, content).status_code == 200
    body = client.wait_until_final()
    assert client.store(url, b"other").status_code == 200
    assert client.inspect() == body


def test_a_batch_that_waits_for_its_file_keeps_waiting_after_the_url_expired(session: requests.Session) -> None:
    clock = Clock()
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, clock=clock) as sandbox:
        client = Client(sandbox, session)
        url = client.allocate(b"content").json()["location"]["href"]
        clock.move(3600)
        response = client.store(url, b"content")
        assert (response.status_code, "Request has expired" in response.text) == (403, True)
        assert client.show()["status"] == {"code": "uploading"}


def test_uploads_at_the_same_time_do_not_mix(sandbox: Sandbox) -> None:
    def upload(number: int) -> None:
        with requests.Session() as session:
            session.trust_env = False
            client = Client(sandbox, session)
            content = gzip.compress(lines(*[RECORD] * number, *[b"bad"] * (number % 3)))
            client.upload(content, ref=str(uuid.UUID(int=number)))
            results[number] = client.wait_until_final(str(uuid.UUID(int=number)))

    results: dict[int, Any] = {}
    threads = [threading.Thread(target=upload, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = {number: body["summaryStats"]["totalCount"] for number, body in results.items()}
    assert counts == {number: number + number % 3 for number in range(1, 9)}
    assert {number for number, body in results.items() if body["status"]["code"] == "success"} == {3, 6}


def test_a_batch_replaced_while_its_file_is_imported_keeps_its_place() -> None:
    clock = Clock()
    batches = Batches(clock=clock, speed=1)
    batches.allocate(ref=REF, checksum="", size=1)
    received = batches.receive_file(REF)
    assert received is not None
    placed = Batch(ref=REF, checksum="", size=1, created_at=NOW, states=(State(status="archived", since=NOW),))
    batches.place(placed)
    batches.finish(received, ImportResult(status="success", total=1, failed=0))
    assert batches.get(REF) is placed
    batches.remove(REF)
    batches.finish(received, ImportResult(status="success", total=1, failed=0))
    assert batches.get(REF) is None


def test_an_import_that_takes_longer_than_planned_ends_when_it_is_done() -> None:
    clock = Clock()
    batches = Batches(clock=clock, speed=5)
    batches.allocate(ref=REF, checksum="", size=1)
    received = batches.receive_file(REF)
    assert received is not None
    clock.move(30)
    assert received.state_at(clock()).status == "processing"
    batches.finish(received, ImportResult(status="success", total=1, failed=0))
    finished = batches.get(REF)
    assert finished is not None
    state = finished.state_at(clock())
    assert (state.status, state.since) == ("success", NOW + timedelta(seconds=30))
    assert state.stats["timeToProcessMillis"] == 27_000


# --- Records


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (lines(RECORD), None),
        (lines(RECORD)[:-1] + b"\r\n", None),
        (lines({**RECORD, "schema": "order", "value": {}}), None),
        (lines({**RECORD, "mode": "gdpr_delete"}), None),
        (lines({**RECORD, "value": {"identifiers": [{"provider": "CRM", "id": "1"}]}}), None),
        (b"{", ("null", "400", "Failed to parse import line")),
        (b"[1]", ("null", "400", "Failed to parse import line")),
        (b"\xff\xfe", ("null", "400", "Failed to parse import line")),
        (b'{"ref": NaN}', ("null", "400", "Failed to parse import line")),
        (b"[" * 100_000, ("null", "400", "Failed to parse import line")),
        (b"{}", ("null", "400", "Validation error: ref must be a UUID")),
        (lines({**RECORD, "ref": "12"}), ("12", "400", "Validation error: ref must be a UUID")),
        (lines({**RECORD, "ref": 12}), ("12", "400", "Validation error: ref must be a UUID")),
        (lines({**RECORD, "schema": None}), (RECORD["ref"], "400", "Validation error: schema must be a string")),
        (lines({**RECORD, "value": []}), (RECORD["ref"], "400", "Validation error: value must be an object")),
        (lines({**RECORD, "mode": ["upsert"]}), (RECORD["ref"], "402", "Unsupported mode")),
        (lines({**RECORD, "value": {"email": ""}}), (RECORD["ref"], "400", "Identity information missing")),
    ],
)
def test_a_record_is_checked(line: bytes, error: tuple[str, str, str] | None) -> None:
    found = check_record(line)
    assert (found and (found.ref, found.code, found.message)) == error


@given(st.binary())
def test_any_line_is_either_good_or_explained(line: bytes) -> None:
    error = check_record(line)
    assert error is None or set(json.loads(error.line())) == {"ref", "code", "message"}


def imported(content: bytes, **options: Any) -> ImportResult:
    return import_file(content, checksum=hashlib.md5(content).hexdigest(), size=len(content), **options)


def test_blank_lines_and_a_missing_last_line_end_are_no_records() -> None:
    result = imported(gzip.compress(b"\n\r\n" + lines(RECORD) + b"  \n" + lines(RECORD)[:-1]))
    assert (result.status, result.total) == ("success", 2)


@pytest.mark.parametrize("limit", ["MAX_UNPACKED_BYTES", "MAX_LINE_BYTES"])
def test_a_file_that_unpacks_to_too_much_is_given_up(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    content = gzip.compress(b" " * 1001)
    monkeypatch.setattr(records, limit, 1001)
    assert imported(content).status == "success"
    monkeypatch.setattr(records, limit, 1000)
    assert imported(content) == ImportResult(status="error")


def test_an_import_stops_when_it_is_told_to() -> None:
    answers = iter([False, False, True])
    with pytest.raises(ImportStoppedError):
        imported(gzip.compress(lines(*[RECORD] * 10)), is_stopping=lambda: next(answers))
    assert list(answers) == []


# --- Requests that the API refuses


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", f"/v2/batches/{REF}", {}, 404),
        ("GET", f"/v2/batches/inspect/{REF}", {}, 404),
        ("GET", "/", {}, 404),
        ("GET", "/v2/batches", {}, 404),
        ("POST", f"/v2/batches/{REF}", {}, 405),
        ("DELETE", "/v2/batches/inspect", {}, 405),
        ("GET", "/", {"auth": None}, 401),
        ("GET", f"/v2/batches/{REF}", {"auth": None}, 401),
        ("GET", f"/v2/batches/{REF}", {"auth": ("key", "wrong")}, 401),
        ("GET", f"/v2/batches/{REF}", {"auth": ("wrong", API_TOKEN.encode())}, 401),
        ("GET", f"/v2/batches/{REF}", {"auth": None, "headers": {"Authorization": "Bearer x"}}, 401),
        ("GET", f"/v2/batches/{REF}", {"auth": None, "headers": {"Authorization": b"Basic \xff"}}, 401),
        ("PUT", "/v2/batches/not-a-uuid", {"json": {"checksum": "0" * 32, "size": 1}}, 400),
        ("PUT", "/v2/batches/inspect", {"json": {"checksum": "0" * 32, "size": 1}}, 400),
        ("PUT", f"/v2/batches/{REF}", {"data": b"{"}, 400),
        ("PUT", f"/v2/batches/{REF}", {"json": []}, 400),
        ("PUT", f"/v2/batches/{REF}", {"json": {"checksum": "0" * 32}}, 400),
        ("PUT", f"/v2/batches/{REF}", {"json": {"size": 1}}, 400),
        ("PUT", f"/v2/batches/{REF}", {"json": {"checksum": "0" * 31, "size": 1}}, 400),
        ("PUT", f"/v2/batches/{REF}", {"json": {"checksum": "0" * 32, "size": "1"}}, 400),
        ("PUT", f"/v2/batches/{REF}", {"json": {"checksum": "0" * 32, "size": True}}, 400),
        ("PUT", f"/v2/batches/{REF}", {"json": {"checksum": "0" * 32, "size": 0}}, 400),
        ("PUT", f"/v2/batches/{REF}", {"json": {"checksum": "0" * 32, "size": 50 * 1024**2 + 1}}, 400),
        ("PUT", f"/v2/batches/{REF}", {"data": b"{}", "headers": {"Content-Type": "text/xml"}}, 415),
        ("GET", "/v2/batches/inspect?limit=0", {}, 400),
        ("GET", "/v2/batches/inspect?limit=x", {}, 400),
        ("GET", "/v2/batches/inspect?offset=-1", {}, 400),
        ("GET", "/v2/batches/inspect?createdBefore=yesterday", {}, 400),
    ],
)
def test_a_request_is_refused_with_a_body_in_json(
    client: Client, method: str, path: str, options: dict[str, Any], status: int
) -> None:
    response = client.request(method, path, **options)
    assert response.status_code == status
    assert response.headers["Content-Type"].startswith("application/json")
    body = response.json()
    assert body["status"] == status
    assert set(body) == {"status", "code", "message", "developerMessage", "moreInfoUrl"}
    assert ("WWW-Authenticate" in response.headers) is (status == 401)
    assert ("Allow" in response.headers) is (status == 405)
    assert client.get("/v2/batches/inspect").json()["totalCount"] == 0


def test_a_ref_that_exists_is_refused(client: Client) -> None:
    first = client.allocate(b"content").json()
    assert client.allocate(b"other").status_code == 409
    assert client.show() == first


def test_json_sent_by_curl_without_naming_its_type_is_accepted(client: Client) -> None:
    response = client.request(
        "PUT",
        f"/v2/batches/{REF}",
        data=json.dumps({"checksum": "0" * 32, "size": 1}),
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert response.status_code == 200


def test_a_changed_token_counts_at_once(client: Client) -> None:
    client.sandbox.set_api_token("new")
    assert client.get("/v2/batches/inspect").status_code == 401
    assert client.get("/v2/batches/inspect", auth=(CLIENT_KEY, "new")).status_code == 200


# --- Object storage


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Content-Md5": base64.b64encode(hashlib.md5(b"other").digest()).decode()}, 400, "BadDigest"),
        ({"Content-Md5": hashlib.md5(b"content").hexdigest()}, 400, "InvalidDigest"),
        ({"Content-Md5": "?"}, 400, "InvalidDigest"),
        ({"Authorization": AUTHORIZATION}, 400, "InvalidArgument"),
    ],
)
def test_an_upload_is_refused_as_by_s3(client: Client, headers: dict[str, str], status: int, code: str) -> None:
    url = client.allocate(b"content").json()["location"]["href"]
    response = client.store(url, b"content", **headers)
    assert (response.status_code, f"<Code>{code}</Code>" in response.text) == (status, True)
    assert client.inspect()["status"] == {"code": "uploading"}


def test_an_upload_with_all_the_documented_headers_is_accepted(client: Client) -> None:
    url = client.allocate(b"content").json()["location"]["href"]
    headers = {
        "Content-Md5": base64.b64encode(hashlib.md5(b"content").digest()).decode(),
        "Content-Type": "application/gzip",
        "x-amz-server-side-encryption": "AES256",
    }
    response = client.store(url, b"content", **headers)
    assert (response.status_code, response.content) == (200, b"")
    assert client.inspect()["status"]["code"] != "uploading"


def test_an_upload_of_unknown_length_is_refused_as_by_s3(client: Client) -> None:
    url = client.allocate(b"content").json()["location"]["href"]
    assert client.session.put(url, data=iter([b"con", b"tent"]), timeout=10).status_code == 501


def test_an_upload_larger_than_the_limit_is_refused_before_it_is_read(client: Client) -> None:
    url = client.allocate(b"content").json()["location"]["href"]
    with raw_connection(client.sandbox) as connection:
        path = url.removeprefix(client.sandbox.base_url)
        connection.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {50 * 1024**2 + 1}\r\n\r\n".encode())
        assert b" 400 " in connection.recv(100)


@pytest.mark.parametrize("change", ["signature", "expiry", "ref", "method", "nothing signed"])
def test_a_url_that_was_tampered_with_is_refused(client: Client, change: str) -> None:
    other = str(uuid.UUID(int=1))
    client.allocate(b"content", ref=other)
    client.sandbox.put_batch(REF, status="error", log=True)
    body = client.show()
    url: str = body["location"]["href"]
    tampered = {
        "signature": url[:-1] + ("0" if url[-1] != "0" else "1"),
        "expiry": url.replace("Expires=1", "Expires=2"),
        "ref": url.replace(REF, other),
        "method": body["status"]["log"].replace("error.log.gz", "import.json.gz"),
        "nothing signed": url.partition("?")[0],
    }[change]
    response = client.store(tampered, b"content")
    assert (response.status_code, "SignatureDoesNotMatch" in response.text) == (403, True)


def test_signatures_of_another_sandbox_are_worth_nothing(client: Client) -> None:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN) as other:
        url = Client(other, client.session).allocate(b"content").json()["location"]["href"]
    path = url.removeprefix(other.base_url)
    assert client.store(client.sandbox.base_url + path, b"content").status_code == 403


def test_a_log_is_given_to_its_signed_url_only(client: Client) -> None:
    client.sandbox.put_batch(REF, status="error", log=True)
    body = client.show()
    url = body["status"]["log"]
    upload_signature = body["location"]["href"].partition("?")[2]
    refused = [
        client.session.get(url, headers={"Authorization": AUTHORIZATION}, timeout=10),
        client.session.get(url[:-1], timeout=10),
        client.session.get(f"{url.partition('?')[0]}?{upload_signature}", timeout=10),
        client.session.head(url, timeout=10),
    ]
    assert [response.status_code for response in refused] == [400, 403, 403, 403]
    assert client.session.get(url, timeout=10).status_code == 200


def test_an_upload_without_a_length_is_refused_as_by_s3(client: Client) -> None:
    path = client.allocate(b"content").json()["location"]["href"].removeprefix(client.sandbox.base_url)
    with raw_connection(client.sandbox) as connection:
        connection.sendall(f"PUT {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b" 411 " in connection.recv(100)


def test_a_batch_stays_uploading_until_its_file_is_wholly_there(client: Client) -> None:
    content = gzip.compress(lines(RECORD))
    url = client.allocate(content).json()["location"]["href"]
    path = url.removeprefix(client.sandbox.base_url)
    with raw_connection(client.sandbox) as connection:
        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content[:-1])
        wait_until(lambda: client.sandbox.requests[-1].method == "PUT" and len(client.sandbox.requests) == 2)
        assert client.inspect()["status"] == {"code": "uploading"}
    wait_until(lambda: client.sandbox.open_connections == 1)
    assert client.inspect()["status"] == {"code": "uploading"}
    assert client.store(url, content).status_code == 200
    assert client.wait_until_final()["status"] == {"code": "success"}


def test_a_log_url_of_a_removed_batch_finds_nothing(client: Client) -> None:
    client.sandbox.put_batch(REF, status="error", log=True)
    url = client.show()["status"]["log"]
    assert client.session.get(url, timeout=10).status_code == 200
    client.sandbox.remove_batch(REF)
    assert client.session.get(url, timeout=10).status_code == 404


# --- The list

MOMENTS = [NOW - timedelta(days=30), *(NOW - timedelta(days=29, seconds=-number) for number in range(4)), NOW]
STATUSES = ["uploading", "file_uploaded", "success", "error"]


@given(
    placed=st.lists(st.tuples(st.sampled_from(MOMENTS), st.sampled_from(STATUSES)), max_size=30),
    statuses=st.sets(st.sampled_from([*STATUSES, "unheard-of"])),
    created_before=st.none() | st.sampled_from(MOMENTS),
    offset=st.integers(0, 40),
    limit=st.integers(1, 40),
)
def test_a_page_is_a_slice_of_what_matches_the_newest_first(
    placed: list[tuple[datetime, str]],
    statuses: set[str],
    created_before: datetime | None,
    offset: int,
    limit: int,
) -> None:
    batches = Batches(clock=Clock(), speed=1)
    for number, (created_at, status) in enumerate(placed):
        state = State(status=status, since=created_at)
        batches.place(Batch(ref=str(number), checksum="", size=1, created_at=created_at, states=(state,)))
    expected = []
    for moment in reversed(MOMENTS[1:]):
        for number in range(len(placed) - 1, -1, -1):
            created_at, status = placed[number]
            if created_at != moment or (created_before is not None and created_at >= created_before):
                continue
            if not statuses or status in statuses:
                expected.append(str(number))
    total, page = batches.page(statuses=statuses, created_before=created_before, offset=offset, limit=limit)
    assert total == len(expected)
    assert [batch.ref for batch, _ in page] == expected[offset : offset + limit]


def test_the_list_is_walked_by_the_size_of_its_pages(session: requests.Session) -> None:
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, max_page_size=7) as sandbox:
        client = Client(sandbox, session)
        refs = [str(uuid.UUID(int=number)) for number in range(30)]
        for number, ref in enumerate(refs):
            sandbox.put_batch(ref, created_at=datetime.now(UTC) - timedelta(minutes=number))
        walked: list[str] = []
        while True:
            body = client.get("/v2/batches/inspect", params={"offset": len(walked), "limit": 100}).json()
            assert (body["totalCount"], body["offset"], body["limit"]) == (30, len(walked), 7)
            if not body["items"]:
                break
            walked += [item["ref"] for item in body["items"]]
        assert walked == refs


def test_an_item_of_the_list_holds_what_is_documented_and_no_more(client: Client) -> None:
    created_at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    client.sandbox._batches.now = lambda: created_at + timedelta(days=1)
    client.sandbox.put_batch(REF, status="error", failed=3, log=True, created_at=created_at)
    assert client.get("/v2/batches/inspect").json() == {
        "totalCount": 1,
        "offset": 0,
        "limit": 10,
        "items": [
            {
                "href": f"{client.sandbox.base_url}/v2/batches/inspect/{REF}",
                "ref": REF,
                "status": "error",
                "createdAt": "2026-01-02T03:04:05.678Z",
                "modifiedAt": "2026-01-02T03:04:05.678Z",
            }
        ],
    }


def test_the_list_filters_by_several_statuses_and_by_creation(client: Client) -> None:
    now = datetime.now(UTC)
    for number, status in enumerate(["success", "error", "file_uploaded", "error"]):
        client.sandbox.put_batch(str(number), status=status, created_at=now - timedelta(hours=number))

    def refs(**params: str) -> list[str]:
        return [item["ref"] for item in client.get("/v2/batches/inspect", params=params).json()["items"]]

    assert refs() == ["0", "1", "2", "3"]
    assert refs(status="") == ["0", "1", "2", "3"]
    assert refs(status="error") == ["1", "3"]
    assert refs(status="file_uploaded,success") == ["0", "2"]
    assert refs(status="unheard-of") == []
    assert refs(createdBefore=(now - timedelta(hours=1)).isoformat().replace("+00:00", "Z")) == ["2", "3"]
    assert refs(createdBefore=(now - timedelta(hours=1)).replace(tzinfo=None).isoformat(), status="error") == ["3"]


def test_the_oldest_batch_is_forgotten_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sitecore_cdp_exporter.sandbox.state.MAX_BATCHES", 3)
    batches = Batches(clock=Clock(), speed=1)
    for ref in "abcde":
        batches.allocate(ref=ref, checksum="", size=1)
    assert [ref for ref in "abcde" if batches.get(ref)] == ["c", "d", "e"]


# --- What tests do to a sandbox


def test_a_placed_batch_says_exactly_what_was_given(client: Client) -> None:
    client.sandbox.put_batch(
        REF,
        status="error",
        total=121776,
        succeeded=121460,
        failed=316,
        time_to_process_millis=614867,
        size=99,
        created_at=datetime(2025, 4, 24, 8, 33, 0, 770000, tzinfo=UTC),
        modified_at=datetime(2025, 4, 24, 10, 46, 4, tzinfo=UTC).astimezone(),
        log=True,
    )
    body = client.show()
    log = client.session.get(body["status"]["log"], timeout=10)
    assert len(gzip.decompress(log.content).splitlines()) == 316
    assert body == {
        "href": f"{client.sandbox.base_url}/v2/batches/{REF}",
        "ref": REF,
        "checksum": body["checksum"],
        "size": 99,
        "location": {"href": body["location"]["href"], "expiry": "2025-04-24T09:33:00.770Z"},
        "status": {"code": "error", "log": body["status"]["log"]},
        "summaryStats": {
            "timeToProcessMillis": 614867,
            "totalCount": 121776,
            "succeededCount": 121460,
            "failedCount": 316,
        },
        "createdAt": "2025-04-24T08:33:00.770Z",
        "modifiedAt": "2025-04-24T10:46:04.000Z",
    }
    client.sandbox.put_batch(REF, status="archived", failed=0, size=None)
    body = client.show()
    assert (body["status"], body["summaryStats"], "size" in body) == ({"code": "archived"}, {"failedCount": 0}, False)
    client.sandbox.put_batch(REF)
    assert "summaryStats" not in client.show()
    client.sandbox.remove_batch(REF)
    assert client.get(f"/v2/batches/{REF}").status_code == 404
    client.sandbox.remove_batch(REF)


def test_requests_are_logged_with_what_tests_want_to_see(client: Client) -> None:
    before = time.monotonic()
    client.get("/v2/batches/inspect?limit=3", headers={"User-Agent": "me"})
    client.get("/v2/batches/x", auth=None)
    client.request("PUT", "/storage/nothing")
    first, second, third = client.sandbox.requests
    assert (first.method, first.path, first.query, first.status) == ("GET", "/v2/batches/inspect", "limit=3", 200)
    assert (second.status, third.path, third.status) == (401, "/storage/nothing", 404)
    assert first.headers["USER-AGENT"] == "me"
    assert first.headers["authorization"] == AUTHORIZATION
    assert "Authorization" not in second.headers
    assert "Cookie" not in first.headers
    assert before <= first.time <= second.time <= time.monotonic()
    assert first.peer_port == second.peer_port
    assert AUTHORIZATION not in repr(first)
    client.sandbox.clear_requests()
    assert client.sandbox.requests == []


def test_idle_connections_are_closed_and_busy_ones_are_not(client: Client) -> None:
    client.get("/v2/batches/inspect")
    assert client.sandbox.open_connections == 1
    client.sandbox.set_fault(faults.Hang())
    with raw_connection(client.sandbox) as busy:
        busy.sendall(raw_request("/v2/batches/inspect"))
        wait_until(lambda: len(client.sandbox.requests) == 2)
        client.sandbox.close_idle_connections()
        wait_until(lambda: client.sandbox.open_connections == 1)
        client.sandbox.clear_faults()
        assert busy.recv(12) == b"HTTP/1.1 200"
    assert client.get("/v2/batches/inspect").status_code == 200
    ports = [entry.peer_port for entry in client.sandbox.requests]
    assert len(set(ports)) == 3


def test_the_high_water_mark_counts_requests_that_are_answered_at_once(client: Client) -> None:
    sandbox = client.sandbox
    client.get("/v2/batches/inspect")
    client.get("/v2/batches/inspect")
    assert sandbox.most_concurrent_requests == 1
    sandbox.set_fault(faults.Hang())
    connections = [raw_connection(sandbox) for _ in range(5)]
    for connection in connections:
        connection.sendall(raw_request("/v2/batches/inspect"))
    wait_until(lambda: sandbox.most_concurrent_requests == 5)
    for connection in connections:
        connection.close()
    wait_until(lambda: sandbox.open_connections == 1)
    wait_until(lambda: sandbox.concurrent_requests == 0)
    sandbox.clear_faults()
    sandbox.clear_requests()
    assert sandbox.most_concurrent_requests == 0
    client.get("/v2/batches/inspect")
    assert sandbox.most_concurrent_requests == 1


def test_tls_is_served_and_the_urls_say_so(tmp_path: Path, session: requests.Session) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    session.verify = str(ca_file)
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, ssl_context=context, speed=1000) as sandbox:
        assert sandbox.base_url.startswith("https://127.0.0.1:")
        client = Client(sandbox, session)
        client.upload(gzip.compress(lines(b"bad")))
        log_url = client.wait_until_final()["status"]["log"]
        assert log_url.startswith(sandbox.base_url)
        assert session.get(log_url, timeout=10).status_code == 200
        sandbox.set_fault(faults.CutBody(), times=1)
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            client.show()


# --- Faults


def raw_connection(sandbox: Sandbox) -> socket.socket:
    return socket.create_connection(("127.0.0.1", urlsplit(sandbox.base_url).port or 0), timeout=30)


def raw_request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: sandbox\r\nAuthorization: {AUTHORIZATION}\r\n\r\n".encode()


def raw_answer(sandbox: Sandbox, path: str = f"/v2/batches/{REF}") -> list[bytes]:
    """Send a request and read until the sandbox closes the connection; gives what each read gave."""
    with raw_connection(sandbox) as connection:
        connection.sendall(raw_request(path))
        return list(iter(lambda: connection.recv(1_000_000), b""))


def test_a_fault_of_a_ref_goes_before_that_of_all_and_is_counted(client: Client) -> None:
    client.sandbox.put_batch(REF)
    client.sandbox.set_fault(faults.Status(500))
    client.sandbox.set_fault(faults.Status(503, retry_after=7), ref=REF, times=2)
    answers = [client.get(path) for path in (f"/v2/batches/{REF}", "/v2/batches/x", f"/v2/batches/inspect/{REF}")]
    assert [answer.status_code for answer in answers] == [503, 500, 503]
    assert answers[0].headers["Retry-After"] == "7"
    assert answers[0].json()["status"] == 503
    assert "Retry-After" not in answers[1].headers
    assert client.get(f"/v2/batches/{REF}").status_code == 500
    client.sandbox.clear_faults()
    assert client.get(f"/v2/batches/{REF}").status_code == 200


def test_a_status_with_a_body_of_its_own(client: Client) -> None:
    client.sandbox.set_fault(faults.Status(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT", body="slow down"))
    answer = client.get("/v2/batches/x")
    assert (answer.status_code, answer.text) == (429, "slow down")
    assert answer.headers["Retry-After"] == "Wed, 21 Oct 2026 07:28:00 GMT"


def test_faults_leave_storage_alone(client: Client) -> None:
    client.sandbox.put_batch(REF, status="error", log=True)
    url = client.show()["status"]["log"]
    client.sandbox.set_fault(faults.Status(500))
    assert client.session.get(url, timeout=10).status_code == 200


def test_a_delayed_answer_is_right(client: Client) -> None:
    client.sandbox.put_batch(REF)
    client.sandbox.set_fault(faults.Delay(0.05))
    answer = client.get(f"/v2/batches/{REF}")
    assert answer.json()["ref"] == REF
    assert answer.elapsed >= timedelta(seconds=0.05)


def test_a_request_hangs_until_the_faults_are_cleared(client: Client) -> None:
    client.sandbox.set_fault(faults.Hang(), times=1)
    with raw_connection(client.sandbox) as connection:
        connection.sendall(raw_request("/v2/batches/inspect"))
        wait_until(lambda: len(client.sandbox.requests) == 1)
        # One that came later is answered, while the first still hangs.
        assert client.get("/v2/batches/inspect").status_code == 200
        assert client.sandbox.requests[0].status is None
        client.sandbox.clear_faults()
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert client.sandbox.requests[0].status == 200


def test_headers_drip_byte_by_byte(client: Client) -> None:
    client.sandbox.put_batch(REF)
    client.sandbox.set_fault(faults.DripHeaders(interval=0.001))
    reads = raw_answer(client.sandbox)
    head, _, body = b"".join(reads).partition(b"\r\n\r\n")
    assert json.loads(body)["ref"] == REF
    assert len(reads) > len(head) / 2
    assert len(reads[-1]) > 100


def test_the_body_drips_byte_by_byte(client: Client) -> None:
    client.sandbox.put_batch(REF)
    client.sandbox.set_fault(faults.DripBody(interval=0.001))
    reads = raw_answer(client.sandbox)
    head, _, body = b"".join(reads).partition(b"\r\n\r\n")
    assert json.loads(body)["ref"] == REF
    assert len(reads) > len(body) / 2
    assert len(reads[0]) >= len(head)


def test_dripping_ends_when_the_client_leaves(client: Client) -> None:
    client.sandbox.set_fault(faults.DripHeaders(interval=0.001))
    with raw_connection(client.sandbox) as connection:
        connection.sendall(raw_request("/v2/batches/inspect"))
        assert connection.recv(1) == b"H"
    wait_until(lambda: client.sandbox.concurrent_requests == 0)
    wait_until(lambda: client.sandbox.open_connections == 0)


def test_the_body_is_cut_in_the_middle(client: Client) -> None:
    client.sandbox.put_batch(REF)
    client.sandbox.set_fault(faults.CutBody())
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="IncompleteRead"):
        client.get(f"/v2/batches/{REF}")
    head, _, body = b"".join(raw_answer(client.sandbox)).partition(b"\r\n\r\n")
    length = int(http.client.parse_headers(io.BytesIO(head.partition(b"\r\n")[2]))["Content-Length"])
    assert len(body) == length // 2 > 0


def test_the_connection_is_cut_before_any_byte(client: Client) -> None:
    client.sandbox.set_fault(faults.CutConnection())
    assert raw_answer(client.sandbox) == []
    assert client.sandbox.requests[0].status is None
    client.sandbox.set_fault(faults.CutConnection(reset=True))
    with pytest.raises(ConnectionResetError):
        raw_answer(client.sandbox)


def test_only_a_reused_connection_is_closed_unanswered(client: Client) -> None:
    client.sandbox.set_fault(faults.CloseReusedConnection())
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(client.sandbox.base_url).port, timeout=30)
    headers = {"Authorization": AUTHORIZATION}
    for _ in range(2):
        connection.request("GET", "/v2/batches/inspect", headers=headers)
        first = connection.getresponse()
        assert (first.status, first.read()[:1]) == (200, b"{")
        connection.request("GET", "/v2/batches/inspect", headers=headers)
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()
        connection.close()
    assert [entry.status for entry in client.sandbox.requests] == [200, None, 200, None]


def test_a_first_request_does_not_use_up_the_fault_of_reused_connections(client: Client) -> None:
    client.sandbox.set_fault(faults.CloseReusedConnection(), times=1)
    client.get("/v2/batches/inspect")
    with pytest.raises(requests.ConnectionError):
        client.get("/v2/batches/inspect")
    client.get("/v2/batches/inspect")
    assert client.get("/v2/batches/inspect").status_code == 200


def test_json_is_malformed_but_whole(client: Client) -> None:
    client.sandbox.put_batch(REF)
    client.sandbox.set_fault(faults.MalformedJson())
    answer = client.get(f"/v2/batches/{REF}")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    assert answer.content.startswith(b'{"href"')
    with pytest.raises(requests.JSONDecodeError):
        answer.json()


def test_any_body_is_sent_as_it_is(client: Client) -> None:
    client.sandbox.set_fault(faults.Body(b"\xff\x00", "text/odd", "gzip", 201))
    answer = client.get("/v2/batches/x", stream=True)
    assert answer.status_code == 201
    assert (answer.headers["Content-Type"], answer.headers["Content-Encoding"]) == ("text/odd", "gzip")
    assert answer.raw.read(decode_content=False) == b"\xff\x00"


def test_an_html_page_comes_with_200(client: Client) -> None:
    client.sandbox.set_fault(faults.Html())
    answer = client.get("/v2/batches/x")
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert answer.text.startswith("<!DOCTYPE html>")


def test_a_large_body_is_valid_json(client: Client) -> None:
    client.sandbox.set_fault(faults.LargeBody(5))
    answer = client.get("/v2/batches/x")
    assert len(answer.content) >= 5 * 1024**2
    assert isinstance(answer.json(), dict)


def test_a_gzip_bomb_is_small_on_the_wire_and_large_unpacked(client: Client) -> None:
    client.sandbox.set_fault(faults.GzipBomb(20))
    answer = client.get("/v2/batches/x")
    assert int(answer.headers["Content-Length"]) < 100_000
    assert len(answer.content) == 20 * 1024**2 + 2
    assert answer.json() == {}


def test_a_redirect_points_elsewhere(client: Client) -> None:
    client.sandbox.set_fault(faults.Redirect("http://127.0.0.1:1/elsewhere", status=307))
    answer = client.get("/v2/batches/x")
    assert (answer.status_code, answer.headers["Location"]) == (307, "http://127.0.0.1:1/elsewhere")


def test_a_cookie_comes_with_the_right_answer(client: Client) -> None:
    client.sandbox.put_batch(REF)
    client.sandbox.set_fault(faults.SetCookie())
    answer = client.get(f"/v2/batches/{REF}")
    assert answer.json()["ref"] == REF
    assert answer.cookies["session"] == "sandbox"


# --- Control over HTTP


def test_a_fault_of_a_drill_is_set_over_http_for_a_batch_and_a_number_of_requests(client: Client) -> None:
    order = {"fault": "status", "status": 503, "retry_after": 7, "body": "down", "ref": "x", "times": 2}
    assert client.request("PUT", "/sandbox/faults", json=order, auth=None).status_code == 204
    answers = [client.get("/v2/batches/x") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 503, 404]
    assert (answers[0].headers["Retry-After"], answers[0].text) == ("7", "down")


def test_a_slow_api_is_set_over_http_and_ends_when_it_is_cleared(client: Client) -> None:
    order = {"fault": "delay", "seconds": 3600}
    assert client.request("PUT", "/sandbox/faults", json=order, auth=None).status_code == 204
    with raw_connection(client.sandbox) as connection:
        connection.sendall(raw_request("/v2/batches/inspect"))
        wait_until(lambda: client.sandbox.concurrent_requests == 1)
        client.request("DELETE", "/sandbox/faults", auth=None)
        assert connection.recv(12) == b"HTTP/1.1 200"


def test_faults_are_switched_off_over_http(client: Client) -> None:
    client.request("PUT", "/sandbox/faults", json={"fault": "status", "status": 500}, auth=None)
    assert client.get("/v2/batches/inspect").status_code == 500
    assert client.request("DELETE", "/sandbox/faults", auth=None).status_code == 204
    assert client.get("/v2/batches/inspect").status_code == 200
    assert {entry.path for entry in client.sandbox.requests} == {"/v2/batches/inspect"}


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (b"{", "Invalid JSON"),
        (b"[]", "object"),
        (b"{}", "fault"),
        (b'{"fault": "rain"}', "'status' or 'delay'"),
        (b'{"fault": "delay"}', "seconds"),
        (b'{"fault": "delay", "seconds": -1}', "seconds"),
        (b'{"fault": "delay", "seconds": 1, "minutes": 1}', "minutes"),
        (b'{"fault": "delay", "seconds": 1, "times": 0}', "times"),
        (b'{"fault": "status", "status": 99}', "status"),
    ],
)
def test_a_wrong_order_is_explained(client: Client, order: bytes, message: str) -> None:
    response = client.request("PUT", "/sandbox/faults", data=order, auth=None)
    assert response.status_code == 400
    assert message in response.json()["message"]
    assert client.get("/v2/batches/inspect").status_code == 200


# --- Starting and stopping


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  Path.iterdir would hold the folder open itself.


def test_stopping_leaves_no_thread_and_no_open_file_whatever_was_going_on() -> None:
    def run() -> None:
        with (
            Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, speed=1000) as sandbox,
            requests.Session() as session,
        ):
            session.trust_env = False
            client = Client(sandbox, session)
            client.upload(gzip.compress(lines(RECORD)))
            client.wait_until_final()
            sandbox.set_fault(faults.DripBody(interval=60), ref="drip")
            sandbox.set_fault(faults.Hang())
            connections = [raw_connection(sandbox) for _ in range(4)]
            connections[0].sendall(raw_request("/v2/batches/hang"))
            connections[1].sendall(raw_request("/v2/batches/drip"))
            connections[2].sendall(b"GET /v2/bat")
            wait_until(lambda: sandbox.concurrent_requests == 2)
            wait_until(lambda: sandbox.open_connections == 5)
            sandbox.stop()
            assert connections[0].recv(1) == b""
            for connection in connections:
                connection.close()
        assert sandbox.open_connections == 0

    run()
    threads, files = threading.active_count(), open_files()
    for _ in range(3):
        run()
    assert (threading.active_count(), open_files()) == (threads, files)


def test_stopping_gives_up_an_import(session: requests.Session) -> None:
    sandbox = Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN)
    sandbox.start()
    client = Client(sandbox, session)
    content = gzip.compress(lines(RECORD) * 500_000)
    client.upload(content)
    sandbox.stop()
    batch = sandbox._batches.get(REF)
    assert batch is not None
    assert [state.status for state in batch.states] == ["uploading", "file_uploaded", "processing"]
    sandbox.stop()


def test_a_port_in_use_is_an_error_and_leaves_no_thread(sandbox: Sandbox) -> None:
    threads = threading.active_count()
    with pytest.raises(OSError, match="address already in use"):
        Sandbox(port=urlsplit(sandbox.base_url).port or 0).start()
    assert threading.active_count() == threads


def test_the_sandbox_listens_on_loopback_only(sandbox: Sandbox) -> None:
    assert [address[0] for address in sandbox._runner.addresses] == ["127.0.0.1"]


def test_ipv6_is_served_and_the_urls_say_so(session: requests.Session) -> None:
    try:
        sandbox = Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, host="::1")
        sandbox.start()
    except OSError:
        pytest.skip("This machine has no IPv6 loopback.")
    try:
        assert sandbox.base_url.startswith("http://[::1]:")
        body = Client(sandbox, session).allocate(b"content").json()
        assert body["href"].startswith(sandbox.base_url)
    finally:
        sandbox.stop()


# --- The command


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
        assert session.get(url, auth=("me", "s3cret"), timeout=10).status_code == 200
        assert session.get(url, auth=("me", "sandbox-token"), timeout=10).status_code == 401
        process.send_signal(number)
        output, errors = process.communicate()
    assert (process.returncode, output, errors) == (0, "", "")
    assert "s3cret" not in "".join(facts.values())


def test_exported_credentials_of_the_real_api_are_not_those_of_the_sandbox(session: requests.Session) -> None:
    real = {"SITECORE_CDP_CLIENT_KEY": "real", "SITECORE_CDP_API_TOKEN": "s3cret"}
    with run_sandbox("--listen-address", ":0", **real) as process:
        facts = {name: value.strip() for name, value in read_facts(process).items()}
        url = facts["Base URL"] + "/v2/batches/inspect"
        assert session.get(url, auth=("sandbox-client", "sandbox-token"), timeout=10).status_code == 200
        assert session.get(url, auth=("real", "s3cret"), timeout=10).status_code == 401
        process.terminate()
    assert (facts["Client key"], facts["API token"]) == ("sandbox-client", "sandbox-token")


def test_without_a_token_in_the_environment_the_command_prints_its_own(session: requests.Session) -> None:
    with run_sandbox("--listen-address", ":0", "--client-key", "me") as process:
        facts = {name: value.strip() for name, value in read_facts(process).items()}
        url = facts["Base URL"] + "/v2/batches/inspect"
        assert url.startswith("http://127.0.0.1:")
        assert session.get(url, auth=(facts["Client key"], facts["API token"]), timeout=10).status_code == 200
        process.terminate()
    assert (facts["Client key"], facts["API token"]) == ("me", "sandbox-token")


def test_a_port_in_use_is_one_line_and_exit_code_1(sandbox: Sandbox) -> None:
    port = urlsplit(sandbox.base_url).port
    with run_sandbox("--listen-address", f"127.0.0.1:{port}") as process:
        output, errors = process.communicate()
    assert (process.returncode, output) == (1, "")
    assert errors.startswith(f"Cannot listen on 127.0.0.1:{port}: ")
    assert errors.endswith("ddress already in use\n")


@pytest.mark.parametrize(
    "arguments",
    [("--listen-address", "127.0.0.1"), ("--listen-address", "x:70000"), ("--speed", "0"), ("--speed", "nan")],
)
def test_a_wrong_flag_is_explained(arguments: tuple[str, str]) -> None:
    with run_sandbox(*arguments) as process:
        _, errors = process.communicate()
    assert process.returncode == 2
    assert f"argument {arguments[0]}: must be" in errors


def test_the_help_documents_the_faults() -> None:
    with run_sandbox("--help") as process:
        output, _ = process.communicate()
    assert (process.returncode, "curl -X PUT" in output, "delay " in output) == (0, True, True)
