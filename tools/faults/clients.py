"""Faults of those who scrape: many at once, clients that leave, do not read or do not send."""

import socket
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from tools.faults.row import Row, expect, hold
from tools.faults.signals import encoding
from tools.faults.trial import (
    HEALTHY,
    SCRAPE_TIMEOUT,
    Trial,
    all_fail,
    in_background,
    running_trial,
)
from tools.sandbox import faults

CLIENTS = 20
REQUEST = f"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: {SCRAPE_TIMEOUT}\r\n\r\n".encode()


def connect(trial: Trial, sent: bytes, *, receive_buffer: int | None = None) -> socket.socket:
    """Open a connection to the exporter and send some bytes."""
    where = urlsplit(trial.exporter.url)
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((where.hostname, where.port))
    connection.sendall(sent)
    return connection


def two_prometheus(directory: Path) -> str:
    """Scrape twice at the same moment, many times, while answers take a while."""
    with running_trial(directory) as trial:
        trial.sandbox.set_fault(faults.Delay(seconds=0.2))
        trial.sandbox.clear_requests()
        for _ in range(5):
            both = [in_background(trial.scrape) for _ in range(2)]
            during = [scrape.result() for scrape in both]
            expect("the reasons of both", [scrape.outcomes for scrape in during], [HEALTHY, HEALTHY])
        asked = len(trial.sandbox.requests)
        hold(f"{asked} requests for 5 rounds of 2 unfinished batches", asked <= 5 * 2)
        expect("most requests at once", trial.sandbox.most_concurrent_requests, 2)
        trial.sandbox.clear_faults()
        return f"5 rounds, last: {during[-1]}; {asked} requests for 10 scrapes; {trial.recovered(kept_threads=1)}"


def overlapping_scrapes(directory: Path) -> str:
    """Let scrapes with different deadlines wait for an API that does not answer."""
    with running_trial(directory, api={"timeout": "30s"}) as trial:
        trial.sandbox.set_fault(faults.Hang())
        trial.sandbox.clear_requests()
        timeouts = [1.5 + number / 10 for number in range(CLIENTS)]
        scrapes = [in_background(partial(trial.scrape, timeout=timeout)) for timeout in timeouts]
        results = [scrape.result() for scrape in scrapes]
        for result in results:
            expect("reasons", result.outcomes, all_fail("deadline"))
        asked = len(trial.sandbox.requests)
        expect("requests", asked, 2)
        slack = min(result.timeout - result.seconds for result in results)
        trial.sandbox.clear_faults()
        return (
            f"{CLIENTS} scrapes, deadlines of {timeouts[0]:g} to {timeouts[-1]:g} s, each {slack:.2f} s early or more, "
            f"{asked} requests; {trial.recovered(kept_threads=CLIENTS)}"
        )


def too_many_scrapes(directory: Path) -> str:
    """Send more scrapes at once than are let in."""
    with running_trial(directory, flags=["--web.max-requests=4"], api={"timeout": "30s"}) as trial:
        trial.sandbox.set_fault(faults.Hang())
        answers = [in_background(lambda: trial.get("/metrics", scrape_timeout=2)) for _ in range(CLIENTS)]
        statuses = [answer.result().status for answer in answers]
        expect("answers with 200", statuses.count(200), 4)
        expect("answers with 503", statuses.count(503), CLIENTS - 4)
        trial.sandbox.clear_faults()
        return f"4 answers of 200, {CLIENTS - 4} of 503; {trial.recovered(kept_threads=4)}"


def health_while_stuck(directory: Path) -> str:
    """Ask for the health while every scrape thread is stuck."""
    with running_trial(directory, flags=["--web.max-requests=2"], api={"timeout": "30s"}) as trial:
        trial.sandbox.set_fault(faults.Hang())
        scrapes = [in_background(lambda: trial.get("/metrics", scrape_timeout=5)) for _ in range(3)]
        # When one is turned away, the others have all threads.
        trial.wait_for("one to be turned away", lambda: any(scrape.done() for scrape in scrapes))
        answers = [trial.get(path) for path in ("/-/healthy", "/-/ready", "/")]
        expect("statuses", [answer.status for answer in answers], [200, 200, 200])
        slowest = max(answer.seconds for answer in answers)
        hold(f"the slowest took {slowest:.2f} s", slowest < 1)
        expect("statuses of the scrapes", sorted(scrape.result().status for scrape in scrapes), [200, 200, 503])
        trial.sandbox.clear_faults()
        return f"health, readiness and landing page: 200, slowest in {slowest:.3f} s; {trial.recovered(kept_threads=2)}"


