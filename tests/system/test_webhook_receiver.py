"""What the receiver of the demo prints, and what it makes of garbage."""

import ast
import json
import re
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from stack.webhook_receiver import MAX_BODY, WebhookReceiver, describe, main
from tools.exporter_program import ROOT
from tools.program import Program, running, wait_for

PROGRAM = ROOT / "stack" / "webhook_receiver.py"
REF = "5a0c2f0e-6d0b-4c51-9d3c-0f6c2b1f8a11"
FIRING: dict[str, Any] = {
    "status": "firing",
    "labels": {
        "alertname": "SitecoreCdpBatchFailed",
        "severity": "critical",
        "job": "sitecore-cdp",
        "feed": "nightly-guests",
        "ref": REF,
        "team": "crm",
    },
    "annotations": {
        "summary": "An upload failed: nightly-guests",
        "description": "316 of the 3000 records were refused.",
        "runbook_url": "https://runbook.example/#sitecorecdpbatchfailed",
    },
    "startsAt": "2025-04-24T08:46:04.000Z",
}
NAMES = f"SitecoreCdpBatchFailed job=sitecore-cdp feed=nightly-guests ref={REF}"


def notification(*alerts: dict[str, Any]) -> dict[str, Any]:
    return {"version": "4", "receiver": "page", "status": "firing", "alerts": list(alerts)}


def test_an_alert_is_a_few_lines() -> None:
    assert describe(notification(FIRING)) == [
        f"FIRING critical {NAMES}",
        "    An upload failed: nightly-guests",
        "    316 of the 3000 records were refused.",
        "    Firing since 2025-04-24T08:46:04.000Z",
        "    https://runbook.example/#sitecorecdpbatchfailed",
    ]


def test_the_end_of_an_alert_is_reported_with_what_it_was() -> None:
    assert describe(notification(FIRING | {"status": "resolved"})) == [
        f"RESOLVED critical {NAMES}",
        "    Over, or no longer watched.",
        "    It was: An upload failed: nightly-guests",
    ]


def test_a_reminder_says_that_it_is_one() -> None:
    reminder = notification(FIRING) | {"receiver": "remind"}
    assert describe(reminder) == ["REMINDER", *describe(notification(FIRING))]


def test_alerts_that_alertmanager_left_out_are_counted() -> None:
    truncated = notification(FIRING) | {"truncatedAlerts": 197}
    assert describe(truncated) == [*describe(notification(FIRING)), "and 197 more"]


def test_all_alerts_of_a_group_are_reported() -> None:
    lines = describe(notification(FIRING, FIRING | {"status": "resolved"}))
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == ["FIRING", "RESOLVED"]


def test_an_alert_with_nothing_but_a_name_is_reported() -> None:
    assert describe(notification({"status": "firing", "labels": {"alertname": "Disk"}, "annotations": {}})) == [
        "FIRING Disk"
    ]


@pytest.mark.parametrize("text", ["a\x1b[2Jb", "a\nFIRING critical Fake", "a\r\u202eb"])
def test_no_text_controls_the_terminal_or_looks_like_another_alert(text: str) -> None:
    labels, annotations = FIRING["labels"] | {"feed": text}, FIRING["annotations"] | {"description": text}
    lines = describe(notification(FIRING | {"labels": labels, "annotations": annotations}))
    assert [line.startswith("    ") for line in lines] == [False] + [True] * (len(lines) - 1)
    assert all(line.isprintable() for line in lines)


