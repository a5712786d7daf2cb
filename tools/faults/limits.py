"""Faults of the machine: no more files, no more memory."""

import re
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import requests

from tools.faults.row import NotHeldError, Row, expect, hold
from tools.faults.trial import REFS, SCRAPE_TIMEOUT, Trial, new_sandbox, running_trial
from tools.sandbox import faults

SCRAPES = 5
# Input, output and errors are open, so no other file may be.
STANDARD_FILES = 3
SPARE_BYTES = 4 * 1024**2


@contextmanager
def limited(trial: Trial, kind: int, value: int) -> Iterator[None]:
    """Limit the running exporter."""
    pid = trial.exporter.program.process.pid
    soft, hard = resource.prlimit(pid, kind)
    resource.prlimit(pid, kind, (value, hard))
    try:
        yield
    finally:
        resource.prlimit(pid, kind, (soft, hard))


def scrapes(trial: Trial) -> str:
    """Scrape several times, and describe the results."""
    answers = [trial.get("/metrics") for _ in range(SCRAPES)]
    expect("exit code", trial.exporter.program.process.poll(), None)
    slowest = max(answer.seconds for answer in answers)
    hold(f"the slowest scrape took {slowest:.2f} s", slowest < SCRAPE_TIMEOUT)
    expect("statuses", [answer.status for answer in answers], [200] * SCRAPES)
    reasons = Counter(re.findall(r'poll_failure{.*reason="(\w+)"', "\n".join(answer.text for answer in answers)))
    result = ", ".join(f"{count} {reason}" for reason, count in reasons.items()) or "complete"
    return f"{SCRAPES} scrapes: {result}, slowest {slowest:.2f} of {SCRAPE_TIMEOUT:g} s"


def no_more_files(directory: Path) -> str:
    """Allow no more files, and take the connections to the API; one of a scrape is open."""
    with running_trial(directory) as trial:
        with requests.Session() as session:
            session.get(f"{trial.exporter.url}/-/healthy", timeout=SCRAPE_TIMEOUT)
            trial.sandbox.close_idle_connections()
            with limited(trial, resource.RLIMIT_NOFILE, STANDARD_FILES):
                # Only the text is kept, because a response would keep the connection.
                text = session.get(f"{trial.exporter.url}/metrics", timeout=SCRAPE_TIMEOUT).text
                failures = re.findall(
                    r'^sitecore_cdp_batch_poll_failure\{.*reason="connection"', text, flags=re.MULTILINE
                )
                expect("batches that failed", len(failures), 2)
                hold("sitecore_cdp_up is 0", "\nsitecore_cdp_up 0.0" in text)
                with suppress(requests.Timeout):
                    status = requests.get(f"{trial.exporter.url}/-/healthy", timeout=1).status_code
                    raise NotHeldError(f"a new connection was answered with {status}")
        return f"2 connection, 1 ok, up 0 over an open connection, new ones wait; {trial.recovered(longest=2)}"


def no_more_threads(directory: Path) -> str:
    """Allow memory for no more threads than have just ended, with many requests to make at once."""
    more = [f"00000000-0000-4000-8000-{number:012x}" for number in range(100, 130)]
    with new_sandbox() as sandbox:
        for ref in more:
            sandbox.put_batch(ref, status="processing", total=7)
        with running_trial(directory, sandbox=sandbox, batches=[*REFS, *more], api={"concurrency": 32}) as trial:
            sandbox.set_fault(faults.Delay(seconds=0.1))
            with limited(trial, resource.RLIMIT_AS, trial.usage().virtual_bytes + SPARE_BYTES):
                result = scrapes(trial)
            sandbox.clear_faults()
            return f"{result}; then {trial.scrape()}"


ROWS = (
    Row(
        fault="no more files can be opened (RLIMIT_NOFILE)",
        must_hold="A scrape over an open connection shows `connection`; all recovers once files can be opened.",
        attempt=no_more_files,
    ),
    Row(
        fault="33 requests at once, and no memory for more than a few threads (RLIMIT_AS)",
        must_hold="The threads that do exist answer every scrape in time.",
        attempt=no_more_threads,
    ),
)