def clients_leave(directory: Path) -> str:
    """Let clients leave while their scrapes wait."""
    with running_trial(directory) as trial:
        trial.sandbox.set_fault(faults.Delay(seconds=0.5))
        for _ in range(CLIENTS):
            connect(trial, REQUEST).close()
        trial.sandbox.clear_faults()
        return f"{CLIENTS} clients left; {trial.recovered(kept_threads=CLIENTS)}"


def client_does_not_read(directory: Path) -> str:
    """Let clients send many requests and read no answers."""
    with encoding(directory) as scene, ExitStack() as stack:
        trial = scene.trial
        if scene.answer is not None:
            scene.answer.result()
        for _ in range(CLIENTS):
            stack.enter_context(connect(trial, REQUEST, receive_buffer=1))
        during = trial.scrape()
        expect("sitecore_cdp_up", during.up, 1)
        growth = trial.growth()
        stack.close()
        return (
            f"{CLIENTS} clients that do not read; another scrape {during.time}; memory {growth:+.0f} MiB; "
            f"{trial.nothing_is_left(kept_threads=CLIENTS)}"
        )


def half_requests(directory: Path, *, sent: bytes) -> str:
    """Let 300 clients send a part of a request and wait."""
    with running_trial(directory) as trial, ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(connect(trial, sent))
        during = trial.expect(HEALTHY)
        stack.close()
        return f"300 clients; a scrape: {during}; {trial.recovered()}"


def strange_deadline(directory: Path, *, header: str) -> str:
    """Give a scrape a timeout that makes no sense, while the API does not answer."""
    with running_trial(directory, api={"timeout": "30s"}) as trial:
        trial.sandbox.set_fault(faults.Hang())
        answer = trial.get("/metrics", scrape_timeout=header)
        expect("status", answer.status, 200)
        hold(f"it took {answer.seconds:.1f} s", answer.seconds < SCRAPE_TIMEOUT)
        trial.sandbox.clear_faults()
        return f"200 in {answer.seconds:.2f} s; {trial.recovered()}"


ROWS = (
    Row(
        fault="two Prometheus servers scrape at the same moment",
        must_hold="Both are complete, and each batch is requested once.",
        attempt=two_prometheus,
    ),
    Row(
        fault=f"{CLIENTS} scrapes overlap while the API does not answer",
        must_hold="Each ends by its own deadline, and each batch is requested once.",
        attempt=overlapping_scrapes,
    ),
    Row(
        fault=f"{CLIENTS} scrapes at once, 4 are let in (--web.max-requests)",
        must_hold="The others get 503 at once, and the next scrape is complete.",
        attempt=too_many_scrapes,
    ),
    Row(
        fault="all scrape threads are stuck",
        must_hold="The health paths and the landing page answer at once.",
        attempt=health_while_stuck,
    ),
    Row(
        fault=f"{CLIENTS} clients leave in the middle of their scrapes (SIGPIPE)",
        must_hold="The exporter keeps running, and nothing leaks.",
        attempt=clients_leave,
    ),
    Row(
        fault=f"{CLIENTS} clients do not read their answers",
        must_hold="Another scrape is answered in time, and nothing leaks once they have left.",
        attempt=client_does_not_read,
    ),
    Row(
        fault="300 clients connect and send nothing",
        must_hold="A scrape is answered as usual.",
        attempt=partial(half_requests, sent=b""),
    ),
    Row(
        fault="300 clients send half a request",
        must_hold="A scrape is answered as usual.",
        attempt=partial(half_requests, sent=REQUEST[:40]),
    ),
    *(
        Row(
            fault=f"the scrape timeout header says `{header}`",
            must_hold="The scrape ends within 10 s.",
            attempt=partial(strange_deadline, header=header),
        )
        for header in ("inf", "0.001")
    ),
)
