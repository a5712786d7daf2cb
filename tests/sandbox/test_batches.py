# ruff: noqa: S324  The Batch API's checksum is MD5.
"""The life of a batch, and the list."""

import gzip
import hashlib
import json
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from sitecore_cdp_exporter.sandbox.records import ImportResult
from sitecore_cdp_exporter.sandbox.state import Batch, Batches, State
from tests.conditions import wait_until
from tests.sandbox.client import API_TOKEN, CLIENT_KEY, NOW, RECORD, REF, Client, Clock, lines, zipped
from tools.sandbox import Sandbox


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
    response = client.session.get(body["status"]["log"], timeout=60)
    assert response.headers["Content-Type"] == "application/gzip"
    assert [json.loads(line) for line in gzip.decompress(response.content).splitlines()] == [
        {"ref": RECORD["ref"], "code": "402", "message": "Unsupported mode"},
        {"ref": "null", "code": "400", "message": "Failed to parse import line"},
    ]


def test_a_later_file_meets_what_the_ones_before_have_imported(client: Client) -> None:
    def upload(mode: str) -> tuple[str, list[str]]:
        ref = str(uuid.uuid4())
        client.upload(gzip.compress(lines({**RECORD, "mode": mode})), ref)
        status = client.wait_until_final(ref)["status"]
        log = client.session.get(status["log"], timeout=60).content if "log" in status else gzip.compress(b"")
        return status["code"], [json.loads(line)["code"] for line in gzip.decompress(log).splitlines()]

    assert [upload(mode) for mode in ("delete", "create", "create", "upsert", "gdpr_delete", "delete")] == [
        ("error", ["404"]),
        ("success", []),
        ("error", ["409"]),
        ("success", []),
        ("success", []),
        ("error", ["404"]),
    ]


def test_an_old_fashioned_log_has_the_accepted_records_too_and_codes_in_numbers(client: Client) -> None:
    client.sandbox.old_fashioned_logs = True
    client.upload(gzip.compress(lines(RECORD, b"{", {**RECORD, "mode": "delete"})))
    body = client.wait_until_final()
    assert body["status"]["code"] == "error"
    assert (body["summaryStats"]["totalCount"], body["summaryStats"]["failedCount"]) == (3, 1)
    log = gzip.decompress(client.session.get(body["status"]["log"], timeout=60).content)
    assert [json.loads(line) for line in log.splitlines()] == [
        {"ref": RECORD["ref"], "code": 200, "message": "OK"},
        {"ref": "null", "code": 400, "message": "Failed to parse import line"},
        {"ref": RECORD["ref"], "code": 200, "message": "Guest and associated entities deleted"},
    ]


def test_a_success_has_an_old_fashioned_log(client: Client) -> None:
    client.sandbox.old_fashioned_logs = True
    client.upload(gzip.compress(lines(RECORD)))
    status = client.wait_until_final()["status"]
    assert status["code"] == "success"
    assert b"200" in gzip.decompress(client.session.get(status["log"], timeout=60).content)


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


def test_a_file_is_kept_as_sent_for_any_content_encoding(client: Client) -> None:
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


def test_a_list_item_has_only_the_documented_keys(client: Client) -> None:
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
