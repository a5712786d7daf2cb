"""Make the virtual environment of the Makefile, with exactly what the lock files name.

    python3 tools/environment.py .venv requirements.txt [requirements-dev.txt]

It runs before anything is installed, so it imports the standard library only.

A stamp inside the environment says where it stands, which Python made it and what was installed. While the environment
changes there is no stamp. So one that was interrupted, moved, made by another tool or another Python, or installed from
other lock files is recognized, and recreated.
"""

import fcntl
import hashlib
import importlib.util
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).absolute().parent.parent
RUNTIME, DEVELOPMENT, PROJECT = "requirements.txt", "requirements-dev.txt", "pyproject.toml"
# What pip downloads, in MB. Only shown to the user, to estimate the wait.
DOWNLOADS = {RUNTIME: 8, DEVELOPMENT: 110}
STAMP = ".installed.json"
# What `python -m venv` writes. A folder that holds anything else and no pyvenv.cfg is not ours to clear.
WRITTEN_BY_VENV = {"bin", "include", "lib", "lib64", "pyvenv.cfg", ".gitignore"}


class InstallError(Exception):
    """The environment cannot be made. The text says why, in one line."""


@dataclass(frozen=True)
class Step:
    """One call of pip. It is skipped where the stamp has its name and digest."""

    name: str
    digest: str
    description: str
    arguments: Sequence[str]


def steps(locks: Sequence[Path]) -> list[Step]:
    """List what an environment of these lock files needs; with that of the tests, the project itself, too."""
    result = []
    names: set[str] = set()
    for lock in locks:
        text = lock.read_text(encoding="utf-8")
        more = set(re.findall(r"(?m)^([\w.-]+)==", text)) - names
        names |= more
        size = f", up to {DOWNLOADS[lock.name]} MB to download" if lock.name in DOWNLOADS else ""
        result.append(
            Step(
                name=lock.name,
                digest=_digest(text),
                description=f"{len(more)} packages of {lock.name}{size}",
                # The lock file is complete. A resolver would only look for newer releases of what it names with extras.
                arguments=["--no-deps", "--require-hashes", "--requirement", str(lock)],
            )
        )
    if DEVELOPMENT in (lock.name for lock in locks):
        digest = _digest((ROOT / PROJECT).read_text(encoding="utf-8"))
        result.append(
            Step(PROJECT, digest, "the project itself", ["--no-deps", "--no-build-isolation", "--editable", str(ROOT)])
        )
    return result


def prepare(venv: Path, wanted: Sequence[Step]) -> None:
    """Run the missing steps; first create the environment, or recreate it if its stamp does not match.

    Raises:
        InstallError: Something is missing, in the way, or failed.

    """
    identity = {"path": str(venv), "python": sys.version, "prefix": sys.base_prefix}
    digests = _installed(venv, identity)
    # What an older lock file named would stay. An editable project is replaced as a whole.
    if any(digests.get(step.name, step.digest) != step.digest for step in wanted if step.name != PROJECT):
        digests = {}
    missing = [step for step in wanted if digests.get(step.name) != step.digest]
    if not missing:
        return
    numbers = itertools.count(1)
    total = len(missing) + (not digests)
    if digests:
        (venv / STAMP).unlink()
    else:
        _say(f"[{next(numbers)}/{total}] Making {venv.name} with Python {sys.version.split()[0]}")
        _make(venv)
    for step in missing:
        _say(f"[{next(numbers)}/{total}] Installing {step.description}")
        # pip's retries on a failing network are worth seeing.
        _pip(venv, "install", "--quiet", *step.arguments, show=True)
    _pip(venv, "check", show=False)
    digests |= {step.name: step.digest for step in missing}
    (venv / STAMP).write_text(json.dumps({**identity, "installed": digests}), encoding="utf-8")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _installed(venv: Path, identity: dict[str, str]) -> dict[str, str]:
    """Return name and digest of what is installed; nothing if the environment is not the one to be used."""
    try:
        stamp = json.loads((venv / STAMP).read_text(encoding="utf-8"))
        installed: dict[str, str] = stamp.pop("installed")
    except (OSError, ValueError, KeyError):
        return {}
    return installed if stamp == identity and (venv / "bin" / "python").exists() else {}


def _make(venv: Path) -> None:
    if missing := [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]:
        raise InstallError(
            f"{sys.executable} has no {' and no '.join(missing)}; on Debian and Ubuntu: "
            f"sudo apt install python3-venv (or python{sys.version_info.major}.{sys.version_info.minor}-venv)"
        )
    try:
        found = {path.name for path in venv.iterdir()}
    except FileNotFoundError:
        found = set()
    except OSError as error:
        raise InstallError(f"{venv}: {error.strerror}; remove it") from None
    if "pyvenv.cfg" not in found and not found <= WRITTEN_BY_VENV:
        raise InstallError(f"{venv} is there and is no virtual environment; remove it, or name another: make VENV=...")
    _run([sys.executable, "-m", "venv", "--clear", str(venv)], show=False)


def _pip(venv: Path, *arguments: str, show: bool) -> None:
    _run([str(venv / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments], show=show)


def _run(command: Sequence[str], *, show: bool) -> None:
    """Run a program, and show its output at once, or only if it fails."""
    output = None if show else subprocess.PIPE
    run = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, text=True, check=False)  # noqa: S603  It is ours.
    if run.returncode != 0:
        sys.stderr.write(run.stdout or "")
        raise InstallError(f"{shlex.join(command)} failed, see above")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    # Resolved, because .venv may be a link to another disk, in which `python -m venv` makes nothing.
    venv, *locks = (Path(argument).resolve() for argument in arguments)
    venv.parent.mkdir(parents=True, exist_ok=True)
    # Two terminals may run make in the same folder at once. A lock of the folder itself leaves no file behind.
    folder = os.open(venv.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        prepare(venv, steps(locks))
    except InstallError as error:
        _say(f"make: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        os.close(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
