"""Faults of the Batch API: its answers, for one batch and for all, its refusals, and its list."""

import json
import time
from functools import partial
from pathlib import Path

from tools.exporter_program import API_TOKEN, CLIENT_KEY
from tools.faults.relay import Relay, Wire
from tools.faults.row import Row, expect, hold
from tools.faults.trial import (
    FINISHED,
    HEALTHY,
    REFS,
    SCRAPE_TIMEOUT,
    VICTIM,
    Trial,
    all_fail,
    relayed_trial,
    running_trial,
)
from tools.sandbox import faults

# What one answer may cost at most in memory, in MiB, with room for what Python keeps: the limit of a body is 1 MiB.
MAX_GROWTH = 32.0
# In seconds.
RETRY_AFTER = 2


def answers_badly(directory: Path, *, fault: faults.Fault, reason: str, up: int = 0) -> str:
    """Answer like this for one batch, then for all."""
    with running_trial(directory) as trial:
        trial.sandbox.set_fault(fault, ref=VICTIM)
        one = trial.expect(HEALTHY | {VICTIM: reason})
        trial.sandbox.clear_faults()
        trial.sandbox.set_fault(fault)
        every = trial.expect(all_fail(reason), up=up)
        growth = trial.growth()
        hold(f"memory grew by {growth:.0f} MiB", growth < MAX_GROWTH)
        trial.sandbox.clear_faults()
        return f"one: {one}; all: {every}; memory {growth:+.0f} MiB; {trial.recovered()}"


def answers_strangely(directory: Path, *, fault: faults.Fault) -> str:
    """Answer like this for all batches."""
    with running_trial(directory) as trial:
        trial.sandbox.set_fault(fault)
        scrapes = [trial.expect(HEALTHY) for _ in range(3)]
        cookies = sum("Cookie" in request.headers for request in trial.sandbox.requests)
        expect("requests with a cookie", cookies, 0)
        trial.sandbox.clear_faults()
        return f"{scrapes[-1]}; no cookie sent; {trial.recovered()}"


def says_on_the_wire(directory: Path, *, wire: Wire, reason: str) -> str:
    """Answer every request with bytes that the sandbox cannot send."""
    with relayed_trial(directory) as (trial, relay):
        relay.become(wire)
        during = trial.expect(all_fail(reason), up=0)
        growth = trial.growth()
        hold(f"memory grew by {growth:.0f} MiB", growth < MAX_GROWTH)
        relay.become(Wire())
        return f"{during}; memory {growth:+.0f} MiB; {trial.recovered()}"


def redirects(directory: Path) -> str:
    """Redirect the exporter to a foreign host."""
    with running_trial(directory) as trial, Relay(trial.sandbox.base_url) as stranger:
        for status in (301, 302, 303, 307, 308):
            trial.sandbox.set_fault(faults.Redirect(f"{stranger.base_url}/", status=status))
            during = trial.expect(all_fail("http_error"), up=0)
        expect("connections to the stranger", stranger.connections, 0)
        trial.sandbox.clear_faults()
        return f"5 kinds, last: {during}; 0 connections to the stranger; {trial.recovered()}"


def unknown_status(directory: Path) -> str:
    """Give a batch an undocumented status."""
    with running_trial(directory) as trial:
        trial.sandbox.put_batch(VICTIM, status="quarantined", total=7)
        during = trial.expect(HEALTHY)
        expect("status unknown", during.value("sitecore_cdp_batch_status", ref=VICTIM, status="unknown"), 1)
        expect("status code", during.value("sitecore_cdp_batch_status_code", ref=VICTIM), -1)
        trial.sandbox.put_batch(VICTIM, status="processing", total=7)
        return f"{during}, status unknown, code -1; {trial.recovered()}"


def refuses_the_token(directory: Path) -> str:
    """Refuse the token with 401, then accept another one."""
    token = directory / "token"
    token.write_text(f"{API_TOKEN}\n", encoding="utf-8")
    api = {"basic_auth": {"username": CLIENT_KEY, "password_file": "token"}}
    with running_trial(directory, api=api) as trial:
        trial.sandbox.set_fault(faults.Status(401))
        trial.sandbox.clear_requests()
        first = trial.scrape()
        outcomes = {*first.outcomes.values()}
        hold("reasons are only unauthorized and skipped", outcomes <= {"ok", "unauthorized", "skipped"})
        hold("one is unauthorized", "unauthorized" in outcomes)
        expect("sitecore_cdp_up", first.up, 0)
        asked = len(trial.sandbox.requests)
        for _ in range(3):
            trial.expect(all_fail("skipped"), up=0)
        expect("requests of three more scrapes", len(trial.sandbox.requests) - asked, 0)
        trial.sandbox.clear_faults()
        trial.sandbox.set_api_token("another")
        token.write_text("another\n", encoding="utf-8")
        return f"{first}, {asked} requests; then 0 requests in 3 scrapes; with another token {trial.recovered()}"


