"""Look up known vulnerabilities of every locked package, and say what could not be looked up.

    python -m supply_chain.audit
    python -m supply_chain.audit --strict

pip-audit does the work. On its own it prints "No known vulnerabilities found" and ends with 0 even when its service
knew not one package, and without a network it ends as if it had found some. `make check` must work without a network,
but must not call safe what is unknown: so this counts what was looked up. With `--strict`, as in the workflow of
GitHub, what could not be looked up is a failure, too.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# It holds all of the two other lock files: what is shipped, what builds it and what tests it.
LOCK_FILE = Path(__file__).parent.parent / "requirements-dev.txt"


@dataclass(frozen=True)
class Audit:
    """What pip-audit found.

    Attributes:
        audited: Names of the packages that were looked up.
        unknown: Names of those that were not, and why.
        vulnerabilities: One line for each, with package, version, identifier and the versions that fix it.

    """

    audited: Sequence[str]
    unknown: dict[str, str]
    vulnerabilities: Sequence[str]

    @classmethod
    def of(cls, report: dict[str, Any]) -> "Audit":
        """Read pip-audit's JSON."""
        packages = report["dependencies"]
        audited = [package for package in packages if "skip_reason" not in package]
        return cls(
            audited=[package["name"] for package in audited],
            unknown={package["name"]: package["skip_reason"] for package in packages if "skip_reason" in package},
            vulnerabilities=[_line(package, found) for package in audited for found in package["vulns"]],
        )

    def problem(self, *, strict: bool) -> bool:
        """Tell whether the check fails; a strict one fails too where anything, or all, was not looked up."""
        return bool(self.vulnerabilities) or (strict and (bool(self.unknown) or not self.audited))

    def __str__(self) -> str:
        lines = list(self.vulnerabilities)
        if self.unknown:
            some_reason = next(iter(self.unknown.values()))
            lines.append(f"NOT AUDITED: {len(self.unknown)} of {len(self.unknown) + len(self.audited)} packages.")
            lines.append(f"Nothing is known about them, good or bad. For instance: {some_reason}")
        if self.audited:
            lines.append(f"{len(self.vulnerabilities)} known vulnerabilities in {len(self.audited)} audited packages")
        return "\n".join(lines)


def _line(package: dict[str, Any], found: dict[str, Any]) -> str:
    fixed = ", ".join(found["fix_versions"]) or "no version yet"
    return f"{package['name']} {package['version']}: {found['id']}, fixed in {fixed}"


def audit(pip_audit: Sequence[str], lock_file: Path) -> Audit:
    """Run pip-audit on a lock file.

    Raises:
        subprocess.CalledProcessError: pip-audit gave no report, and its `stderr` says why: no network, a broken file.

    """
    command = [
        *pip_audit,
        f"--requirement={lock_file}",
        "--require-hashes",
        # The lock file is complete, so nothing is resolved or downloaded.
        "--disable-pip",
        "--format=json",
        "--desc=off",
        "--progress-spinner=off",
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  Its arguments are ours.
    try:
        report = json.loads(run.stdout)
    except json.JSONDecodeError:
        raise subprocess.CalledProcessError(run.returncode, command, run.stdout, run.stderr) from None
    return Audit.of(report)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(prog="supply_chain.audit", description="Look up known vulnerabilities.")
    parser.add_argument("--strict", action="store_true", help="fail if a package could not be looked up")
    strict = parser.parse_args(argv).strict
    try:
        result = audit([sys.executable, "-m", "pip_audit"], LOCK_FILE)
    except subprocess.CalledProcessError as error:
        # The last line is the error; before it comes where in pip-audit it was raised.
        reason = error.stderr.strip().rpartition("\n")[2]
        print(f"NOT AUDITED: pip-audit gave no report. {reason}")  # noqa: T201  The output of the command.
        return int(strict)
    print(result)  # noqa: T201  Likewise.
    return int(result.problem(strict=strict))


if __name__ == "__main__":
    sys.exit(main())
