"""One run of the soak: what works, what disturbs it, who watches, and what is compared in the end."""

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random

import requests

from tools.exporter_program import Exporter, running_with_config
from tools.process import MEBIBYTE, Usage, usage_of
from tools.sandbox import Sandbox
from tools.soak.disturbances import (
    CLIENT_KEY,
    SECONDS_BETWEEN_RELOADS,
    SECONDS_BETWEEN_SPOILED_FILES,
    TOKENS,
    ApiFaults,
    LeavingClients,
    Reloads,
)
from tools.soak.files import BatchFiles
from tools.soak.prometheus import SCRAPE_INTERVAL, running_prometheus
from tools.soak.schedule import Schedule
from tools.soak.uploads import DEMO_SPEED, FollowedDemo, History, PlacedUploads
from tools.soak.verdicts import Row, judge_exporter, judge_stored, judge_usage

# By then as many batches are forgotten as are uploaded.
WARM_UP = 20.0
# In a run of ten minutes each fault has then been on once, and memory has room for the peaks that they make.
SHARE_OF_WARM_UP = 1 / 3
# After the work, until faults and shared polls are over and both Prometheus have scraped again.
CALM = 6.0
HEALTH_TIMEOUT = 2.0
PROGRESS_INTERVAL = 5.0


class Watch:
    """Looks at the exporter from outside, each second."""

    def __init__(self, exporter: Exporter) -> None:
        self.usages: list[Usage] = []
        self.health_asked = 0
        self.health_failed = 0
        self._exporter = exporter

    def look(self) -> None:
        """Ask for the health, and see what the process uses."""
        self.health_asked += 1
        try:
            healthy = requests.get(f"{self._exporter.url}/-/healthy", timeout=HEALTH_TIMEOUT).ok
        except requests.RequestException:
            healthy = False
        self.health_failed += not healthy
        # If it has ended, the verdicts report it.
        with suppress(ProcessLookupError):
            self.usages.append(usage_of(self._exporter.program.process.pid))


class Soak:
    """One run, in a folder that is empty. `report` gets each line of progress."""

    def __init__(self, stack: ExitStack, directory: Path, report: Callable[[str], None]) -> None:
        random = Random(0)  # noqa: S311  It plans what happens, which should be the same each time.
        sandbox = stack.enter_context(Sandbox(client_key=CLIENT_KEY, api_token=TOKENS[0], speed=DEMO_SPEED))
        self._report = report
        self._schedule = schedule = Schedule()
        self._history = history = History()
        config, token_file = directory / "config.yaml", directory / "api_token"
        self._files = BatchFiles(directory / "batches.d", random)
        self._uploads = PlacedUploads(sandbox, schedule, history, self._files, random)

        def refs() -> list[str]:
            return list(self._uploads.refs)

        self._faults = ApiFaults(sandbox, schedule, random, token_file=token_file, refs=refs)
        self._demo = FollowedDemo(
            sandbox,
            schedule,
            history,
            credentials=lambda: (CLIENT_KEY, self._faults.token),
            fails=lambda: self._faults.under_way,
        )
        self._reloads = Reloads(config, sandbox, schedule, token_file=token_file, random=random)
        self._exporter = stack.enter_context(
            # In a session of its own, so that Ctrl-C ends the soak early and not the exporter.
            running_with_config(config, flags=["--log.level=debug"], own_session=True)
        )
        self._prometheus = [
            stack.enter_context(running_prometheus(name, self._exporter, directory)) for name in ("one", "two")
        ]
        self._clients = LeavingClients(self._exporter.url, schedule, random, refs=refs)
        self._watch = Watch(self._exporter)
        # Of the wall clock, as Prometheus counts.
        self._started = self._ended = time.time()
        # Of the monotonic clock, as what the process uses.
        self._warm_from = self._worked_until = time.monotonic()

    def run(self, seconds: float) -> None:
        """Work for this long or until Ctrl-C, then wait until everything has settled."""
        self._started = time.time()
        self._warm_from = time.monotonic() + max(WARM_UP, SHARE_OF_WARM_UP * seconds)
        self._uploads.start()
        self._demo.start()
        self._faults.start()
        self._reloads.start(self._exporter.program)
        self._clients.start()
        self._schedule.every(SECONDS_BETWEEN_SPOILED_FILES, self._files.spoil)
        self._keep_watch(self._schedule)
        try:
            self._schedule.run_for(seconds)
        except KeyboardInterrupt:
            self._report("Interrupted: these are the verdicts so far.")
        self._faults.stop()
        self._worked_until = time.monotonic()
        # Another schedule, so that the batches stay as they are.
        calm = Schedule()
        self._keep_watch(calm)
        # Not at once: two signals at the same moment are one.
        calm.after(SECONDS_BETWEEN_RELOADS, lambda: self._reloads.end_well(self._exporter.program))
        calm.run_for(CALM)
        self._demo.stop()
        self._history.end()
        self._ended = time.time()

    def _keep_watch(self, schedule: Schedule) -> None:
        schedule.every(SCRAPE_INTERVAL, self._watch.look)
        schedule.every(PROGRESS_INTERVAL, self._print_progress)

    def _print_progress(self) -> None:
        scrapes = sum(each.value("sum(count_over_time(up[1d]))") for each in self._prometheus)
        failed = sum(each.value("sum(count_over_time(up[1d]) - sum_over_time(up[1d]))") for each in self._prometheus)
        resident = self._watch.usages[-1].resident_bytes / MEBIBYTE if self._watch.usages else 0.0
        self._report(
            f"{time.time() - self._started:5.0f} s  {self._uploads.count + self._demo.count:5} uploads  "
            f"{self._history.transitions:6} transitions  {self._faults.count:3} faults  "
            f"{self._reloads.good + self._reloads.bad:4} reloads  {scrapes:5.0f} scrapes, {failed:.0f} failed  "
            f"RSS {resident:.1f} MiB"
        )

    def judge(self) -> list[Row]:
        """Compare what happened with what must hold. It ends the exporter."""
        usages = [each for each in self._watch.usages if self._warm_from <= each.moment <= self._worked_until]
        rows = judge_usage(usages)
        for prometheus in self._prometheus:
            rows += judge_stored(prometheus, self._history, self._faults.windows, self._started, self._ended)
        rows.append(
            Row(
                "/-/healthy answers within two seconds",
                f"{self._watch.health_asked} asked, {self._watch.health_failed} failed",
                holds=not self._watch.health_failed,
            )
        )
        return rows + judge_exporter(self._exporter.program, good=self._reloads.good, bad=self._reloads.bad)


def soak(seconds: float, report: Callable[[str], None]) -> list[Row]:
    """Run a soak and return what must hold. Nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="soak-") as directory, ExitStack() as stack:
        run = Soak(stack, Path(directory), report)
        run.run(seconds)
        return run.judge()