def test_a_description_keeps_its_line_breaks() -> None:
    annotations = {"summary": "Failed", "description": "24 records:\n20 validation: ...\n4 internal: ..."}
    assert describe(notification(FIRING | {"annotations": annotations}))[1:4] == [
        *("    Failed", "    24 records:", "    20 validation: ..."),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
ANY_ALERT = st.dictionaries(
    st.sampled_from(["status", "labels", "annotations"]),
    JSON | st.sampled_from(["firing", "resolved"]) | st.dictionaries(st.sampled_from(["alertname", "ref"]), JSON),
)


@given(JSON | st.fixed_dictionaries({"alerts": st.lists(ANY_ALERT) | JSON}))
def test_any_request_is_reported_in_printable_lines_or_refused(body: object) -> None:
    try:
        lines = describe(body)
    except ValueError as error:
        lines = [str(error)]
    assert lines
    assert all(line.isprintable() for line in lines)


@pytest.fixture
def shown() -> list[Sequence[str]]:
    return []


@pytest.fixture
def url(shown: list[Sequence[str]]) -> Iterator[str]:
    """Run a receiver in this process."""
    with WebhookReceiver(("127.0.0.1", 0), shown.append) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    """Run the program as the container does: isolated, so only the standard library is there."""
    command = [sys.executable, "-I", "-S", str(PROGRAM), "--web.listen-address=127.0.0.1:0"]
    with running(command, log=tmp_path / "receiver.log") as program:
        yield program


def wait_for_url(program: Program) -> str:
    listening = wait_for(
        "the receiver", lambda: re.search(r"http://127\.0\.0\.1:\d+/", program.output()), programs=[program]
    )
    return listening.group()


def test_a_notification_is_shown_and_acknowledged(url: str, shown: list[Sequence[str]]) -> None:
    assert requests.post(url, json=notification(FIRING), timeout=60).status_code == 200
    assert shown == [describe(notification(FIRING))]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe\x00", 400),
        (b"[]", 400),
        (b'{"alerts": []}', 400),
        (b'{"alerts": [{"status": "firing"}]}', 400),
        (b'{"alerts": [{"status": "pending", "labels": {}, "annotations": {}}]}', 400),
        (b"[" * 100_000, 400),
    ],
    ids=["empty", "cut", "binary", "list", "no alert", "no labels", "unheard-of status", "deep"],
)
def test_what_is_not_a_notification_is_refused_and_not_shown(
    url: str, shown: list[Sequence[str]], body: bytes, status: int
) -> None:
    assert requests.post(url, data=body, timeout=60).status_code == status
    assert shown == []
    assert requests.post(url, json=notification(FIRING), timeout=60).status_code == 200


@pytest.mark.parametrize(
    "length",
    [None, "-1", "x", "²", "1_0", str(MAX_BODY + 1), "9" * 5000],
    ids=["none", "negative", "a word", "no ASCII digit", "underscore", "too large", "5000 digits"],
)
def test_a_body_of_unknown_or_excessive_length_is_refused_unread(
    url: str, length: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    port = int(re.findall(r":(\d+)/", url)[0])
    header = b"" if length is None else f"Content-Length: {length}\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(b"POST / HTTP/1.0\r\n" + header + b"\r\n")
        assert connection.makefile("rb").read().startswith(b"HTTP/1.0 413 ")
    assert capsys.readouterr() == ("", "")


def test_a_disconnected_client_is_not_logged(program: Program) -> None:
    url = wait_for_url(program)
    address = ("127.0.0.1", int(re.findall(r":(\d+)/", url)[0]))
    with socket.create_connection(address, timeout=60) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sendall(b"POST / HTTP/1.0\r\nContent-Length: 100\r\n\r\n{")
    requests.post(url, data=json.dumps(notification(FIRING)), timeout=60)
    wait_for("the alert", lambda: f"FIRING critical {NAMES}" in program.output(), programs=[program])
    assert "Exception" not in program.output()


def test_a_get_shows_that_it_is_there(url: str, shown: list[Sequence[str]]) -> None:
    assert requests.get(url, timeout=60).status_code == 200
    assert shown == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_prints_alerts_at_once_and_ends_by_a_signal(program: Program, number: signal.Signals) -> None:
    requests.post(wait_for_url(program), data=json.dumps(notification(FIRING)), timeout=60)
    wait_for("the alert", lambda: f"FIRING critical {NAMES}" in program.output(), programs=[program])
    program.process.send_signal(number)
    assert program.process.wait(60) == 0
    assert "Traceback" not in program.output()


@pytest.mark.parametrize(
    "address",
    ["9099", "127.0.0.1:", "127.0.0.1:port", "127.0.0.1:65536", f"127.0.0.1:{'9' * 5000}"],
    ids=["no host", "no port", "a word", "too large", "far too large"],
)
def test_a_wrong_address_is_reported(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"^2$"):
        main([f"--web.listen-address={address}"])
    assert "expected host:port" in capsys.readouterr().err


def test_an_address_that_is_taken_is_reported(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    address = url.removeprefix("http://").rstrip("/")
    assert main([f"--web.listen-address={address}"]) == 1
    assert capsys.readouterr().err == f"cannot listen on {address}: Address already in use\n"


def test_it_needs_nothing_but_the_standard_library() -> None:
    tree = ast.parse(PROGRAM.read_text(encoding="utf-8"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or "."] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }
    assert imported <= sys.stdlib_module_names
