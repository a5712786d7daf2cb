"""A trial: the real exporter against the sandbox, scraped as Prometheus would before, during and after a fault."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import requests

from tools.exporter_program import API_TOKEN, CLIENT_KEY, Exporter, LabelSet, running_exporter
from tools.faults.relay import Relay
from tools.faults.row import NotHeldError, expect, hold
from tools.process import MEBIBYTE, Usage, usage_of
from tools.program import wait_for
from tools.sandbox import Sandbox, faults

T = TypeVar("T")

VICTIM = "00000000-0000-4000-8000-000000000001"
NEIGHBOUR = "00000000-0000-4000-8000-000000000002"
FINISHED = "00000000-0000-4000-8000-000000000003"
REFS = (VICTIM, NEIGHBOUR, FINISHED)
TOTAL_RECORDS = 7

HEALTHY = dict.fromkeys(REFS, "ok")
SCRAPE_TIMEOUT = 10.0
# Longer than any answer takes: it only ends a wait that would never end.
MAX_ANSWER_SECONDS = 60.0
# How long threads and connections may take to end.
MAX_CLEANUP_SECONDS = 10.0
# A scrape that comes before the thread of the one before has gone back to its pool is given another thread, once.
KEPT_SCRAPE_THREADS = 1
# How many scrapes there are before a fault: until two were complete, but no more than these.
ENOUGH_WELL = 2
MAX_WARM_UP_SCRAPES = 4
API = {"timeout": "1s", "concurrency": 2}


def all_fail(reason: str) -> dict[str, str]:
    """Return what a scrape shows when nothing can be read: finished batches are remembered."""
    return {VICTIM: reason, NEIGHBOUR: reason, FINISHED: "ok"}


@dataclass(frozen=True)
class Scrape:
    """The result of a scrape.

    Attributes:
        seconds: How long it took.
        timeout: How long it could have taken.
        samples: The values by metric name and labels.

    """

    seconds: float
    timeout: float
    samples: Mapping[str, Mapping[LabelSet, float]] = field(repr=False)

    def value(self, name: str, **labels: str) -> float | None:
        """Return the value of one series, or None."""
        return self.samples.get(name, {}).get(frozenset(labels.items()))

    @property
    def up(self) -> float | None:
        """The value of `sitecore_cdp_up`."""
        return self.value("sitecore_cdp_up")

    @property
    def outcomes(self) -> dict[str, str]:
        """The reason of each batch that failed; "ok" of the others.

        Raises:
            NotHeldError: A batch that failed has values, or one that did not has none.

        """
        reasons = {dict(labels)["ref"]: dict(labels)["reason"] for labels in self._series("poll_failure")}
        shown = {dict(labels)["ref"] for labels in self._series("status_code")}
        outcomes = {}
        for labels, success in self._series("poll_success").items():
            ref = dict(labels)["ref"]
            hold(f"{ref} has values only if it has no reason", (success == 1) == (ref in shown) == (ref not in reasons))
            outcomes[ref] = reasons.get(ref, "ok")
        return outcomes

    def __str__(self) -> str:
        counts = Counter(self.outcomes.values())
        return f"{', '.join(f'{counts[outcome]} {outcome}' for outcome in sorted(counts))}, up {self.up:g} {self.time}"

    @property
    def time(self) -> str:
        """Its time and its timeout as a text."""
        return f"in {self.seconds:.2f} of {self.timeout:g} s"

    def _series(self, name: str) -> Mapping[LabelSet, float]:
        return self.samples.get(f"sitecore_cdp_batch_{name}", {})


@dataclass(frozen=True)
class Answer:
    """An answer of the exporter and the seconds that it took. A response of requests would keep its connection open."""

    status: int
    text: str = field(repr=False)
    seconds: float

    def count(self, metric: str) -> int:
        """Count the series of a metric, which has labels."""
        return self.text.count(f"\n{metric}{{")


@dataclass(frozen=True)
class Trial:
    """A running exporter and what it talks to.

    Attributes:
        sandbox: The API.
        exporter: The exporter.
        before: What it used before the fault.

    """

    sandbox: Sandbox
    exporter: Exporter
    before: Usage

    def scrape(self, *, timeout: float = SCRAPE_TIMEOUT) -> Scrape:
        """Scrape; raise NotHeldError if the answer comes too late for Prometheus."""
        started = time.monotonic()
        samples = self.exporter.scrape(timeout=timeout)
        scrape = Scrape(time.monotonic() - started, timeout, samples)
        hold(f"a scrape took {scrape.seconds:.2f} s and had {timeout:g} s", scrape.seconds < timeout)
        return scrape

    def expect(self, outcomes: Mapping[str, str], *, up: int = 1, timeout: float = SCRAPE_TIMEOUT) -> Scrape:
        """Scrape, and raise NotHeldError unless it shows exactly this."""
        scrape = self.scrape(timeout=timeout)
        expect("reasons", scrape.outcomes, outcomes)
        expect("sitecore_cdp_up", scrape.up, up)
        return scrape

    def recovered(self, *, longest: int = 1, kept_threads: int = 0) -> str:
        """Scrape until everything has recovered, at most `longest` times. Return how that went.

        `kept_threads` may stay: threads of a bounded pool, which wait for more work of the same kind.
        """
        for number in range(1, longest + 1):
            scrape = self.scrape()
            if scrape.outcomes == HEALTHY and scrape.up == 1:
                return f"recovered in {number} scrape{'s' * (number > 1)}; {self.nothing_is_left(kept_threads)}"
        raise NotHeldError(f"not recovered after {longest} scrapes: {scrape}")

    def nothing_is_left(self, kept_threads: int = 0) -> str:
        """Wait until threads and files are what they were; return their numbers."""
        give_up = time.monotonic() + MAX_CLEANUP_SECONDS
        while True:
            now = self.usage()
            left = f"threads {self.before.threads} → {now.threads}, files {self.before.files} → {now.files}"
            if (
                now.threads <= self.before.threads + KEPT_SCRAPE_THREADS + kept_threads
                and now.files <= self.before.files
            ):
                return left
            hold(f"nothing is left: {left}", time.monotonic() < give_up)
            time.sleep(0.05)

    def usage(self) -> Usage:
        """Look at what the exporter uses now."""
        return usage_of(self.exporter.program.process.pid)

    def growth(self) -> float:
        """Return how many MiB more it has in memory than before the fault."""
        return (self.usage().resident_bytes - self.before.resident_bytes) / MEBIBYTE

    def get(self, path: str, *, scrape_timeout: str | float = SCRAPE_TIMEOUT) -> Answer:
        """Get a path of the exporter. Any status is accepted."""
        headers = {"X-Prometheus-Scrape-Timeout-Seconds": f"{scrape_timeout}"}
        started = time.monotonic()
        response = requests.get(f"{self.exporter.url}{path}", headers=headers, timeout=MAX_ANSWER_SECONDS)
        return Answer(response.status_code, response.text, time.monotonic() - started)

    def signal(self, number: int) -> None:
        """Send the exporter a signal."""
        self.exporter.program.process.send_signal(number)

    def logged(self, text: str) -> int:
        """Count how often the exporter has logged this."""
        return self.exporter.program.output().count(text)

    def ended(self) -> None:
        """Wait for the end of the exporter, which must be one without an error."""
        expect("exit code", self.exporter.program.process.wait(60), 0)
        expect("tracebacks in its log", self.logged("Traceback"), 0)

    def wait_for(self, what: str, attempt: Callable[[], T | None]) -> T:
        """Repeat `attempt` until it gives something true; give up after a while, or when the exporter ends."""
        return wait_for(what, attempt, programs=[self.exporter.program], seconds=30)


def in_background(function: Callable[[], T]) -> Future[T]:
    """Call a function on a thread of its own."""
    future: Future[T] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001  It is raised where the result is asked for.
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


@contextmanager
def new_sandbox(**settings: Any) -> Iterator[Sandbox]:  # noqa: ANN401  Those of Sandbox.
    """Run a sandbox that has the three batches."""
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, **settings) as sandbox:
        for ref in (VICTIM, NEIGHBOUR):
            sandbox.put_batch(ref, status="processing", total=TOTAL_RECORDS)
        sandbox.put_batch(FINISHED, status="success", total=TOTAL_RECORDS)
        yield sandbox


@contextmanager
def running_trial(
    directory: Path,
    *,
    sandbox: Sandbox | None = None,
    api: Mapping[str, object] | None = None,
    **arguments: Any,  # noqa: ANN401  Those of running_exporter.
) -> Iterator[Trial]:
    """Run a healthy exporter until the end of the block.

    Args:
        directory: Where its config and its log go.
        sandbox: The API. None: a sandbox with the three batches.
        api: Settings of the config.
        arguments: Those of running_exporter.

    """
    with ExitStack() as stack:
        sandbox = sandbox or stack.enter_context(new_sandbox())
        settings = {"batches": REFS, **arguments, "api": {**API, **(api or {})}}
        exporter = stack.enter_context(running_exporter(sandbox, directory, **settings))
        # Slow answers make it open all the connections that it keeps. On a busy machine the first ones may fail.
        for ref in (VICTIM, NEIGHBOUR):
            sandbox.set_fault(faults.Delay(seconds=0.2), ref=ref)
        well = 0
        for _ in range(MAX_WARM_UP_SCRAPES):
            well += "sitecore_cdp_batch_poll_failure" not in exporter.scrape(timeout=SCRAPE_TIMEOUT)
            if well == ENOUGH_WELL:
                break
        sandbox.clear_faults()
        yield Trial(sandbox, exporter, usage_of(exporter.program.process.pid))


@contextmanager
def relayed_trial(
    directory: Path,
    *,
    sandbox: Sandbox | None = None,
    api: Mapping[str, object] | None = None,
) -> Iterator[tuple[Trial, Relay]]:
    """Run such an exporter, with a relay between the exporter and the API."""
    with ExitStack() as stack:
        sandbox = sandbox or stack.enter_context(new_sandbox())
        relay = stack.enter_context(Relay(sandbox.base_url))
        settings = {"base_url": relay.base_url, **(api or {})}
        yield stack.enter_context(running_trial(directory, sandbox=sandbox, api=settings)), relay
