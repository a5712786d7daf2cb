"""Look up known vulnerabilities of every locked package, and say what could not be looked up.

    python -m supply_chain.audit
    python -m supply_chain.audit --strict

pip-audit does the work. On its own it prints "No known vulnerabilities found" and ends with 0 even when its service
knew not one package, and without a network it ends as if it had found some. `make check` must work without a network,
but must not call safe what is unknown: so this counts what was looked up. With `--strict`, as in the workflow of
GitHub, what could not be looked up is a failure, too. A lock file that is broken, and pip-audit that is not there, are
always one.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# It holds all of the two other lock files: what is shipped, what builds it and what tests it.
LOCK_FILE = Path(__file__).parent.parent / "requirements-dev.txt"
# How the last line of pip-audit begins when its service did not answer, or with something else than an answer.
NO_ANSWER = re.compile(
    r"requests\.exceptions\.|pip_audit\._service\.interface\.|ERROR:pip_audit\._cli:Tip: your network may be blocking"
)


class AuditError(Exception):
    """Nothing was audited, and not for lack of a network; the text is what pip-audit said."""


class NoAnswerError(Exception):
    """The service that knows of vulnerabilities could not be asked; the text says why, in a line."""


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

    def fails(self, *, strict: bool) -> bool:
        """Tell whether the check fails; a strict one fails too where anything was not looked up."""
        has_packages = bool(self.audited or self.unknown)
        return not has_packages or bool(self.vulnerabilities) or (strict and bool(self.unknown))

    def __str__(self) -> str:
        lines = list(self.vulnerabilities)
        if not self.audited and not self.unknown:
            lines.append("NOT AUDITED: the lock file names no package.")
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
        NoAnswerError: There is no network, or the service does not answer as it should.
        AuditError: pip-audit gave no report for any other reason: it is not there, or the lock file is broken.

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
    # This reads the lock file and asks nobody. Without a network, the other one ends at the first package.
    _report([*command, "--dry-run"])
    return Audit.of(_report(command))


def _report(command: Sequence[str]) -> dict[str, Any]:
    run = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  Its arguments are ours.
    try:
        report: dict[str, Any] = json.loads(run.stdout)
    except json.JSONDecodeError:
        # After a traceback, the last line is the error.
        last_line = run.stderr.strip().rpartition("\n")[2]
        if NO_ANSWER.match(last_line):
            raise NoAnswerError(last_line) from None
        raise AuditError(run.stderr.strip()) from None
    return report


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command, and return its exit status."""
    parser = argparse.ArgumentParser(prog="supply_chain.audit", description="Look up known vulnerabilities.")
    parser.add_argument("--strict", action="store_true", help="fail if a package could not be looked up")
    strict = parser.parse_args(argv).strict
    try:
        result = audit([sys.executable, "-m", "pip_audit"], LOCK_FILE)
    except NoAnswerError as error:
        print(f"NOT AUDITED: pip-audit gave no report. {error}")  # noqa: T201  The output of the command.
        return int(strict)
    except AuditError as error:
        print(f"NOT AUDITED: pip-audit gave no report, and not for lack of a network.\n{error}", file=sys.stderr)  # noqa: T201  Likewise.
        return 1
    print(result)  # noqa: T201  Likewise.
    return int(result.fails(strict=strict))


if __name__ == "__main__":
    sys.exit(main())
