"""The faults of drills, from Python and over HTTP."""

from datetime import timedelta

import pytest

from tests.conditions import wait_until
from tests.sandbox.client import REF, Client, raw_connection, raw_request
from tools.sandbox import faults


def test_a_fault_for_a_ref_takes_precedence_and_is_counted(client: Client) -> None:
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
    assert client.session.get(url, timeout=60).status_code == 200


def test_a_delayed_answer_is_the_normal_one(client: Client) -> None:
    client.sandbox.put_batch(REF)
    client.sandbox.set_fault(faults.Delay(0.05))
    answer = client.get(f"/v2/batches/{REF}")
    assert answer.json()["ref"] == REF
    assert answer.elapsed >= timedelta(seconds=0.05)


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
