"""Faults of files: batch files, the config and the token change, break and vanish under the exporter."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import requests

from tools.exporter_program import API_TOKEN, CLIENT_KEY
from tools.faults.row import Row, command, expect, hold, require_root
from tools.faults.trial import (
    FINISHED,
    HEALTHY,
    NEIGHBOUR,
    REFS,
    SCRAPE_TIMEOUT,
    VICTIM,
    Scrape,
    Trial,
    all_fail,
    running_trial,
)
from tools.process import MEBIBYTE

RELOADED = "sitecore_cdp_exporter_config_last_reload_successful"
REWRITES = 200
# Threads stay for the next reload: of the pool of asyncio at most so many less one, and the one that serves /-/reload.
MAX_RELOAD_THREADS = min(32, (os.cpu_count() or 1) + 4) + 1
# The victim is listed by one file, its neighbour by another, the finished batch by the config.
VICTIMS_FILE, NEIGHBOURS_FILE = Path("batches.d", "a.yaml"), Path("batches.d", "b.yaml")
Spoil = Callable[[Path], object]


def replace(path: Path, content: bytes) -> None:
    """Write a file as it should be done: aside, then renamed."""
    aside = path.with_name(f".{path.name}")
    aside.write_bytes(content)
    aside.rename(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its files."""
    if path.is_dir():
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    else:
        path.unlink()


def write_half(path: Path) -> None:
    """Leave a half-written file."""
    path.write_text(f'- {NEIGHBOUR}\n- {{ref: "{VICTIM[:20]}', encoding="utf-8")


def become_loop(path: Path) -> None:
    """Put a symbolic link to itself in place of a file."""
    path.unlink()
    path.symlink_to(path.name)


def become_pipe(path: Path) -> None:
    """Put a named pipe that nobody writes to in place of a file."""
    path.unlink()
    os.mkfifo(path)


def become_dangling(path: Path) -> None:
    """Put a link to nowhere in place of a file."""
    path.unlink()
    path.symlink_to("nowhere")


@contextmanager
def listing_trial(directory: Path) -> Iterator[Trial]:
    """Run a healthy exporter, with a batch of each file and one of the config."""
    (directory / "batches.d").mkdir()
    for file, ref in ((VICTIMS_FILE, VICTIM), (NEIGHBOURS_FILE, NEIGHBOUR)):
        (directory / file).write_text(f"- {ref}\n", encoding="utf-8")
    with running_trial(directory, batches=[FINISHED], batch_files=["batches.d/*.yaml"]) as trial:
        yield trial


def file_error(scrape: Scrape, file: Path) -> float | None:
    """Return whether the scrape reports an error in a batch file; None if it does not know the file."""
    return scrape.value("sitecore_cdp_exporter_batch_file_error", file=str(file))


def spoils_batch_file(directory: Path, *, spoil: Spoil) -> str:
    """Break one of two batch files, and repair it."""
    with listing_trial(directory) as trial:
        path = directory / VICTIMS_FILE
        spoil(path)
        during = trial.expect(HEALTHY)
        expect("the error of the file", file_error(during, VICTIMS_FILE), 1)
        expect("the error of the other file", file_error(during, NEIGHBOURS_FILE), 0)
        replace(path, f"- {VICTIM}\n".encode())
        recovered = trial.recovered()
        expect("the error of the file afterwards", file_error(trial.scrape(), VICTIMS_FILE), 0)
        return f"{during}, error 1 for this file and 0 for the other; {recovered}, error 0"


def loses_batch_files(directory: Path, *, lose: Spoil, what: Path, left: tuple[str, ...]) -> str:
    """Let batch files vanish, and come back."""
    with listing_trial(directory) as trial:
        lose(directory / what)
        during = trial.expect(dict.fromkeys(left, "ok"))
        expect("the error of the file", file_error(during, VICTIMS_FILE), None)
        (directory / "batches.d").mkdir(exist_ok=True)
        for file, ref in ((VICTIMS_FILE, VICTIM), (NEIGHBOURS_FILE, NEIGHBOUR)):
            replace(directory / file, f"- {ref}\n".encode())
        return f"{during}; {trial.recovered()}"


