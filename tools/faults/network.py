"""Faults between the exporter and the API: cut and silent connections, proxies, firewalls."""

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from tools.faults.certificates import Upstream
from tools.faults.relay import Wire
from tools.faults.row import Row, command, hold
from tools.faults.trial import (
    HEALTHY,
    REFS,
    Trial,
    all_fail,
    in_background,
    new_sandbox,
    relayed_trial,
    running_trial,
)
from tools.raw_server import Proxy
from tools.sandbox import faults

FLAPS = 20


def fares_badly(directory: Path, *, wire: Wire, reason: str, open_connections: bool = False) -> str:
    """Treat all connections like this."""
    with relayed_trial(directory) as (trial, relay):
        relay.become(wire, for_open_connections=open_connections)
        during = trial.expect(all_fail(reason), up=0)
        relay.become(Wire())
        return f"{during}; {trial.recovered()}"


def fares_slowly(directory: Path, *, wire: Wire) -> str:
    """Slow down all connections."""
    with relayed_trial(directory, api={"timeout": "5s"}) as (trial, relay):
        relay.become(wire)
        during = trial.expect(HEALTHY)
        relay.become(Wire())
        return f"{during}; {trial.recovered()}"


def loses_idle_connections(directory: Path) -> str:
    """Close all kept-alive connections before each scrape."""
    with relayed_trial(directory) as (trial, relay):
        for _ in range(FLAPS):
            relay.become(Wire())
            during = trial.expect(HEALTHY)
        return f"{FLAPS} scrapes, last: {during}; {trial.nothing_is_left()}"


def flaps(directory: Path) -> str:
    """Take the network down and up with each scrape."""
    with relayed_trial(directory) as (trial, relay):
        for _ in range(FLAPS):
            relay.become(Wire(cut_after=0))
            during = trial.expect(all_fail("connection"), up=0)
            relay.become(Wire())
            trial.expect(HEALTHY)
        return f"{FLAPS} times, last: {during}; {trial.nothing_is_left()}"


def changes_in_mid_scrape(directory: Path) -> str:
    """Cut every connection while answers are under way."""
    with relayed_trial(directory) as (trial, relay):
        trial.sandbox.set_fault(faults.DripBody(interval=0.01))
        trial.sandbox.clear_requests()
        scrape = in_background(trial.scrape)
        trial.wait_for("requests to be under way", lambda: trial.sandbox.requests)
        relay.become(Wire())
        during = scrape.result()
        hold("one batch is reported with `connection`", "connection" in during.outcomes.values())
        trial.sandbox.clear_faults()
        return f"{during}; {trial.recovered()}"


def refuses_connections(directory: Path) -> str:
    """End the API, and start it again on its port."""
    with new_sandbox() as sandbox:
        port = int(sandbox.base_url.rpartition(":")[2])
        with running_trial(directory, sandbox=sandbox) as trial:
            sandbox.stop()
            during = trial.expect(all_fail("connection"), up=0)
            with new_sandbox(port=port):
                return f"{during}; {trial.recovered()}"