def forbids_one(directory: Path) -> str:
    """Answer 403 for one batch."""
    with running_trial(directory) as trial:
        trial.sandbox.set_fault(faults.Status(403), ref=VICTIM)
        scrapes = [trial.expect(HEALTHY | {VICTIM: "forbidden"}) for _ in range(4)]
        trial.sandbox.clear_faults()
        return f"4 scrapes, last: {scrapes[-1]}; {trial.recovered()}"


def forbids_all(directory: Path) -> str:
    """Answer 403 for every one of five batches."""
    more = [f"00000000-0000-4000-8000-{number:012x}" for number in (4, 5)]
    with running_trial(directory, batches=[*REFS, *more]) as trial:
        trial.sandbox.set_fault(faults.Status(403))
        trial.sandbox.clear_requests()
        first = trial.scrape()
        expect("sitecore_cdp_up", first.up, 0)
        hold("the finished batch is remembered", first.outcomes[FINISHED] == "ok")
        asked = len(trial.sandbox.requests)
        second = trial.scrape()
        expect("requests of the next scrape", len(trial.sandbox.requests) - asked, 0)
        return f"{first}, {asked} requests; then {second}, 0 requests; {trial.nothing_is_left()}"


def asks_to_wait(directory: Path, *, status: int, reason: str) -> str:
    """Answer with Retry-After, once."""
    with running_trial(directory) as trial:
        trial.sandbox.clear_requests()
        trial.sandbox.set_fault(faults.Status(status, retry_after=RETRY_AFTER))
        first = trial.scrape()
        hold(f"reasons are only {reason} and skipped", {*first.outcomes.values()} <= {"ok", reason, "skipped"})
        trial.sandbox.clear_faults()
        answered = max(request.time for request in trial.sandbox.requests)
        asked = len(trial.sandbox.requests)
        scrapes = 0
        while len(trial.sandbox.requests) == asked and time.monotonic() < answered + RETRY_AFTER + SCRAPE_TIMEOUT:
            trial.scrape()
            scrapes += 1
            time.sleep(0.1)
        hold("the API is asked again", len(trial.sandbox.requests) > asked)
        pause = min(request.time for request in trial.sandbox.requests[asked:]) - answered
        hold(f"the next request came after {pause:.2f} s", pause >= RETRY_AFTER)
        return f"{first}; next request {pause:.2f} s later, in scrape {scrapes}; {trial.recovered()}"


def waits_past_the_deadline(directory: Path) -> str:
    """Let the API take longer than the scrape timeout, but less than api.timeout."""
    with running_trial(directory, api={"timeout": "20s"}) as trial:
        trial.sandbox.set_fault(faults.Delay(seconds=4))
        # No request has ended, so nothing is known that could change `up`.
        during = trial.expect(all_fail("deadline"), timeout=2)
        trial.sandbox.clear_faults()
        return f"{during}; {trial.recovered(longest=3)}"


# The list takes one connection and the batches would open more, which stay.
ONE_CONNECTION = {"concurrency": 1}
LIST_PAGE = {"offset": 0, "limit": 100}
ITEM = {"ref": VICTIM, "status": "processing", "createdAt": "2026-01-01T00:00:00.000Z"}


def list_of(total: object, *items: object) -> faults.Body:
    """Make every page of the list this one."""
    return faults.Body(json.dumps({**LIST_PAGE, "totalCount": total, "items": items}).encode())


def hit_the_list(trial: Trial, fault: faults.Fault) -> None:
    """Let the list be answered so, and the batches well."""
    # The fault of a ref goes before that of all, and this one leaves the answer right.
    for ref in REFS:
        trial.sandbox.set_fault(faults.SetCookie(), ref=ref)
    trial.sandbox.set_fault(fault)


