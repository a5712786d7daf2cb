"""What disturbs the exporter in a soak: faults of the API, rotated tokens, reloads, and clients that leave."""

import base64
import itertools
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import yaml

from tools.program import Program
from tools.sandbox import Sandbox, faults
from tools.soak.comparison import Span
from tools.soak.schedule import Schedule

SECONDS_BETWEEN_FAULTS = 10.0
MIN_FAULT_SECONDS, MAX_FAULT_SECONDS = 1.0, 3.0
SECONDS_BETWEEN_ROTATIONS = 45.0
SECONDS_WITH_THE_NEW_TOKEN = 6.0
API_TIMEOUT = 1.0
MAX_CONCURRENCY = 8
# What a fault may cost after it was switched off: a request that met it may last as long as its timeout, and the scrape
# after that is the first that has no part of it.
RECOVERY = API_TIMEOUT + 1.0
RETRY_AFTER = 2
# While the API fails everything, the exporter pauses for one second, then two, then four.
PAUSE = 4
SECONDS_BETWEEN_RELOADS = 2.0
SECONDS_BETWEEN_SPOILED_FILES = 3.0
SECONDS_BETWEEN_LEAVING_CLIENTS = 0.7
MAX_STAY_SECONDS = 0.4
# A linger time of zero: closing the socket then sends a TCP reset.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
CLIENT_KEY = "soak-client-key"
TOKENS = ("soak-api-token-one", "soak-api-token-two")
SECRETS = (
    CLIENT_KEY,
    *TOKENS,
    *(base64.b64encode(f"{CLIENT_KEY}:{token}".encode()).decode() for token in TOKENS),
    # Of presigned URLs.
    "Signature=",
)


@dataclass(frozen=True)
class Trouble:
    """A fault of the API, of its list only or of all. One that the exporter rides out is no excuse for anything."""

    fault: faults.Fault
    recovery: float = RECOVERY
    ridden_out: bool = False
    of_list_only: bool = False


TROUBLES = (
    Trouble(faults.Status(500), recovery=RECOVERY + PAUSE),
    Trouble(faults.Hang()),
    Trouble(faults.CloseReusedConnection(), ridden_out=True),
    Trouble(faults.Status(503, retry_after=RETRY_AFTER), recovery=RECOVERY + RETRY_AFTER),
    Trouble(faults.CutConnection()),
    Trouble(faults.Status(500), of_list_only=True),
    Trouble(faults.Delay(1.5 * API_TIMEOUT)),
    Trouble(faults.SetCookie(), ridden_out=True),
    Trouble(faults.CutConnection(reset=True)),
    Trouble(faults.CutBody()),
    Trouble(faults.Hang(), of_list_only=True),
    Trouble(faults.Delay(0.3 * API_TIMEOUT)),
    Trouble(faults.Status(429, retry_after=RETRY_AFTER), recovery=RECOVERY + RETRY_AFTER),
    Trouble(faults.MalformedJson()),
    Trouble(faults.Html()),
    Trouble(faults.DripBody(0.05)),
    Trouble(faults.DripHeaders(0.05)),
    Trouble(faults.LargeBody(2)),
    Trouble(faults.Redirect("/v2/elsewhere")),
)


class ApiFaults:
    """Makes the API fail for a while, repeatedly, cycling through the faults.

    Attributes:
        windows: The times in which nothing could be read, with the time to recover.
        count: How many faults there were, also of those that are ridden out.

    """

    def __init__(
        self,
        sandbox: Sandbox,
        schedule: Schedule,
        random: Random,
        *,
        token_file: Path,
        refs: Callable[[], Sequence[str]],
    ) -> None:
        self.windows: list[Span] = []
        self.count = 0
        self.token = TOKENS[0]
        self._sandbox = sandbox
        self._schedule = schedule
        self._random = random
        self._token_file = token_file
        self._refs = refs
        self._troubles = itertools.cycle(TROUBLES)
        # By 403 and by 401 in turn.
        self._forbids = itertools.cycle([False, True])
        # The beginnings of faults, with the time to recover from them.
        self._under_way: list[tuple[float, float]] = []
        self._refused_since = 0.0
        self._write_token()

    @property
    def under_way(self) -> bool:
        """Whether the API fails now."""
        return bool(self._under_way)

    def start(self) -> None:
        """Begin, after a while without any."""
        self._schedule.after(SECONDS_BETWEEN_FAULTS, lambda: self._schedule.every(SECONDS_BETWEEN_FAULTS, self._fail))
        self._schedule.after(
            1.5 * SECONDS_BETWEEN_FAULTS, lambda: self._schedule.every(SECONDS_BETWEEN_ROTATIONS, self._rotate)
        )

    def stop(self) -> None:
        """Clear all faults, and give the exporter the current token."""
        self._heal()
        if self._token_file.read_text(encoding="utf-8").strip() != self.token:
            self._announce_token()

    def _fail(self) -> None:
        """Switch the next fault on, and off after a while."""
        trouble = next(self._troubles)
        self.count += 1
        if not trouble.ridden_out:
            self._under_way.append((time.time(), trouble.recovery))
        if trouble.of_list_only:
            # A fault without a ref is for the batches, too. So each gets one of its own, which does no harm.
            for ref in self._refs():
                self._sandbox.set_fault(faults.Delay(0.0), ref=ref)
        self._sandbox.set_fault(trouble.fault)
        self._schedule.after(self._random.uniform(MIN_FAULT_SECONDS, MAX_FAULT_SECONDS), self._heal)

    def _heal(self) -> None:
        self._sandbox.clear_faults()
        now = time.time()
        self.windows += [Span(began, now + recovery) for began, recovery in self._under_way]
        self._under_way.clear()

    def _rotate(self) -> None:
        """Change the token at the API first, so that the exporter's is refused, and change it back later.

        A refusal of everything is not among the other faults: the exporter then asks once a minute, by design, unless
        it gets other credentials.
        """
        self.count += 1
        if next(self._forbids):
            self._sandbox.set_fault(faults.Status(403))
        self._change_token(TOKENS[1])
        self._schedule.after(MAX_FAULT_SECONDS, self._announce_token)
        self._schedule.after(MAX_FAULT_SECONDS + SECONDS_WITH_THE_NEW_TOKEN, self._rotate_back)

    def _rotate_back(self) -> None:
        self._change_token(TOKENS[0])
        self._announce_token()

    def _change_token(self, token: str) -> None:
        self._refused_since = time.time()
        self.token = token
        self._sandbox.set_api_token(token)

    def _announce_token(self) -> None:
        """Give the exporter the token that the API takes now, by its file."""
        self._sandbox.clear_faults()
        self._write_token()
        self.windows.append(Span(self._refused_since, time.time() + RECOVERY))

    def _write_token(self) -> None:
        aside = self._token_file.with_suffix(".new")
        aside.write_text(f"{self.token}\n", encoding="utf-8")
        aside.replace(self._token_file)