def lists_bad_entries(directory: Path, *, entries: str) -> str:
    """List bad entries behind a good one."""
    with listing_trial(directory) as trial:
        replace(directory / VICTIMS_FILE, f"- {VICTIM}\n{entries}".encode())
        during = trial.expect(HEALTHY)
        expect("the error of the file", file_error(during, VICTIMS_FILE), 1)
        replace(directory / VICTIMS_FILE, f"- {VICTIM}\n".encode())
        return f"{during}, error 1; {trial.recovered()}"


def rewrites(trial: Trial, write: Callable[[int], object]) -> list[Scrape]:
    """Scrape without a pause while something is written many times."""

    def write_all() -> None:
        for number in range(REWRITES):
            write(number)
            time.sleep(0.01)

    writer = threading.Thread(target=write_all)
    scrapes = []
    writer.start()
    while writer.is_alive():
        scrapes.append(trial.scrape())
    writer.join()
    return scrapes


def rewrites_batch_file(directory: Path, *, write: Callable[[Path, bytes], object], always_complete: bool) -> str:
    """Rewrite a batch file continuously while it is read."""
    entries = [f"- {VICTIM}\n" + "# padding\n" * number for number in range(REWRITES)]
    with listing_trial(directory) as trial:
        scrapes = rewrites(trial, lambda number: write(directory / VICTIMS_FILE, entries[number].encode()))
        complete = sum(scrape.outcomes == HEALTHY for scrape in scrapes)
        hold("no scrape shows unknown batches", all({*scrape.outcomes} <= {*REFS} for scrape in scrapes))
        hold(f"{complete} of {len(scrapes)} scrapes are complete", complete == len(scrapes) or not always_complete)
        slowest = max(scrape.seconds for scrape in scrapes)
        return (
            f"{REWRITES} times under {len(scrapes)} scrapes, {complete} complete, "
            f"slowest {slowest:.2f} of {SCRAPE_TIMEOUT:g} s; {trial.recovered()}"
        )


@contextmanager
def spoiled(path: Path, spoil: Spoil) -> Iterator[None]:
    """Spoil a file for the block, then restore it and release whoever waits at a named pipe."""
    content = path.read_bytes()
    spoil(path)
    try:
        yield
    finally:
        with ExitStack() as stack:
            with suppress(OSError):
                stack.callback(os.close, os.open(path, os.O_WRONLY | os.O_NONBLOCK))
            replace(path, content)


def spoils_config(directory: Path, *, spoil: Spoil) -> str:
    """Break the config and reload it, then repair it and reload it again."""
    with running_trial(directory) as trial:
        with spoiled(directory / "config.yaml", spoil):
            trial.signal(signal.SIGHUP)
            trial.wait_for("the reload to fail", lambda: trial.scrape().value(RELOADED) == 0)
            during = trial.expect(HEALTHY)
        trial.signal(signal.SIGHUP)
        trial.wait_for("the reload to succeed", lambda: trial.scrape().value(RELOADED) == 1)
        return f"{during}, reload 0; then reload 1, {trial.recovered(kept_threads=1)}"


def spoils_watched_config(directory: Path, *, spoil: Spoil) -> str:
    """Spoil a config that is looked at by each scrape."""
    with running_trial(directory, flags=["--config.auto-reload"]) as trial:
        with spoiled(directory / "config.yaml", spoil):
            during = trial.expect(HEALTHY)
            expect(RELOADED, during.value(RELOADED), 0)
        return f"{during}, reload 0; {trial.recovered()}"


