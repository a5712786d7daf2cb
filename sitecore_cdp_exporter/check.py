"""`--config.check`: print what would be watched, or all mistakes."""

import io
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from sitecore_cdp_exporter.api.credentials import credential_sources
from sitecore_cdp_exporter.config.errors import one_line
from sitecore_cdp_exporter.config.model import Config, ConfigError, load_config
from sitecore_cdp_exporter.missing import find_missing_inputs
from sitecore_cdp_exporter.output import print_errors
from sitecore_cdp_exporter.poll.acceptance import NewestAccepted
from sitecore_cdp_exporter.poll.due import next_due
from sitecore_cdp_exporter.watch.batch_files import BatchFiles
from sitecore_cdp_exporter.watch.watchlist import watch
from sitecore_cdp_exporter.web.security.file import load_web_config


def check(path: Path, web_config: Path | None) -> int:
    """Print what the config would watch, or all mistakes in it and in the files that it names.

    Errors are printed as `file:line: ...`, so that editors and CI can link to them. Missing secrets and batch files are
    warnings, because they may appear before the exporter starts.

    Returns:
        The exit status: 0 or 1.

    """
    with _printing():
        config, errors = _load(path, web_config)
        batch_files = BatchFiles(() if config is None else config.batch_files, path.parent)
        batch_files.refresh()
        errors += batch_files.problems
        if config is None or errors:
            print_errors(*errors)
            return 1
        for warning in (*(f"{path}: {each}" for each in find_missing_inputs(config)), *batch_files.conflicts):
            print_errors(one_line(f"warning: {warning}"))
        try:
            _print_watched(path, config, batch_files)
        except OSError as error:
            # Close it: it still has buffered output, and would retry at exit.
            with suppress(OSError):
                sys.stdout.close()
            print_errors(f"{path} is valid, but the output cannot be written: {error.strerror}")
            return 1
    return 0


def missing_config(path: Path | None) -> list[str]:
    """Return a hint if the config file does not exist, otherwise nothing."""
    try:
        if path is not None:
            path.stat()
    except FileNotFoundError as error:
        remedy = "name yours with --config.file, with make by CONFIG=PATH, or try --demo, which needs none"
        return [f"{path}: {error.strerror}; {remedy}"]
    except OSError:
        pass  # Reading it will report the error.
    return []


@contextmanager
def _printing() -> Iterator[None]:
    """Print in any encoding, without log lines in between, and let a reader such as head end the command quietly."""
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    logging.disable()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
        signal.signal(signal.SIGPIPE, before)


def _load(path: Path, web_config: Path | None) -> tuple[Config | None, list[str]]:
    """Return the config, and the mistakes in it and in the web config."""
    config, errors = None, list[str]()
    try:
        config = load_config(path)
    except ConfigError as error:
        errors += missing_config(path) or error.errors
    try:
        if web_config is not None:
            load_web_config(web_config, files_may_be_missing=True)
    except ConfigError as error:
        errors += error.errors
    return config, errors


def _print_watched(path: Path, config: Config, batch_files: BatchFiles) -> None:
    watched = watch(config, batch_files.batches.values(), ())
    discovered = ", and what discovery finds" if config.discovery.enabled else ""
    print(f"{path} is valid. Batches of {config.api.base_url} that would be watched: {len(watched)}{discovered}")  # noqa: T201  The output of the command. So too below.
    sources = credential_sources(config.api.basic_auth, os.environ)
    print("Credentials:", one_line(", ".join(sources)) or "none")  # noqa: T201
    for batch in watched.values():
        labels = ({"feed": batch.feed} if batch.feed else {}) | dict(batch.labels)
        pairs = (f"{name}={json.dumps(value, ensure_ascii=False)}" for name, value in labels.items())
        print(batch.ref, *map(one_line, pairs))  # noqa: T201
    for feed in config.feeds:
        if (due := next_due(feed, NewestAccepted(), time.time())) is not None:
            zone = UTC if feed.expect_success_by is None else feed.expect_success_by.timezone
            moment = f"{datetime.fromtimestamp(due.accepted, zone):%a %Y-%m-%d %H:%M:%S %Z}"
            print(f"Feed {one_line(feed.name)} is due by {moment}, unless the API knows of an accepted batch")  # noqa: T201
    # stdout is None if the parent process has closed it.
    if sys.stdout is not None:
        sys.stdout.flush()
