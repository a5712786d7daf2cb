# ruff: noqa: S324  The Batch API's checksum is MD5.
"""Presigned URLs, as in S3."""

import base64
import gzip
import hashlib
import uuid

import pytest
import requests

from tests.conditions import wait_until
from tests.sandbox.client import (
    API_TOKEN,
    AUTHORIZATION,
    CLIENT_KEY,
    RECORD,
    REF,
    Client,
    Clock,
    lines,
    raw_connection,
)
from tools.sandbox import Sandbox


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
    assert client.session.put(url, data=iter([b"con", b"tent"]), timeout=60).status_code == 501


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


def test_signatures_of_another_sandbox_are_rejected(client: Client) -> None:
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
        client.session.get(url, headers={"Authorization": AUTHORIZATION}, timeout=60),
        client.session.get(url[:-1], timeout=60),
        client.session.get(f"{url.partition('?')[0]}?{upload_signature}", timeout=60),
        client.session.head(url, timeout=60),
    ]
    assert [response.status_code for response in refused] == [400, 403, 403, 403]
    assert client.session.get(url, timeout=60).status_code == 200


@pytest.mark.parametrize("accepted", ["identity", "gzip", "gzip, deflate, br", "gzip;q=0", "br", "*;q=0"])
def test_a_log_is_sent_unchanged_for_any_accept_encoding(client: Client, accepted: str) -> None:
    client.sandbox.put_batch(REF, status="error", log={"validation": 2})
    response = client.session.get(
        client.show()["status"]["log"], headers={"Accept-Encoding": accepted}, stream=True, timeout=60
    )
    assert "Content-Encoding" not in response.headers
    assert response.headers["Content-Type"] == "application/gzip"
    packed = response.raw.read(decode_content=False)
    assert len(packed) == int(response.headers["Content-Length"])
    assert len(gzip.decompress(packed).splitlines()) == 2


def test_a_log_url_lives_an_hour_from_the_answer_that_named_it(session: requests.Session) -> None:
    clock = Clock()
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, clock=clock) as sandbox:
        client = Client(sandbox, session)
        sandbox.put_batch(REF, status="error", log=True)
        url = client.show()["status"]["log"]
        clock.move(3599)
        assert session.get(url, timeout=60).status_code == 200
        clock.move(1)
        response = session.get(url, timeout=60)
        fresh = session.get(client.show()["status"]["log"], timeout=60)
    assert (response.status_code, response.headers["Content-Type"]) == (403, "application/xml; charset=utf-8")
    assert "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>" in response.text
    assert fresh.status_code == 200


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
    assert client.session.get(url, timeout=60).status_code == 200
    client.sandbox.remove_batch(REF)
    assert client.session.get(url, timeout=60).status_code == 404
