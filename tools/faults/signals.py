"""Signals at every moment of a scrape."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import UUID

from tools.exporter_program import running_exporter
from tools.faults.certificates import tls_trial
from tools.faults.relay import Wire
from tools.faults.row import Row, expect, hold
from tools.faults.trial import HEALTHY, REFS, Answer, Trial, in_background, new_sandbox, running_trial
from tools.sandbox import faults

# README and design: a scrape gets three seconds to end; the connections one more.
MAX_STOP_SECONDS = 6.0
LONG_SCRAPE = 60.0
MANY = 1500
# Longer than anything that is measured here.
API = {"timeout": "40s"}


@dataclass(frozen=True)
class Scene:
    """An exporter in the middle of something.

    Attributes:
        trial: The exporter.
        answer: The answer of the scrape that is under way; None: none is.
        go_on: Lets what it waits for happen.

    """

    trial: Trial
    answer: Future[Answer] | None
    go_on: Callable[[], object]


def begin_scrape(trial: Trial) -> Future[Answer]:
    """Begin a scrape that has a long time."""
    return in_background(lambda: trial.get("/metrics", scrape_timeout=LONG_SCRAPE))


Enter = Callable[[Path], AbstractContextManager[Scene]]


@contextmanager
def between_scrapes(directory: Path) -> Iterator[Scene]:
    """Leave the exporter idle."""
    with running_trial(directory, api=API) as trial:
        yield Scene(trial, None, lambda: None)


@contextmanager
def in_handshake(directory: Path) -> Iterator[Scene]:
    """Hold a scrape in its TLS handshake with the API."""
    with tls_trial(directory, api=API) as (trial, relay, _):
        relay.become(Wire(silent=True))
        connections = relay.connections
        answer = begin_scrape(trial)
        trial.wait_for("a connection", lambda: relay.connections > connections)
        yield Scene(trial, answer, lambda: relay.become(Wire(), for_open_connections=True))


@contextmanager
def awaiting(directory: Path, *, fault: faults.Fault) -> Iterator[Scene]:
    """Hold a scrape whose requests are being answered."""
    with running_trial(directory, api=API) as trial:
        trial.sandbox.set_fault(fault)
        trial.sandbox.clear_requests()
        answer = begin_scrape(trial)
        trial.wait_for("the requests", lambda: len(trial.sandbox.requests) == len(REFS) - 1)
        # For headers and the first bytes of the body to arrive.
        time.sleep(0.2)
        yield Scene(trial, answer, trial.sandbox.clear_faults)


@contextmanager
def encoding(directory: Path) -> Iterator[Scene]:
    """Hold a scrape with no requests and much to encode."""
    more = [str(UUID(int=number << 16 | 0x4000 << 64 | 0x8000 << 48)) for number in range(MANY)]
    with new_sandbox() as sandbox:
        for ref in more:
            sandbox.put_batch(ref, total=7)
        api = {**API, "concurrency": 32}
        with running_trial(directory, sandbox=sandbox, api=api, batches=[*REFS, *more]) as trial:
            trial.sandbox.clear_requests()
            answer = begin_scrape(trial)
            trial.wait_for("the last request", lambda: len(sandbox.requests) == len(REFS) - 1)
            yield Scene(trial, answer, lambda: None)


def terminates(directory: Path, *, scene: Enter, signals: tuple[int, ...]) -> str:
    """Send signals that end the exporter."""
    with scene(directory) as under_way:
        trial = under_way.trial
        sent = time.monotonic()
        for number in signals:
            trial.signal(number)
            time.sleep(0.05)
        trial.ended()
        ended = time.monotonic() - sent
        hold(f"it ended after {ended:.2f} s", ended < MAX_STOP_SECONDS)
        result = "no scrape was under way"
        if under_way.answer is not None:
            answer = under_way.answer.result()
            expect("status of the scrape under way", answer.status, 200)
            batches = answer.count("sitecore_cdp_batch_poll_success")
            hold("the scrape in progress shows the batches", batches >= len(REFS))
            result = f"the scrape under way was answered with {batches:,} batches"
        return f"ended in {ended:.2f} s with exit code 0; {result}"


def reloads(directory: Path, *, scene: Enter) -> str:
    """Send SIGHUP."""
    with scene(directory) as under_way:
        trial = under_way.trial
        trial.signal(signal.SIGHUP)
        trial.wait_for("the config to be reloaded", lambda: trial.logged("reloaded the config"))
        under_way.go_on()
        return f"reloaded; {goes_on(under_way)}"


def pauses(directory: Path, *, scene: Enter) -> str:
    """Stop the process for a second, as a machine that is moved does."""
    with scene(directory) as under_way:
        under_way.trial.signal(signal.SIGSTOP)
        time.sleep(1)
        under_way.go_on()
        under_way.trial.signal(signal.SIGCONT)
        return f"stopped for 1 s; {goes_on(under_way)}"


def goes_on(scene: Scene) -> str:
    """Expect the running scrape to end, and everything to recover."""
    if scene.answer is not None:
        answer = scene.answer.result()
        expect("status of the scrape under way", answer.status, 200)
        expect("batches that it could not read", answer.count("sitecore_cdp_batch_poll_failure"), 0)
    # The reloaded config opens connections of its own.
    during = scene.trial.scrape()
    hold(f"all are well after it: {during}", {*during.outcomes.values()} == {"ok"})
    return f"{during}; {scene.trial.nothing_is_left(kept_threads=1)}"


def is_killed(directory: Path) -> str:
    """Kill the exporter in the middle of a scrape, and start it again."""
    with awaiting(directory, fault=faults.Hang()) as scene:
        trial = scene.trial
        trial.signal(signal.SIGKILL)
        trial.exporter.program.process.wait()
        scene.go_on()
        with running_exporter(trial.sandbox, directory, batches=REFS) as exporter:
            again = Trial(trial.sandbox, exporter, trial.before)
            return f"started again: {again.expect(HEALTHY)}"


HOLDS_FOR_STOP = (
    "It exits with 0 within 6 s and without a traceback; a running scrape is answered with what has been read so far."
)
HOLDS_FOR_RELOAD = "A running scrape is complete, the config is loaded, and nothing leaks."
HOLDS_FOR_PAUSE = "A running scrape is complete, and nothing leaks."

MOMENTS: tuple[tuple[str, Enter], ...] = (
    ("between two scrapes", between_scrapes),
    ("in the TLS handshake with the API", in_handshake),
    ("while the API has not answered yet", partial(awaiting, fault=faults.Hang())),
    ("while a body arrives slowly", partial(awaiting, fault=faults.DripBody(interval=0.005))),
    (f"while {MANY:,} batches are encoded", encoding),
)

ROWS = (
    *(
        Row(
            fault=f"SIGTERM {moment}",
            must_hold=HOLDS_FOR_STOP,
            attempt=partial(terminates, scene=scene, signals=(signal.SIGTERM,)),
        )
        for moment, scene in MOMENTS
    ),
    Row(
        fault="SIGTERM, SIGTERM and SIGINT while the API has not answered yet",
        must_hold=HOLDS_FOR_STOP,
        attempt=partial(
            terminates,
            scene=partial(awaiting, fault=faults.Hang()),
            signals=(signal.SIGTERM, signal.SIGTERM, signal.SIGINT),
        ),
    ),
    Row(
        fault="SIGTERM during a reload",
        must_hold=HOLDS_FOR_STOP,
        attempt=partial(terminates, scene=between_scrapes, signals=(signal.SIGHUP, signal.SIGTERM)),
    ),
    *(
        Row(fault=f"SIGHUP {moment}", must_hold=HOLDS_FOR_RELOAD, attempt=partial(reloads, scene=scene))
        for moment, scene in MOMENTS
    ),
    *(
        Row(fault=f"SIGSTOP and SIGCONT {moment}", must_hold=HOLDS_FOR_PAUSE, attempt=partial(pauses, scene=scene))
        for moment, scene in MOMENTS[:3]
    ),
    Row(
        fault="SIGKILL while the API has not answered yet, then a new start",
        must_hold="The first scrape after the start is complete: nothing on disk needs repair.",
        attempt=is_killed,
    ),
)
