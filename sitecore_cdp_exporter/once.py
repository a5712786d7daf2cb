"""`--once`: poll what is watched, or the batches that are named, print a report, and end."""

import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from sitecore_cdp_exporter.api.client import BatchApi
from sitecore_cdp_exporter.api.errors import REFUSALS, Reason
from sitecore_cdp_exporter.config.errors import one_line
from sitecore_cdp_exporter.config.model import Config, Discovery, WatchedBatch, load_config
from sitecore_cdp_exporter.missing import find_missing_inputs
from sitecore_cdp_exporter.output import print_errors, print_text
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.poll.snapshot import BatchState, Snapshot
from sitecore_cdp_exporter.report import (
    ExitStatus,
    Outcome,
    exit_status,
    outcome_of,
    render_json,
    render_table,
    summary,
)
from sitecore_cdp_exporter.watch.batch_files import BatchFiles
from sitecore_cdp_exporter.watch.watchlist import watch

# Seconds. As long as the longest scrape.
MAX_POLL = 120.0
MAX_WAIT_FOR_LOGS = 60.0
PAUSE_BETWEEN_LOOKS_AT_LOGS = 0.1
# A batch takes minutes, a small one in the sandbox less than a second.
FIRST_PAUSE = 1.0
MAX_PAUSE = 15.0
# A batch may be requested just before it is allocated. After this long, its ref or the region is wrong.
MAX_WAIT_FOR_AN_ALLOCATION = 60.0
SETTLED = frozenset({Outcome.FAILED, Outcome.SUPERSEDED, Outcome.ACCEPTED})


def once(config: Path | Config, refs: Sequence[str], *, wait: float, output: str) -> int:
    """Poll once, or until all batches shown are finished, and print the report.

    Args:
        config: The config file, or a config.
        refs: The batches to show; none: all that are watched.
        wait: How long to wait for batches to finish, in seconds.
        output: `table` or `json`.

    Returns:
        The exit status of the report.

    Raises:
        ConfigError: The config file cannot be used.

    """
    directory = config.parent if isinstance(config, Path) else Path()
    config = load_config(config) if isinstance(config, Path) else config
    files = _read_batch_files(config, directory)
    problems = files.problems
    if not (refs or config.batches or files.batches or config.discovery.enabled):
        problems.append("nothing is watched: list batches in the config, or name their refs")
    if shown := [*problems, *(f"warning: {each}" for each in find_missing_inputs(config))]:
        print_errors(*map(one_line, shown))
    if refs:
        config, files = only(config, files.batches, refs), BatchFiles((), directory)
    # Finished batches need no re-check, whatever the config says.
    config = config.model_copy(update={"recheck_finished": 24 * 3600.0})
    with closing(BatchApi(config.api, lambda *_: None, error_logs=config.error_logs)) as api:
        polls = Polls(poller=Poller(api, config, files), progress=_print_progress if _is_terminal() else lambda _: None)
        snapshot = polls.run(wait, timeout=config.api.timeout, are_logs_read=config.error_logs.enabled)
    status = exit_status(snapshot, are_lists_good=bool(refs) or not problems)
    text = render_json(snapshot, status) if output == "json" else render_table(snapshot, time.time())
    return status if print_text(text) else ExitStatus.UNUSABLE


def only(config: Config, of_files: Mapping[str, WatchedBatch], refs: Sequence[str]) -> Config:
    """Return a config that watches these batches alone, with the feeds and labels that they are listed with."""
    watched = watch(config, of_files.values(), refs)
    batches = tuple(
        WatchedBatch(ref=each.ref, feed=each.feed, labels=each.labels, replaces=tuple(each.replaces))
        for each in (watched[key] for key in dict.fromkeys(map(str.lower, refs)))
    )
    return config.model_copy(update={"batches": batches, "batch_files": (), "discovery": Discovery()})


@dataclass(frozen=True, kw_only=True)
class Polls:
    """The polls of one `--once`.

    Attributes:
        poller: Polls the API.
        progress: Called with each new summary.
        clock: A monotonic clock, in seconds: that of the poller.
        sleep: Sleeps for this many seconds.

    """

    poller: Poller
    progress: Callable[[str], object]
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep

    def run(self, wait: float, *, timeout: float, are_logs_read: bool) -> Snapshot:
        """Poll, and return the last snapshot.

        Args:
            wait: How long to wait for batches to finish, in seconds; 0: poll once.
            timeout: How long one request may take. The last poll has that long, whatever is left of the wait.
            are_logs_read: Whether error logs are read, so worth waiting for.

        """
        snapshot = self._poll(wait, timeout)
        return self._with_logs(snapshot, timeout) if are_logs_read else snapshot

    def _poll(self, wait: float, timeout: float) -> Snapshot:
        """Poll until waiting longer can change nothing, or the wait is over."""
        began = self.clock()
        snapshot = self.poller.poll(began + MAX_POLL)
        pause, shown = FIRST_PAUSE, ""
        while (left := began + wait - self.clock()) > 0:
            if (line := summary(snapshot)) != shown:
                self.progress(line)
                shown = line
            if is_final(snapshot, allocated=self.clock() - began >= MAX_WAIT_FOR_AN_ALLOCATION):
                break
            self.sleep(min(pause, left))
            pause = min(pause * 1.5, MAX_PAUSE)
            now = self.clock()
            snapshot = self.poller.poll(now + min(MAX_POLL, max(began + wait - now, timeout)))
        return snapshot

    def _with_logs(self, snapshot: Snapshot, timeout: float) -> Snapshot:
        """Wait until the error logs are read, a minute at most. The poll has started reading them in the background."""
        give_up = self.clock() + MAX_WAIT_FOR_LOGS
        states = list(snapshot.batches)
        while (awaited := [place for place, state in enumerate(states) if is_log_awaited(state)]) and (
            self.clock() < give_up
        ):
            self.sleep(PAUSE_BETWEEN_LOOKS_AT_LOGS)
            for place in awaited:
                # A finished batch is not requested again, so this only reads the memory.
                [states[place]] = self.poller.probe(states[place].watched.ref, self.clock() + timeout).batches
        return replace(snapshot, batches=tuple(states))


def is_final(snapshot: Snapshot, *, allocated: bool) -> bool:
    """Return whether waiting longer can change nothing.

    Args:
        snapshot: What was found last.
        allocated: Whether a batch that is still unknown will stay so.

    """
    if snapshot.api_up is False and snapshot.api_failure in REFUSALS:
        return True
    discovery = snapshot.discovery
    # Items that cannot be read may stay in the list for a month.
    has_unreadable = discovery is not None and discovery.failure is Reason.BAD_RESPONSE and discovery.unreadable > 0
    if discovery is not None and discovery.failure is not None and not has_unreadable:
        return False
    final = {Reason.FORBIDDEN, Reason.NOT_FOUND} if allocated else {Reason.FORBIDDEN}
    return all(outcome_of(state) in SETTLED or state.failure in final for state in snapshot.batches)


def is_log_awaited(state: BatchState) -> bool:
    """Return whether a batch has an error log that may still be read."""
    return (
        state.reading is not None
        and state.reading.batch.status.finished
        and state.reading.batch.error_log_available is True
        and state.error_log is None
        and state.error_log_failure is None
    )


def _read_batch_files(config: Config, directory: Path) -> BatchFiles:
    files = BatchFiles(config.batch_files, directory)
    # Its problems are printed, not logged.
    logging.disable()
    files.refresh()
    logging.disable(logging.NOTSET)
    return files


def _is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _print_progress(line: str) -> None:
    print_errors(f"waiting: {line}")
