"""Reads error logs, each in a child process of its own."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import sitecore_cdp_exporter
from sitecore_cdp_exporter.api import error_log_child
from sitecore_cdp_exporter.api.error_log import BOUNDS, ErrorLog, LogFailure, LogReading, RecordCause
from sitecore_cdp_exporter.api.error_log_url import LogUrl
from sitecore_cdp_exporter.api.errors import LogReason, Reason
from sitecore_cdp_exporter.api.failures import ProxyError
from sitecore_cdp_exporter.api.route import find_proxy
from sitecore_cdp_exporter.api.tls import storage_ca_files
from sitecore_cdp_exporter.config.model import ApiConfig, ErrorLogs
from sitecore_cdp_exporter.config.values import is_loopback

if TYPE_CHECKING:
    from sitecore_cdp_exporter.api.error_log_child import Job

logger = logging.getLogger(__name__)

# A child ends by itself before that, unless the machine is overloaded.
MAX_SECONDS = error_log_child.MAX_SECONDS + 15
# How Python finds its libraries, and where it keeps compiled modules. The credentials stay with the parent.
_INHERITED = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX")


class ErrorLogReader:
    """Reads error logs of one API.

    Args:
        api: How the API is reached; its proxy and `ca_file` count here, too.
        config: Which logs may be read.
        environ: Where a proxy is looked up.

    """

    def __init__(self, api: ApiConfig, config: ErrorLogs, environ: Mapping[str, str]) -> None:
        self._api = api
        self._config = config
        self._environ = environ
        self._lock = threading.Lock()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def read(self, url: LogUrl, seconds: float = error_log_child.MAX_SECONDS) -> LogReading | None:
        """Read an error log, within two minutes and so many seconds of processor time. None: `stop` ended it."""
        if not url.may_be_used(self._config.hosts, self._api.base_url):
            return LogReading(LogReason.HOST_NOT_ALLOWED)
        is_local = is_loopback(url.host)
        try:
            # What is on this machine needs no proxy.
            proxy = None if is_local else find_proxy(self._api, self._environ, url.text)
        except ProxyError:
            return LogReading(Reason.CONNECTION)
        job: Job = {
            "url": url.text,
            "is_local": is_local,
            "proxy": None
            if proxy is None
            else (proxy.server.scheme, proxy.server.host, proxy.server.port, proxy.authorization),
            "ca_files": storage_ca_files(self._api.tls_config),
            "seconds": seconds,
        }
        started = time.monotonic()
        output = self._run(json.dumps(job).encode())
        with self._lock:
            if self._stopped:
                return None
        if output:
            return _reading_of(output)
        # It has used all that there was, as far as anybody knows.
        return LogReading(Reason.INTERNAL, BOUNDS.packed, time.monotonic() - started)

    def stop(self) -> None:
        """End the reading under way, and begin no other."""
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.kill()

    def _run(self, job: bytes) -> bytes:
        """Return what a child has to say; nothing if it cannot be started or has to be ended."""
        with self._lock:
            if self._stopped:
                return b""
            try:
                child = _start_child()
            except OSError as error:
                logger.error("no error log can be read: no process can be started: %s", error.strerror)  # noqa: TRY400
                return b""
            self._children.add(child)
        try:
            return child.communicate(job, timeout=MAX_SECONDS)[0]
        except (subprocess.TimeoutExpired, BrokenPipeError):
            return b""
        finally:
            with self._lock:
                self._children.discard(child)
            child.kill()
            child.communicate()


def _start_child() -> "subprocess.Popen[bytes]":
    environ = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    places = [f"{Path(sitecore_cdp_exporter.__file__).parents[1]}", *filter(None, sys.path)]
    environ["PYTHONPATH"] = os.pathsep.join(places)
    return subprocess.Popen(  # noqa: S603  All of it is ours.
        # The URL is a secret, so it is no argument. -P: nothing is imported from the working directory.
        [sys.executable, "-P", "-m", error_log_child.__name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # What it says when it fails may quote the log.
        stderr=subprocess.DEVNULL,
        env=environ,
    )


def _reading_of(output: bytes) -> LogReading:
    result = json.loads(output)
    log: ErrorLog | LogFailure
    if "reason" in result:
        reason = result["reason"]
        log = LogReason(reason) if reason in set(LogReason) else Reason(reason)
    else:
        log = ErrorLog(
            {RecordCause(cause): count for cause, count in result["records"].items()}, truncated=result["truncated"]
        )
    return LogReading(log, result["received"], result["seconds"])
