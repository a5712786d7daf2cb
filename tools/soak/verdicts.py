"""What must hold after a soak, and whether it does."""

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from signal import SIGTERM
from subprocess import TimeoutExpired

from tools.process import MEBIBYTE, Usage
from tools.program import Program
from tools.soak.comparison import Comparison, Span, Verdict
from tools.soak.disturbances import MAX_CONCURRENCY, SECRETS
from tools.soak.prometheus import SCRAPE_INTERVAL, Prometheus
from tools.soak.uploads import FINISHED, History

# This many seconds after the warm-up are compared with as many at the end.
SECONDS_COMPARED = 10.0
MAX_EXIT_SECONDS = 30.0
MAX_EXAMPLES = 3
# With a scrape every second a poll has half a second, which is not always enough on a busy machine. In a short soak,
# FEW_LATE scrapes are more than this share.
MAX_LATE_SHARE = 0.02
FEW_LATE = 2
# How much more may be in use at the end. For threads, files and sockets the minimum counts, because momentary use comes
# and goes. Threads for scrapes are kept, as many as scrapes have ever overlapped: those of two Prometheus servers, and
# of clients that leave while a fault holds their poll. A leak at each poll would be a hundred a minute.
MORE_THREADS = 8
# Two may happen to be open whenever it is measured.
MORE_FILES = 2
# The connections to the API that are kept until the next reload.
MORE_SOCKETS = MAX_CONCURRENCY
# What Python's allocator takes in a longer run before it has room for each peak.
MORE_MEMORY = 10 * MEBIBYTE


@dataclass(frozen=True)
class Row:
    """One thing that must hold."""

    what: str
    measured: str
    holds: bool


def judge_usage(usages: Sequence[Usage]) -> list[Row]:
    """Compare resource usage after the warm-up with that at the end."""
    if not usages or usages[-1].moment - usages[0].moment < SECONDS_COMPARED:
        return [Row("resource use ends where it began", "it did not run long enough", holds=False)]
    began = [each for each in usages if each.moment <= usages[0].moment + SECONDS_COMPARED]
    ended = [each for each in usages if each.moment >= usages[-1].moment - SECONDS_COMPARED]

    def row(what: str, count: Callable[[Usage], int], allowance: int) -> Row:
        before, after, most = min(map(count, began)), min(map(count, ended)), max(map(count, usages))
        measured = f"at least {before} before, {after} after; at most {most}"
        return Row(
            f"{what}: at most {allowance} more than after the warm-up", measured, holds=after <= before + allowance
        )

    minutes = [(each.moment - usages[0].moment) / 60 for each in usages]
    slope = statistics.linear_regression(minutes, [each.resident_bytes / MEBIBYTE for each in usages]).slope
    before, after = (statistics.median(each.resident_bytes for each in some) for some in (began, ended))
    return [
        Row(
            f"resident memory: at most {MORE_MEMORY / MEBIBYTE:.0f} MiB more than after the warm-up",
            f"{before / MEBIBYTE:.1f} MiB before, {after / MEBIBYTE:.1f} after; {slope:+.2f} MiB a minute",
            holds=after <= before + MORE_MEMORY,
        ),
        row("threads", lambda each: each.threads, MORE_THREADS),
        row("open files", lambda each: each.files - each.sockets, MORE_FILES),
        row("open sockets", lambda each: each.sockets, MORE_SOCKETS),
    ]


def judge_stored(
    prometheus: Prometheus, history: History, faults: Sequence[Span], started: float, ended: float
) -> list[Row]:
    """Compare what the batches did with what a Prometheus has stored."""
    stored = prometheus.stored(started, ended)
    comparison = Comparison(stored, faults, interval=SCRAPE_INTERVAL)
    lives = history.lives
    verdicts = comparison.count(lives)
    due = {life.ref for life in lives if life.status in FINISHED and comparison.must_be_stored(life)}
    counts = {key: count for key, count in history.counts.items() if key[0] in due}
    unfounded = comparison.unfounded(lives, FINISHED)
    outside = comparison.outside_of_faults
    late = sum(scrape.is_late for scrape in outside)
    missing = [
        f"{life.ref} {life.status} for {life.until - life.since:.1f} s, reasons {prometheus.reasons(life) or 'none'}"
        for life in comparison.missing(lives)
    ]
    failed = prometheus.failed_scrapes(started, ended)
    name = f"Prometheus {prometheus.name}"
    return [
        Row(f"{name}: every scrape succeeds", f"{len(stored.scrapes)} scrapes, {len(failed)} failed", holds=not failed),
        Row(
            f"{name}: every batch state that lasted longer than a scrape interval is stored",
            "; ".join(
                [
                    f"{len(lives)} states, {verdicts.total()} of them longer: {verdicts[Verdict.STORED]} stored",
                    f"not stored: {verdicts[Verdict.IN_A_FAULT]} {Verdict.IN_A_FAULT.value}",
                    f"{verdicts[Verdict.LATE]} {Verdict.LATE.value}",
                    f"{verdicts[Verdict.BETWEEN_SCRAPES]} {Verdict.BETWEEN_SCRAPES.value}",
                    f"{verdicts[Verdict.MISSING]} {Verdict.MISSING.value}{_examples(missing)}",
                ]
            ),
            holds=verdicts[Verdict.STORED] > 0 and not verdicts[Verdict.MISSING],
        ),
        Row(
            f"{name}: outside faults, at most {MAX_LATE_SHARE:.0%} or {FEW_LATE} scrapes missed their deadline",
            f"{len(outside)} scrapes, {late} of them",
            holds=late <= max(MAX_LATE_SHARE * len(outside), FEW_LATE),
        ),
        _all_right(f"{name}: the final counts match the API's", len(counts), comparison.wrong_counts(counts)),
        _all_right(
            f"{name}: no sample shows a state that a batch never had",
            sum(map(len, stored.statuses.values())),
            unfounded,
        ),
    ]


def judge_exporter(program: Program, *, good: int, bad: int) -> list[Row]:
    """Stop the exporter and check its log. `good` and `bad` are how many configs it had to load."""
    ran = program.process.poll() is None
    program.process.send_signal(SIGTERM)
    try:
        code = f"{program.process.wait(MAX_EXIT_SECONDS)}"
    except TimeoutExpired:
        code = "none"
    log = program.output()
    tracebacks = len(re.findall(r"Traceback|a bug in the exporter", log))
    secrets = sum(log.count(secret) for secret in SECRETS)
    reloads = log.count('msg="reloaded the config"')
    lines = f"{len(log.splitlines())} lines"
    return [
        Row(
            "every valid config is loaded, and no invalid one",
            f"{good} valid, {bad} invalid, {reloads} loaded",
            holds=reloads == good,
        ),
        Row(
            "the exporter runs until the end, and exits with 0 on SIGTERM",
            f"exit code {code}",
            holds=ran and code == "0",
        ),
        Row("its log has no traceback", f"{lines}, {tracebacks} found", holds=not tracebacks),
        Row("its log has no secret", f"{lines}, {secrets} found", holds=not secrets),
    ]


def _all_right(what: str, compared: int, wrong: Sequence[object]) -> Row:
    return Row(what, f"{compared} compared, {len(wrong)} wrong{_examples(wrong)}", holds=compared > 0 and not wrong)


def _examples(wrong: Sequence[object]) -> str:
    return f": {', '.join(map(str, wrong[:MAX_EXAMPLES]))}" if wrong else ""
