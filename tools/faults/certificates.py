"""Faults of TLS between the exporter and the API."""

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import trustme

from tools.faults.relay import Relay, Wire
from tools.faults.row import Row, expect
from tools.faults.trial import HEALTHY, Trial, all_fail, new_sandbox, relayed_trial, running_trial

NAMES = ("127.0.0.1", "localhost")


class Upstream:
    """The certificate of the API, which can be replaced while it runs."""

    def __init__(self, directory: Path) -> None:
        self.authority = trustme.CA()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca_file = directory / "ca.pem"
        self.authority.cert_pem.write_to_path(str(self._ca_file))
        self.present_good()

    @property
    def api(self) -> dict[str, object]:
        """The settings of an exporter that trusts it."""
        return {"tls_config": {"ca_file": str(self._ca_file)}}

    def present(self, certificate: trustme.LeafCert) -> None:
        """Present another certificate from the next handshake on."""
        certificate.configure_cert(self.context)

    def present_good(self) -> None:
        """Present a good certificate, a new one."""
        self.present(self.authority.issue_cert(*NAMES))

    def present_expired(self) -> None:
        """Present a certificate that expired a minute ago."""
        minute_ago = datetime.now(UTC) - timedelta(minutes=1)
        self.present(self.authority.issue_cert(*NAMES, not_after=minute_ago))

    def present_future(self) -> None:
        """Present a certificate that will be valid tomorrow."""
        tomorrow = datetime.now(UTC) + timedelta(days=1)
        self.present(self.authority.issue_cert(*NAMES, not_before=tomorrow, not_after=tomorrow + timedelta(days=9)))

    def present_wrong_host(self) -> None:
        """Present the certificate of another host."""
        self.present(self.authority.issue_cert("batches.example"))

    def present_stranger(self) -> None:
        """Present a certificate of an authority that nobody trusts."""
        self.present(trustme.CA().issue_cert(*NAMES))

    def speak_old_tls(self) -> None:
        """Speak no newer TLS than 1.1."""
        self.context.maximum_version = ssl.TLSVersion.TLSv1_1


@contextmanager
def tls_trial(directory: Path, *, api: Mapping[str, object] | None = None) -> Iterator[tuple[Trial, Relay, Upstream]]:
    """Run a healthy exporter over TLS."""
    upstream = Upstream(directory)
    with (
        new_sandbox(ssl_context=upstream.context) as sandbox,
        relayed_trial(directory, sandbox=sandbox, api={**upstream.api, **(api or {})}) as (trial, relay),
    ):
        yield trial, relay, upstream


def presents(directory: Path, *, change: Callable[[Upstream], None]) -> str:
    """Let the API present another certificate, then a valid one again."""
    with tls_trial(directory) as (trial, relay, upstream):
        change(upstream)
        open_connections = trial.expect(HEALTHY)
        relay.become(Wire())
        during = trial.expect(all_fail("tls"), up=0)
        upstream.present_good()
        upstream.context.maximum_version = ssl.TLSVersion.MAXIMUM_SUPPORTED
        return f"over open connections: {open_connections}; then: {during}; {trial.recovered()}"


def rotates(directory: Path) -> str:
    """Rotate the certificate before each scrape."""
    with tls_trial(directory) as (trial, relay, upstream):
        for _ in range(5):
            upstream.present_good()
            relay.become(Wire())
            during = trial.expect(HEALTHY)
        return f"5 times, last: {during}; {trial.nothing_is_left()}"


def fails_in_handshake(directory: Path, *, wire: Wire, reason: str) -> str:
    """Break the handshake."""
    with tls_trial(directory) as (trial, relay, _):
        relay.become(wire)
        during = trial.expect(all_fail(reason), up=0)
        relay.become(Wire())
        return f"{during}; {trial.recovered()}"


def loses_ca_file(directory: Path) -> str:
    """Remove the file of authorities while the exporter runs, and reload."""
    with tls_trial(directory) as (trial, relay, _):
        ca_file = directory / "ca.pem"
        content = ca_file.read_bytes()
        ca_file.unlink()
        relay.become(Wire())
        during = trial.expect(HEALTHY)
        ca_file.write_bytes(content)
        return f"{during}; {trial.recovered()}"


def speaks_tls_on_plain_port(directory: Path) -> str:
    """Ask in plain HTTP where TLS is spoken."""
    upstream = Upstream(directory)
    with new_sandbox(ssl_context=upstream.context) as sandbox:
        plain = {"base_url": sandbox.base_url.replace("https", "http")}
        with running_trial(directory, sandbox=sandbox, api=plain) as trial:
            during = trial.scrape()
            expect("sitecore_cdp_up", during.up, 0)
            expect("the batches that were read", [*during.outcomes.values()].count("ok"), 0)
            return f"{during}; {trial.nothing_is_left()}"


HOLDS = "New connections fail with `tls`, open ones stay usable; a good certificate ends it, without a restart."
HOLDS_FOR_HANDSHAKE = "The reason is reported in time, and the next scrape is complete."
PLAIN = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

CHANGES: tuple[tuple[str, Callable[[Upstream], None]], ...] = (
    ("a certificate that has expired", Upstream.present_expired),
    ("a certificate that is not valid yet", Upstream.present_future),
    ("a certificate for another host", Upstream.present_wrong_host),
    ("a certificate of an authority that is not trusted", Upstream.present_stranger),
    ("nothing newer than TLS 1.1", Upstream.speak_old_tls),
)

HANDSHAKES: tuple[tuple[str, Wire, str], ...] = (
    ("plain HTTP on the port for TLS", Wire(garble=PLAIN), "tls"),
    ("silence in the handshake", Wire(silent=True), "timeout"),
    ("closed in the handshake", Wire(cut_after=100), "tls"),
    ("reset in the handshake", Wire(cut_after=100, by_reset=True), "connection"),
    ("a record garbled in the handshake", Wire(garble=b"\x17\x03\x03\xff\xff"), "tls"),
)

ROWS = (
    *(Row(fault=name, must_hold=HOLDS, attempt=partial(presents, change=change)) for name, change in CHANGES),
    Row(
        fault="the certificate is rotated five times",
        must_hold="No effect.",
        attempt=rotates,
    ),
    *(
        Row(
            fault=name,
            must_hold=HOLDS_FOR_HANDSHAKE,
            attempt=partial(fails_in_handshake, wire=wire, reason=reason),
        )
        for name, wire, reason in HANDSHAKES
    ),
    Row(
        fault="the ca_file is removed while the exporter runs",
        must_hold="The authorities that were read at the start stay trusted.",
        attempt=loses_ca_file,
    ),
    Row(
        fault="base_url has http, but the port speaks TLS",
        must_hold="The failure is reported, and `up` is 0.",
        attempt=speaks_tls_on_plain_port,
    ),
)