class Reloads:
    """Changes the exporter's config, to good and bad ones, and reloads it by SIGHUP."""

    def __init__(self, path: Path, sandbox: Sandbox, schedule: Schedule, *, token_file: Path, random: Random) -> None:
        self.good = 0
        self.bad = 0
        self._path = path
        self._sandbox = sandbox
        self._schedule = schedule
        self._token_file = token_file
        self._random = random
        self._write_good()

    def start(self, program: Program) -> None:
        """Begin."""
        self._schedule.every(SECONDS_BETWEEN_RELOADS, lambda: self._reload(program))

    def end_well(self, program: Program) -> None:
        """Reload a good config."""
        self._write_good()
        self.good += 1
        program.process.send_signal(signal.SIGHUP)

    def _reload(self, program: Program) -> None:
        if (self.good + self.bad) % 3 == 1:
            self._write_bad()
            self.bad += 1
            program.process.send_signal(signal.SIGHUP)
        else:
            self.end_well(program)

    def _write_good(self) -> None:
        choose = self._random.choice
        document: dict[str, Any] = {
            "api": {
                "base_url": self._sandbox.base_url,
                "basic_auth": {"username": CLIENT_KEY, "password_file": str(self._token_file)},
                "endpoint": "inspect",
                "timeout": "1s",
                "concurrency": choose([2, 4, MAX_CONCURRENCY]),
            },
            "batch_files": ["batches.d/*.yaml"],
            # Longer than the API remembers: what is gone must not be gone because of its age.
            "retention": {"succeeded": choose(["10m", "20m"]), "failed": "30m"},
            "recheck_finished": choose(["1h", "24h"]),
            "discovery": {"enabled": True},
            "feeds": [
                {"name": "listed", "labels": {"team": choose(["crm", "shop"])}},
                {"name": "nightly-guests", "ref_prefix": "5a0c2f0e", "expect_success_every": choose(["1h", "24h"])},
            ],
        }
        self._path.write_text(yaml.safe_dump(document), encoding="utf-8")

    def _write_bad(self) -> None:
        good = self._path.read_text(encoding="utf-8")
        bad = self._random.choice([good + "nonsense: 1\n", good.replace("api:", "api: ["), ""])
        self._path.write_text(bad, encoding="utf-8")


class LeavingClients:
    """Clients that ask and leave in the middle, half of them by a TCP reset."""

    def __init__(self, url: str, schedule: Schedule, random: Random, *, refs: Callable[[], Sequence[str]]) -> None:
        address = urlsplit(url)
        self._address = (address.hostname, address.port)
        self._schedule = schedule
        self._random = random
        self._refs = refs

    def start(self) -> None:
        """Begin."""
        self._schedule.every(SECONDS_BETWEEN_LEAVING_CLIENTS, self._come)

    def _come(self) -> None:
        probes = [f"/probe?target={self._random.choice(self._refs())}"] if self._refs() else []
        path = self._random.choice(["/metrics", "/metrics", "/", *probes])
        request = f"GET {path} HTTP/1.1\r\nHost: soak\r\nX-Prometheus-Scrape-Timeout-Seconds: 5\r\n\r\n"
        # If nobody listens, the verdicts report it.
        with suppress(OSError), ExitStack() as stack:
            client = stack.enter_context(socket.create_connection(self._address, timeout=API_TIMEOUT))
            if self._random.choice([True, False]):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            client.sendall(request.encode())
            self._schedule.after(self._random.uniform(0.0, MAX_STAY_SECONDS), stack.pop_all().close)
