# ruff: noqa: ANN401, S324  JSON is Any; the Batch API's checksum is MD5.
"""An uploader, and what tests of the sandbox share."""

import base64
import hashlib
import io
import json
import socket
import zipfile
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import requests

from tests.conditions import wait_until
from tools.sandbox import Sandbox

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
        return self.session.put(url, data=content, headers=headers, timeout=60)

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


def raw_connection(sandbox: Sandbox) -> socket.socket:
    return socket.create_connection(("127.0.0.1", urlsplit(sandbox.base_url).port or 0), timeout=60)


def raw_request(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: sandbox\r\nAuthorization: {AUTHORIZATION}\r\n\r\n".encode()


def raw_answer(sandbox: Sandbox, path: str = f"/v2/batches/{REF}") -> list[bytes]:
    """Send a request and read until the sandbox closes the connection; gives what each read gave."""
    with raw_connection(sandbox) as connection:
        connection.sendall(raw_request(path))
        return list(iter(lambda: connection.recv(1_000_000), b""))
