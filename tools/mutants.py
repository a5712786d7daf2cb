"""Print the results of `make mutants` as the table of docs/testing.md."""

import json
from collections import Counter
from pathlib import Path

from mutmut.stats import status_by_exit_code

RESULTS = Path("mutants/sitecore_cdp_exporter")
KILLED = ("killed", "timeout")


def main() -> None:
    """Print a row for each module, and their sum."""
    modules = {
        path.relative_to(RESULTS).with_suffix("").as_posix(): Counter(
            status_by_exit_code[code]
            for code in json.loads(path.read_text())["exit_code_by_key"].values()
            # Of an interrupted run, only what was tried counts.
            if code is not None
        )
        for path in sorted(RESULTS.rglob("*.meta"))
    }
    print("| Module | Mutants | Killed | Survived | Score |\n|---|---|---|---|---|")
    for name, counts in [*modules.items(), ("all", sum(modules.values(), Counter[str]()))]:
        killed, total = sum(counts[status] for status in KILLED), counts.total()
        print(f"| {name} | {total} | {killed} | {total - killed} | {killed / max(total, 1):.1%} |")


if __name__ == "__main__":
    main()