def rewrites_config(directory: Path) -> str:
    """Write the config in place, good, half and empty, while SIGHUPs and scrapes go on."""
    with running_trial(directory, flags=["--web.enable-lifecycle"]) as trial:
        config = directory / "config.yaml"
        content = config.read_bytes()
        contents = (content, content[: len(content) // 2], b"", content + b"\n")

        def write(number: int) -> None:
            config.write_bytes(contents[number % len(contents)])
            trial.signal(signal.SIGHUP)

        scrapes = rewrites(trial, write)
        hold("every scrape is complete", all(scrape.outcomes == HEALTHY for scrape in scrapes))
        failed = trial.logged("cannot reload the config")
        hold("some reloads failed", failed)
        # The SIGHUPs before may still be under way; this one comes after them.
        expect("the last reload", requests.post(f"{trial.exporter.url}/-/reload", timeout=60).status_code, 200)
        trial.wait_for("the reload to be reported", lambda: trial.scrape().value(RELOADED) == 1)
        recovered = trial.recovered(kept_threads=MAX_RELOAD_THREADS)
        return f"{REWRITES} times under {len(scrapes)} scrapes, each complete; {recovered}"


def spoils_token(directory: Path, *, spoil: Spoil) -> str:
    """Break the token file, and repair it."""
    token = directory / "token"
    token.write_text(f"{API_TOKEN}\n", encoding="utf-8")
    with running_trial(directory, api={"basic_auth": {"username": CLIENT_KEY, "password_file": "token"}}) as trial:
        spoil(token)
        trial.sandbox.clear_requests()
        during = trial.expect(all_fail("credentials"), up=0)
        expect("requests", len(trial.sandbox.requests), 0)
        replace(token, f"{API_TOKEN}\n".encode())
        return f"{during}, 0 requests; {trial.recovered()}"


def rotates_token(directory: Path) -> str:
    """Rotate the token at the API first, a scrape before the file."""
    token = directory / "token"
    token.write_text(f"{API_TOKEN}\n", encoding="utf-8")
    with running_trial(directory, api={"basic_auth": {"username": CLIENT_KEY, "password_file": "token"}}) as trial:
        for number in range(5):
            trial.sandbox.set_api_token(f"token-{number}")
            between = trial.scrape()
            expect("sitecore_cdp_up between", between.up, 0)
            replace(token, f"token-{number}\n".encode())
            trial.expect(HEALTHY)
        return f"5 times; between: {between}; {trial.recovered()}"


def fills_disk(directory: Path) -> str:
    """Fill the disk that the exporter logs to, and make room again."""
    require_root()
    command("mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", directory)
    with running_trial(directory, flags=["--log.level=debug"]) as trial:
        padding = directory / "padding"
        with padding.open("wb", buffering=0) as file:
            while True:
                try:
                    file.write(b"x" * 1024)
                except OSError:
                    break
        trial.sandbox.remove_batch(VICTIM)
        for _ in range(3):
            during = trial.expect(HEALTHY | {VICTIM: "not_found"})
        padding.unlink()
        trial.sandbox.put_batch(VICTIM, status="processing", total=7)
        return f"{during}; {trial.recovered()}"


HOLDS_FOR_SPOILED = (
    "Its last good content stays in use, its error gauge is 1, and other files and the config are unaffected."
)
HOLDS_FOR_LOST = "Its batches disappear, the others stay, and they return with the file."
HOLDS_FOR_CONFIG = "The last good config stays in use, the gauge shows the failure, and a good file is loaded again."
HOLDS_FOR_CREDENTIALS = (
    "The reason is `credentials` and no request is sent; a good file is enough to recover, without a restart."
)

SPOILED: tuple[tuple[str, Spoil], ...] = (
    ("half written", write_half),
    ("with bytes that are not UTF-8", lambda path: path.write_bytes(b"- \xff\xfe\x00\n")),
    ("of 11 MiB", lambda path: path.write_bytes(b"# padding\n" * (11 * MEBIBYTE // 10))),
    ("nested 10,000 deep", lambda path: path.write_bytes(b"[" * 10_000)),
    ("that is a symbolic link to itself", become_loop),
    ("that is a named pipe", become_pipe),
)

# Each line unfolds to ten times the one before.
LAUGHS = "- &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"- &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]\n" for number in range(1, 9)
)
BAD_ENTRIES: tuple[tuple[str, str], ...] = (
    ("an entry that is not a UUID and one with a typo in a key", f"- no UUID\n- {{ref: {NEIGHBOUR}, fed: x}}\n"),
    ("10,000 entries that are not UUIDs", "- no UUID\n" * 10_000),
    ("aliases that expand to a billion entries", LAUGHS),
)

SPOILED_CONFIGS: tuple[tuple[str, Spoil], ...] = (
    ("ends in the middle of a ref", lambda path: path.write_bytes(path.read_bytes()[:-10])),
    ("is gone", remove),
    ("is empty", lambda path: path.write_bytes(b"")),
    ("is a symbolic link to itself", become_loop),
    ("is a named pipe", become_pipe),
    ("is 20 MiB of random bytes", lambda path: path.write_bytes(os.urandom(20 * MEBIBYTE))),
)

SPOILED_TOKENS: tuple[tuple[str, Spoil], ...] = (
    ("is gone", remove),
    ("is empty", lambda path: path.write_bytes(b"")),
    ("has 20 MiB", lambda path: path.write_bytes(b"x" * 20 * MEBIBYTE)),
    ("is a named pipe", become_pipe),
    ("holds a line break and a header", lambda path: path.write_bytes(b"token\r\nX-Injected: 1\n")),
)

ROWS = (
    *(
        Row(fault=f"a batch file {name}", must_hold=HOLDS_FOR_SPOILED, attempt=partial(spoils_batch_file, spoil=spoil))
        for name, spoil in SPOILED
    ),
    *(
        Row(
            fault=f"a batch file with {name}",
            must_hold="The good entry is used, and the error gauge is 1.",
            attempt=partial(lists_bad_entries, entries=entries),
        )
        for name, entries in BAD_ENTRIES
    ),
    Row(
        fault="a batch file is removed",
        must_hold=HOLDS_FOR_LOST,
        attempt=partial(loses_batch_files, lose=remove, what=VICTIMS_FILE, left=(NEIGHBOUR, FINISHED)),
    ),
    Row(
        fault="a batch file is a link to nowhere",
        must_hold=HOLDS_FOR_LOST,
        attempt=partial(loses_batch_files, lose=become_dangling, what=VICTIMS_FILE, left=(NEIGHBOUR, FINISHED)),
    ),
    Row(
        fault="the folder of the batch files is removed",
        must_hold=HOLDS_FOR_LOST,
        attempt=partial(loses_batch_files, lose=remove, what=Path("batches.d"), left=(FINISHED,)),
    ),
    Row(
        fault=f"a batch file is replaced {REWRITES} times by renaming while it is read",
        must_hold="Every scrape is complete.",
        attempt=partial(rewrites_batch_file, write=replace, always_complete=True),
    ),
    Row(
        fault=f"a batch file is overwritten {REWRITES} times in place while it is read",
        must_hold="Every scrape is answered, and misses at most what was not in the file at that moment.",
        attempt=partial(rewrites_batch_file, write=Path.write_bytes, always_complete=False),
    ),
    *(
        Row(fault=f"the config {name}, {how}", must_hold=HOLDS_FOR_CONFIG, attempt=partial(attempt, spoil=spoil))
        for how, attempt, spoils in (
            ("and SIGHUP", spoils_config, SPOILED_CONFIGS),
            ("with --config.auto-reload", spoils_watched_config, SPOILED_CONFIGS[-2:]),
        )
        for name, spoil in spoils
    ),
    Row(
        fault=f"the config is overwritten {REWRITES} times in place under SIGHUPs",
        must_hold="Every scrape is complete, and the last config is in use.",
        attempt=rewrites_config,
    ),
    *(
        Row(
            fault=f"the token's file {name}",
            must_hold=HOLDS_FOR_CREDENTIALS,
            attempt=partial(spoils_token, spoil=spoil),
        )
        for name, spoil in SPOILED_TOKENS
    ),
    Row(
        fault="the token is rotated at the API a scrape before its file, five times",
        must_hold="`up` is 0 in between; the new file is enough to recover at once, without the minute's wait.",
        attempt=rotates_token,
    ),
    Row(
        fault="the disk that it logs to is full",
        must_hold="Every scrape is answered as usual.",
        attempt=fills_disk,
        isolated=True,
    ),
)
