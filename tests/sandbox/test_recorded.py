"""What tools/sandbox adds: placed batches, what was asked, and more faults."""

import gzip
import http.client
import io
import json
import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
import requests

from tests.conditions import wait_until
from tests.sandbox.client import (
    AUTHORIZATION,
    RECORD,
    REF,
    Client,
    lines,
    raw_answer,
    raw_connection,
    raw_request,
)
from tools.sandbox import RECORD_ERRORS, faults


def test_a_placed_batch_has_exactly_the_given_values(client: Client) -> None:
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
    log = client.session.get(body["status"]["log"], timeout=60)
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


def read_log(client: Client, ref: str = REF) -> list[dict[str, str]]:
    log = client.session.get(client.show(ref)["status"]["log"], timeout=60)
    return [json.loads(line) for line in gzip.decompress(log.content).splitlines()]


def test_a_placed_log_has_each_documented_error_as_often_as_was_asked(client: Client) -> None:
    counts = {cause: number for number, cause in enumerate(RECORD_ERRORS, 1)}
    client.sandbox.put_batch(REF, status="error", failed=99, log=counts)
    log = read_log(client)
    assert Counter((line["code"], line["message"]) for line in log) == {
        RECORD_ERRORS[cause]: count for cause, count in counts.items()
    }
    assert {line["message"] for line in log if line["ref"] == "null"} == {"Failed to parse import line"}


def test_a_placed_log_is_sent_byte_for_byte(client: Client) -> None:
    client.sandbox.put_batch(REF, status="error", log=b"<html>")
    assert client.session.get(client.show()["status"]["log"], timeout=60).content == b"<html>"


@pytest.mark.parametrize("cause", ["internal", "open_session", "not_allowed"])
def test_every_nth_record_can_be_rejected_regardless_of_its_content(client: Client, cause: str) -> None:
    client.sandbox.reject_records("unsupported_mode")
    client.sandbox.reject_records(cause, every=3, ref=REF)
    client.upload(gzip.compress(lines(*[RECORD] * 7)))
    stats = client.wait_until_final()["summaryStats"]
    assert (stats["totalCount"], stats["failedCount"]) == (7, 2)
    code, message = RECORD_ERRORS[cause]
    assert read_log(client) == [{"ref": RECORD["ref"], "code": code, "message": message}] * 2
    other = str(uuid.UUID(int=1))
    client.upload(gzip.compress(lines(RECORD)), other)
    client.wait_until_final(other)
    assert [line["code"] for line in read_log(client, other)] == ["402"]


def test_a_fault_of_error_logs_leaves_the_api_and_uploads_alone(client: Client) -> None:
    client.sandbox.put_batch(REF, status="error", log=True)
    client.sandbox.set_log_fault(faults.Redirect("http://127.0.0.1:1/elsewhere"), ref=REF, times=1)
    answers = [client.session.get(client.show()["status"]["log"], allow_redirects=False, timeout=60) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [302, 200]
    client.sandbox.set_log_fault(faults.Status(503))
    assert client.session.get(client.show()["status"]["log"], timeout=60).status_code == 503
    client.upload(gzip.compress(lines(RECORD)), str(uuid.UUID(int=1)))
    client.sandbox.clear_faults()
    assert client.session.get(client.show()["status"]["log"], timeout=60).status_code == 200


def test_log_urls_can_be_dead_from_the_start(client: Client) -> None:
    client.sandbox.put_batch(REF, status="error", log=True)
    client.sandbox.set_log_url_lifetime(timedelta())
    assert "Request has expired" in client.session.get(client.show()["status"]["log"], timeout=60).text


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
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(client.sandbox.base_url).port, timeout=60)
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
    client.sandbox.set_fault(faults.GzipBomb(2))
    answer = client.get("/v2/batches/x")
    assert int(answer.headers["Content-Length"]) < 10_000
    assert len(answer.content) == 2 * 1024**2 + 2
    assert answer.json() == {}


def test_a_redirect_points_elsewhere(client: Client) -> None:
    client.sandbox.set_fault(faults.Redirect("http://127.0.0.1:1/elsewhere", status=307))
    answer = client.get("/v2/batches/x")
    assert (answer.status_code, answer.headers["Location"]) == (307, "http://127.0.0.1:1/elsewhere")


def test_a_cookie_is_sent_with_the_normal_answer(client: Client) -> None:
    client.sandbox.put_batch(REF)
    client.sandbox.set_fault(faults.SetCookie())
    answer = client.get(f"/v2/batches/{REF}")
    assert answer.json()["ref"] == REF
    assert answer.cookies["session"] == "sandbox"
