"""Try every fault and write what was measured into docs/reliability.md.

    make faults

With words as arguments it tries only the rows that have one of them in their fault, and writes nothing.
"""

import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from sitecore_cdp_exporter import __version__
from tools.faults import certificates, clients, clocks, files, limits, names, network, signals, upstream
from tools.faults.row import Result, Row, Verdict

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
BEGIN, END = "<!-- begin: made by `make faults` -->\n", "<!-- end: made by `make faults` -->\n"
# A failure can bring along the log of a program.
MAX_CELL = 400

SUBJECTS: Mapping[str, Sequence[Row]] = {
    "The Batch API": upstream.ROWS,
    "The network": network.ROWS,
    "TLS to the API": certificates.ROWS,
    "DNS": names.ROWS,
    "Clocks": clocks.ROWS,
    "Files": files.ROWS,
    "Signals": signals.ROWS,
    "Clients": clients.ROWS,
    "Limits": limits.ROWS,
}


def main(words: Sequence[str], subjects: Mapping[str, Sequence[Row]] = SUBJECTS, document: Path = DOCUMENT) -> int:
    """Try the rows, print the result of each, and return the exit code: 1 if one has failed."""
    results: dict[str, list[Result]] = {}
    for subject, rows in subjects.items():
        for row in rows:
            if not words or any(word in row.fault for word in words):
                results.setdefault(subject, []).append(_run(subject, row))
    if not words:
        document.write_text(updated(document.read_text(encoding="utf-8"), results), encoding="utf-8")
    verdicts = [result.verdict for of_subject in results.values() for result in of_subject]
    print(_summary(verdicts))
    return int(not verdicts or Verdict.FAILED in verdicts)


def _run(subject: str, row: Row) -> Result:
    print(f"{subject}: {row.fault} ...", end=" ", flush=True)
    started = time.monotonic()
    result = row.run()
    print(f"{result.verdict} ({time.monotonic() - started:.1f} s): {result.measured}", flush=True)
    return result


def updated(text: str, results: Mapping[str, Sequence[Result]]) -> str:
    """Return the document with these results in place of those between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or not after:
        raise ValueError(f"{BEGIN.strip()} and {END.strip()} are missing")
    return f"{before}{BEGIN}\n{_tables(results)}\n{END}{after}"


def _tables(results: Mapping[str, Sequence[Result]]) -> str:
    sections = [_tried_on([result.verdict for of_subject in results.values() for result in of_subject])]
    for subject, of_subject in results.items():
        lines = ["| Fault | What must hold | Measured | Verdict |", "|---|---|---|---|"]
        lines += [_line(result) for result in of_subject]
        sections.append(f"### {subject}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(sections)


def _tried_on(verdicts: Sequence[Verdict]) -> str:
    return (
        f"{_summary(verdicts)} On {datetime.now(UTC):%Y-%m-%d}, with version {__version__}, "
        f"Python {platform.python_version()}, requests {version('requests')}, "
        f"{platform.system()} {platform.release().split('-')[0]} on {_processors()}.\n"
    )


def _processors() -> str:
    models = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return f"{len(models)} processors {models[0]}" if models else platform.machine()


def _cpuinfo() -> Iterable[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else ()


def _summary(verdicts: Sequence[Verdict]) -> str:
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict if verdict in verdicts)
    return f"{len(verdicts)} rows: {counts}."


def _line(result: Result) -> str:
    measured = result.measured.splitlines()[0][:MAX_CELL] if result.measured else ""
    cells = (result.row.fault, result.row.must_hold, measured, result.verdict)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