def lists_badly(directory: Path, *, fault: faults.Fault, reason: str) -> str:
    """Let the list be answered so, and the batches well."""
    with running_trial(directory, discovery={"enabled": True}, api=ONE_CONNECTION) as trial:
        hit_the_list(trial, fault)
        trial.sandbox.clear_requests()
        during = trial.scrape(timeout=4)
        expect("reasons", during.outcomes, HEALTHY)
        asked = len(trial.sandbox.requests)
        hold(f"{asked} requests", asked < 20)
        expect("sitecore_cdp_discovery_success", during.value("sitecore_cdp_discovery_success"), 0)
        expect(f"failure {reason}", during.value("sitecore_cdp_discovery_failure", reason=reason), 1)
        trial.sandbox.clear_faults()
        after = trial.scrape()
        expect("sitecore_cdp_discovery_success afterwards", after.value("sitecore_cdp_discovery_success"), 1)
        return f"list: {reason}; {during}, {asked} requests; {trial.recovered()}"


def list_shrinks(directory: Path) -> str:
    """Answer with an empty list for one scrape, while every batch still exists."""
    with running_trial(directory, discovery={"enabled": True}, api=ONE_CONNECTION, batches=[]) as trial:
        hit_the_list(trial, list_of(0))
        during = trial.expect(HEALTHY)
        trial.sandbox.clear_faults()
        return f"{during}; {trial.recovered()}"


HOLDS_FOR_ANSWERS = (
    "The affected batch shows the reason and no values; the others keep theirs; `up` is 0 only if all are affected."
)
HOLDS_FOR_WIRE = "Every unfinished batch shows the reason, memory stays bounded, and the next scrape is complete."
HOLDS_FOR_STRANGE = "No effect: every batch has its values."
HOLDS_FOR_REFUSAL = (
    "One 401 is enough: no more requests are sent until the credentials change; then the next scrape is complete."
)
HOLDS_FOR_WAIT = "No request is sent before that time; the first scrape after it sends them again."
HOLDS_FOR_LIST = "Discovery reports the reason, and the same scrape requests the known batches one by one."

SERVER_ERROR, BAD = "server_error", "bad_response"
DEEP = b"[" * 100_000
OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

BAD_ANSWERS: tuple[tuple[str, faults.Fault, str, int], ...] = (
    ("204 without a body", faults.Status(204), "http_error", 0),
    ("400", faults.Status(400), "http_error", 0),
    ("404", faults.Status(404), "not_found", 1),
    ("418, with a body of text", faults.Status(418, body="tea"), "http_error", 0),
    ("429 without Retry-After", faults.Status(429), "rate_limited", 0),
    ("500", faults.Status(500), SERVER_ERROR, 0),
    ("502 with a page of HTML", faults.Html(status=502), SERVER_ERROR, 0),
    ("503 without Retry-After", faults.Status(503), SERVER_ERROR, 0),
    ("503 with an unreadable Retry-After", faults.Status(503, retry_after="soon"), SERVER_ERROR, 0),
    ("200 with a page of HTML, as of a captive portal", faults.Html(), BAD, 0),
    ("half of the JSON, as if it were whole", faults.MalformedJson(), BAD, 0),
    ("`null` instead of an object", faults.Body(b"null"), BAD, 0),
    ("a size that is a string", faults.Body(b'{"status": {"code": "success"}, "size": "12"}'), BAD, 0),
    ("a count of 1e999", faults.Body(b'{"status": {"code": "error"}, "summaryStats": {"totalCount": 1e999}}'), BAD, 0),
    ("JSON nested 100,000 deep", faults.Body(DEEP), BAD, 0),
    ("the body of another batch", faults.Body(json.dumps({"ref": "x", "status": {"code": "error"}}).encode()), BAD, 0),
    ("bytes that are not UTF-8", faults.Body(b'{"status": {"code": "\xff\xfe"}}'), BAD, 0),
    ("a body of 20 MiB", faults.LargeBody(mebibytes=20), BAD, 0),
    ("a gzip bomb of 16 MiB", faults.GzipBomb(mebibytes=16), BAD, 0),
    ("`Content-Encoding: gzip` on plain bytes", faults.Body(b"not gzip", content_encoding="gzip"), BAD, 0),
    ("no answer at all", faults.Hang(), "timeout", 0),
    ("an answer after api.timeout", faults.Delay(seconds=1.5), "timeout", 0),
    ("headers that drip, a byte each 0.2 s", faults.DripHeaders(interval=0.2), "timeout", 0),
    ("a body that drips, a byte each 0.2 s", faults.DripBody(interval=0.2), "timeout", 0),
    ("closed before the answer", faults.CutConnection(), "connection", 0),
    ("reset before the answer", faults.CutConnection(reset=True), "connection", 0),
    ("closed in the middle of the body", faults.CutBody(), "connection", 0),
)