def ignores_connections(directory: Path) -> str:
    """Neither accept nor refuse connections: the backlog of the listener is full."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with filled_backlog(listener), running_trial(directory, api={"base_url": url}) as trial:
            during = trial.expect(dict.fromkeys(REFS, "timeout"), up=0)
            return f"{during}; {trial.nothing_is_left()}"


@contextmanager
def filled_backlog(listener: socket.socket) -> Iterator[None]:
    """Connect until the kernel answers no more."""
    connections: list[socket.socket] = []
    try:
        while len(connections) < 8:
            connection = socket.socket()
            connections.append(connection)
            connection.setblocking(False)  # noqa: FBT003  As in socket.
            connection.connect_ex(listener.getsockname())
        time.sleep(0.1)
        yield
    finally:
        for connection in connections:
            connection.close()


def proxy_asks_for_a_password(directory: Path) -> str:
    """Ask by an HTTP proxy that begins to refuse."""
    upstream = Upstream(directory)
    with (
        new_sandbox(ssl_context=upstream.context) as sandbox,
        Proxy() as proxy,
        running_trial(directory, sandbox=sandbox, api={**upstream.api, "proxy_url": proxy.url}) as trial,
    ):
        trial.expect(HEALTHY)
        hold("the requests went by the proxy", proxy.heads)
        proxy.refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
        sandbox.close_idle_connections()
        during = trial.expect(all_fail("connection"), up=0)
        proxy.refusal = None
        return f"{during}; {trial.recovered()}"


def firewall(directory: Path, *, rule: tuple[str, ...], reason: str, keeps_connections: bool) -> str:
    """Add a firewall rule for packets to the API."""
    with running_trial(directory) as trial:
        if not keeps_connections:
            trial.sandbox.close_idle_connections()
        packets = ("OUTPUT", "--protocol", "tcp", "--dport", port_of(trial), *rule)
        command("iptables", "--append", *packets)
        during = trial.expect(all_fail(reason), up=0)
        command("iptables", "--delete", *packets)
        return f"{during}; {trial.recovered()}"


def packet_loss(directory: Path) -> str:
    """Lose packets to the API."""
    with running_trial(directory, api={"timeout": "5s"}) as trial:
        loss = ("--match", "statistic", "--mode", "random", "--probability", "0.2", "--jump", "DROP")
        packets = ("OUTPUT", "--protocol", "tcp", "--dport", port_of(trial), *loss)
        command("iptables", "--append", *packets)
        scrapes = []
        for _ in range(10):
            trial.sandbox.close_idle_connections()
            scrapes.append(trial.scrape())
        command("iptables", "--delete", *packets)
        slowest = max(scrapes, key=lambda scrape: scrape.seconds)
        outcomes = {outcome for scrape in scrapes for outcome in scrape.outcomes.values()}
        hold(f"outcomes are ok or timeout: {outcomes}", outcomes <= {"ok", "timeout"})
        well = sum(scrape.outcomes == HEALTHY for scrape in scrapes)
        return f"10 scrapes, {well} complete, slowest: {slowest}; {trial.recovered()}"


def interface_down(directory: Path) -> str:
    """Take the network interface down while a scrape waits for the API, and bring it up again."""
    with running_trial(directory, api={"timeout": "3s"}) as trial:
        trial.sandbox.set_fault(faults.Delay(seconds=1))
        trial.sandbox.clear_requests()
        scrape = in_background(trial.scrape)
        trial.wait_for("requests to be under way", lambda: trial.sandbox.requests)
        command("ip", "link", "set", "lo", "down")
        time.sleep(2)
        command("ip", "link", "set", "lo", "up")
        trial.sandbox.clear_faults()
        during = scrape.result()
        return f"{during}; {trial.recovered(longest=2)}"


def port_of(trial: Trial) -> str:
    """Return the port of the API."""
    return trial.sandbox.base_url.rpartition(":")[2]


HOLDS_FOR_CUT = "Every unfinished batch shows the reason, `up` is 0, and the next scrape is complete."
HOLDS_FOR_SLOW = "All batches are read, only later."
HOLDS_FOR_FIREWALL = "The reason is reported in time, and the first scrape without the rule is complete."
OK_BYTES = 200
UNREACHABLE = ("--jump", "REJECT", "--reject-with", "icmp-host-unreachable")

CUTS: tuple[tuple[str, Wire, str], ...] = (
    ("closed upon connecting", Wire(cut_after=0), "connection"),
    ("reset upon connecting", Wire(cut_after=0, by_reset=True), "connection"),
    ("closed after the first byte", Wire(cut_after=1), "connection"),
    ("closed in the middle of the headers", Wire(cut_after=60), "connection"),
    ("closed in the middle of the body", Wire(cut_after=OK_BYTES + 200), "connection"),
    ("reset in the middle of the body", Wire(cut_after=OK_BYTES + 200, by_reset=True), "connection"),
    ("connects, then silence", Wire(silent=True), "timeout"),
    ("garbled status lines", Wire(garble=b"\x00\xff\x13\x37HTTP"), "bad_response"),
    ("an answer of one byte each 10 ms, longer than api.timeout", Wire(piece=1, delay=0.01), "timeout"),
)

SLOW: tuple[tuple[str, Wire], ...] = (
    ("300 ms of delay each way", Wire(delay=0.3)),
    ("answers of 16 bytes each 20 ms, shorter than api.timeout", Wire(piece=16, delay=0.02)),
)

ROWS = (
    *(
        Row(
            fault=f"a cutting proxy: {name}",
            must_hold=HOLDS_FOR_CUT,
            attempt=partial(fares_badly, wire=wire, reason=reason),
        )
        for name, wire, reason in CUTS
    ),
    Row(
        fault="a cutting proxy: open connections fall silent, as when a firewall forgets them",
        must_hold=HOLDS_FOR_CUT,
        attempt=partial(fares_badly, wire=Wire(silent=True), reason="timeout", open_connections=True),
    ),
    *(
        Row(fault=f"a slow network: {name}", must_hold=HOLDS_FOR_SLOW, attempt=partial(fares_slowly, wire=wire))
        for name, wire in SLOW
    ),
    Row(
        fault="a cutting proxy: all kept-alive connections closed between scrapes",
        must_hold="No effect.",
        attempt=loses_idle_connections,
    ),
    Row(
        fault=f"a cutting proxy: the network comes and goes {FLAPS} times",
        must_hold="Each scrape shows the current state, and nothing leaks.",
        attempt=flaps,
    ),
    Row(
        fault="a cutting proxy: all connections cut while answers are under way",
        must_hold="The scrape is answered at once, and the next one is complete.",
        attempt=changes_in_mid_scrape,
    ),
    Row(
        fault="the API is gone, then back on its port",
        must_hold=HOLDS_FOR_CUT,
        attempt=refuses_connections,
    ),
    Row(
        fault="connections are neither accepted nor refused",
        must_hold="The reason is `timeout` after api.timeout, and nothing leaks.",
        attempt=ignores_connections,
    ),
    Row(
        fault="the HTTP proxy asks for a password (407)",
        must_hold="The reason is reported, and the next scrape is complete.",
        attempt=proxy_asks_for_a_password,
    ),
    Row(
        fault="a firewall drops all packets to the API, those of open connections too",
        must_hold=HOLDS_FOR_FIREWALL,
        attempt=partial(firewall, rule=("--jump", "DROP"), reason="timeout", keeps_connections=True),
        isolated=True,
    ),
    Row(
        fault="a router says that the host is unreachable, to new connections",
        must_hold=HOLDS_FOR_FIREWALL,
        attempt=partial(firewall, rule=UNREACHABLE, reason="connection", keeps_connections=False),
        isolated=True,
    ),
    Row(
        fault="a fifth of the packets to the API is lost",
        must_hold="Every scrape is answered in time; failed requests are `timeout`.",
        attempt=packet_loss,
        isolated=True,
    ),
    Row(
        fault="the network interface goes down for 2 s during a scrape",
        must_hold="The scrape is answered, and the next ones are complete.",
        attempt=interface_down,
        isolated=True,
    ),
)
