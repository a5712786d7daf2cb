"""Faults of the exporter's wall clock, by libfaketime."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from tools.faults.certificates import Upstream
from tools.faults.row import NeedsError, NotHeldError, Row, expect, hold
from tools.faults.trial import (
    FINISHED,
    HEALTHY,
    SCRAPE_TIMEOUT,
    VICTIM,
    Trial,
    all_fail,
    in_background,
    new_sandbox,
    running_trial,
)
from tools.sandbox import faults

DAY = 86400
POLLED = "sitecore_cdp_batch_polled_timestamp_seconds"


class WallClock:
    """The wall clock of programs started in a `with` block. Their monotonic clock is unaffected."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "clock"

    def jump(self, seconds: int) -> None:
        """Set how many seconds the clock is wrong."""
        aside = self._file.with_suffix(".new")
        aside.write_text(f"{seconds:+d}\n", encoding="utf-8")
        # By renaming, because the file is read at each look at the clock.
        aside.rename(self._file)

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """Give programs that are started meanwhile this clock."""
        libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not libraries:
            raise NeedsError("libfaketime")
        self.jump(0)
        environment = {
            "LD_PRELOAD": str(libraries[0]),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        with mock.patch.dict(os.environ, environment):
            yield


@contextmanager
def clocked_trial(directory: Path, **arguments: Any) -> Iterator[tuple[Trial, WallClock]]:  # noqa: ANN401  Those of running_trial.
    """Run a healthy exporter whose wall clock can jump."""
    clock = WallClock(directory)
    with clock.in_charge(), running_trial(directory, **arguments) as trial:
        yield trial, clock


def jumps(directory: Path, *, days: int) -> str:
    """Jump between two scrapes, and back."""
    with clocked_trial(directory) as (trial, clock):
        before = trial.scrape().value(POLLED, ref=VICTIM)
        clock.jump(days * DAY)
        during = trial.expect(HEALTHY)
        after = during.value(POLLED, ref=VICTIM)
        if before is None or after is None:
            raise NotHeldError("the time of the poll is missing")
        expect("days that the time of the poll moved by", round((after - before) / DAY), days)
        clock.jump(0)
        return f"{during}, time of the poll {days:+d} days; {trial.recovered()}"


def jumps_during_a_scrape(directory: Path, *, seconds: int) -> str:
    """Jump while a scrape waits for an answer that never comes."""
    with clocked_trial(directory) as (trial, clock):
        trial.sandbox.set_fault(faults.Hang())
        trial.sandbox.clear_requests()
        scrape = in_background(trial.scrape)
        trial.wait_for("a request", lambda: trial.sandbox.requests)
        clock.jump(seconds)
        during = scrape.result()
        expect("reasons", during.outcomes, all_fail("timeout"))
        hold("api.timeout was kept", 0.9 < during.seconds < SCRAPE_TIMEOUT / 2)
        trial.sandbox.clear_faults()
        clock.jump(0)
        return f"{during}; {trial.recovered()}"


def outlives_retention(directory: Path) -> str:
    """Jump beyond the retention of a batch of a file, and back."""
    (directory / "finished.yaml").write_text(f"- {FINISHED}\n", encoding="utf-8")
    refs = [ref for ref in HEALTHY if ref != FINISHED]
    with clocked_trial(directory, batches=refs, batch_files=["finished.yaml"]) as (trial, clock):
        clock.jump(2 * DAY)
        during = trial.expect(dict.fromkeys(refs, "ok"))
        expect("sitecore_cdp_retired_batches", during.value("sitecore_cdp_retired_batches"), 1)
        clock.jump(0)
        return f"{during}, 1 retired; {trial.recovered()}"


def certificates_not_valid_yet(directory: Path) -> str:
    """Set the clock to 1972, as on a machine without a battery."""
    upstream = Upstream(directory)
    with (
        new_sandbox(ssl_context=upstream.context) as sandbox,
        clocked_trial(directory, sandbox=sandbox, api={**upstream.api, "timeout": "5s"}) as (trial, clock),
    ):
        clock.jump(-20_000 * DAY)
        sandbox.close_idle_connections()
        during = trial.expect(all_fail("tls"), up=0)
        clock.jump(0)
        return f"{during}; {trial.recovered()}"


HOLDS_FOR_JUMP = "Everything is read and nothing is forgotten; deadlines follow the monotonic clock."
HOLDS_FOR_MID_SCRAPE = "The scrape still ends by api.timeout: not at once, and not never."

ROWS = (
    Row(fault="the clock jumps two days ahead", must_hold=HOLDS_FOR_JUMP, attempt=partial(jumps, days=2)),
    Row(fault="the clock jumps two days back", must_hold=HOLDS_FOR_JUMP, attempt=partial(jumps, days=-2)),
    Row(
        fault="the clock jumps an hour ahead during a scrape",
        must_hold=HOLDS_FOR_MID_SCRAPE,
        attempt=partial(jumps_during_a_scrape, seconds=3600),
    ),
    Row(
        fault="the clock jumps an hour back during a scrape",
        must_hold=HOLDS_FOR_MID_SCRAPE,
        attempt=partial(jumps_during_a_scrape, seconds=-3600),
    ),
    Row(
        fault="the clock jumps beyond the retention of a batch, and back",
        must_hold="The batch is retired, and is shown again once the clock is right.",
        attempt=outlives_retention,
    ),
    Row(
        fault="the clock says 1972, so no certificate is valid yet",
        must_hold="The reason is `tls`; everything recovers once the clock is right.",
        attempt=certificates_not_valid_yet,
    ),
)