STRANGE_ANSWERS: tuple[tuple[str, faults.Fault], ...] = (
    ("kept-alive connections closed upon the next request", faults.CloseReusedConnection()),
    ("answers that set a cookie", faults.SetCookie()),
    ("answers 0.5 s late, within api.timeout", faults.Delay(seconds=0.5)),
)

WIRE_ANSWERS: tuple[tuple[str, Wire, str], ...] = (
    ("an answer that is not HTTP", Wire(answer=b"SSH-2.0-OpenSSH_9.2\r\n"), BAD),
    (
        "headers without an end",
        Wire(answer=b"HTTP/1.1 200 OK\r\n", repeated=b"X-Padding: " + b"x" * 1000 + b"\r\n"),
        BAD,
    ),
    ("a header line without an end", Wire(answer=b"HTTP/1.1 200 OK\r\nX-Padding: ", repeated=b"x" * 65536), BAD),
    ("a chunk of a negative size", Wire(answer=OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n"), BAD),
    ("a body without length and end", Wire(answer=OK_HEAD + b"\r\n", repeated=b" " * 65536), BAD),
    ("`100 Continue` without an end", Wire(answer=CONTINUE, repeated=CONTINUE * 100), "timeout"),
)

LIST_FAULTS: tuple[tuple[str, faults.Fault, str], ...] = (
    ("a list that hangs", faults.Hang(), "timeout"),
    ("a list that answers 500", faults.Status(500), "server_error"),
    ("a list that is half of its JSON", faults.MalformedJson(), "bad_response"),
    ("a list without `totalCount`", list_of(None, ITEM), "bad_response"),
    ("a `totalCount` of a billion", list_of(10**9, ITEM), "bad_response"),
    ("a `totalCount` of 500 on empty pages", list_of(500), "bad_response"),
    ("a negative `totalCount`", list_of(-1, ITEM), "bad_response"),
    ("a list without one readable item", list_of(1, {"ref": "no UUID", "status": "processing"}), "bad_response"),
)

ROWS = (
    *(
        Row(fault=name, must_hold=HOLDS_FOR_ANSWERS, attempt=partial(answers_badly, fault=fault, reason=reason, up=up))
        for name, fault, reason, up in BAD_ANSWERS
    ),
    *(
        Row(fault=name, must_hold=HOLDS_FOR_STRANGE, attempt=partial(answers_strangely, fault=fault))
        for name, fault in STRANGE_ANSWERS
    ),
    *(
        Row(fault=name, must_hold=HOLDS_FOR_WIRE, attempt=partial(says_on_the_wire, wire=wire, reason=reason))
        for name, wire, reason in WIRE_ANSWERS
    ),
    Row(
        fault="redirects of every kind to another host",
        must_hold="None is followed: the other host sees no connection, so no token.",
        attempt=redirects,
    ),
    Row(
        fault="an undocumented status",
        must_hold="The batch is `unknown`, with all its other values.",
        attempt=unknown_status,
    ),
    Row(
        fault="401, then another token",
        must_hold=HOLDS_FOR_REFUSAL,
        attempt=refuses_the_token,
    ),
    Row(
        fault="403 for all of five batches",
        must_hold="The exporter treats it as refused credentials: `up` is 0, and the next scrape sends no request.",
        attempt=forbids_all,
    ),
    Row(
        fault="403 for one batch",
        must_hold="Only that batch is `forbidden`, in every scrape; `up` stays 1.",
        attempt=forbids_one,
    ),
    Row(
        fault=f"429 with Retry-After: {RETRY_AFTER}",
        must_hold=HOLDS_FOR_WAIT,
        attempt=partial(asks_to_wait, status=429, reason="rate_limited"),
    ),
    Row(
        fault=f"503 with Retry-After: {RETRY_AFTER}",
        must_hold=HOLDS_FOR_WAIT,
        attempt=partial(asks_to_wait, status=503, reason="server_error"),
    ),
    Row(
        fault="answers in 4 s, the scrape has 2 s, api.timeout is 20 s",
        must_hold="The scrape ends in time with `deadline`; `up` stays 1, because no request has failed.",
        attempt=waits_past_the_deadline,
    ),
    *(
        Row(fault=name, must_hold=HOLDS_FOR_LIST, attempt=partial(lists_badly, fault=fault, reason=reason))
        for name, fault, reason in LIST_FAULTS
    ),
    Row(
        fault="a list that is empty for one scrape",
        must_hold="No batch is forgotten.",
        attempt=list_shrinks,
    ),
)
