"""Requests that the Batch API refuses."""

import json
from typing import Any

import pytest

from tests.sandbox.client import API_TOKEN, CLIENT_KEY, REF, Client


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
