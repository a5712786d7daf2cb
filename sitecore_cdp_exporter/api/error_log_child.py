"""The child process that reads one error log: a job on standard input, and counts on standard output.

A separate process, so that a large log costs scrapes neither memory nor time, and the content of the log is gone when
it exits. It imports little, so it starts at once.
"""

import ipaddress
import json
import os
import resource
import ssl
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from http import HTTPStatus
from typing import TypedDict
from urllib.parse import urlsplit

from sitecore_cdp_exporter import __version__
from sitecore_cdp_exporter.api.connection import MAX_ERROR_BODY, Connection
from sitecore_cdp_exporter.api.deadline import Deadline
from sitecore_cdp_exporter.api.error_log import ErrorLog, LogFailure, NotAnErrorLogError, count_causes
from sitecore_cdp_exporter.api.errors import LogReason, PollError, Reason
from sitecore_cdp_exporter.api.failures import BadAnswerError, poll_error
from sitecore_cdp_exporter.api.resolver import AddressInfo, Resolver
from sitecore_cdp_exporter.api.server import Proxy, Server
from sitecore_cdp_exporter.api.trust import trusting

MAX_SECONDS = 120
# A firewall that drops packets must not hold up the logs of other storages.
MAX_SECONDS_TO_CONNECT = 10
# Networks that carry the addresses of IPv4 in those of IPv6 (RFC 6052), behind this many bits.
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")


_HEADERS = {
    "Accept": "*/*",
    # It is packed already, and what it is packed with is seen by itself.
    "Accept-Encoding": "identity",
    "Connection": "close",
    "User-Agent": f"sitecore-cdp-batch-exporter/{__version__}",
}


class Job(TypedDict):
    """What a child is to do.

    Attributes:
        url: The presigned URL, which the parent has checked.
        is_local: Whether that is on this machine, and may be.
        proxy: The scheme, host, port and Proxy-Authorization of what stands before it.
        ca_files: The files of the authorities to trust.
        seconds: The processor time that it may take.

    """

    url: str
    is_local: bool
    proxy: tuple[str, str, int, str | None] | None
    ca_files: list[str]
    seconds: float


class Result(TypedDict, total=False):
    """The result: counts, or the reason why there are none, and the cost.

    Attributes:
        records: How many records were rejected for each cause.
        truncated: Whether there was more.
        reason: Why it could not be read.
        received: How many bytes of it were received.
        seconds: Processor time.

    """

    records: dict[str, int]
    truncated: bool
    reason: str
    received: int
    seconds: float


class HostNotAllowedError(Exception):
    """A host has an address that no presigned URL may lead to."""


class GuardedResolver(Resolver):
    """Looks up hosts, and refuses those with an address that is not allowed.

    The connection is made to the addresses that were checked: another look-up could give others.
    """

    def __init__(self, is_allowed: Callable[[str], bool]) -> None:
        super().__init__()
        self._is_allowed = is_allowed

    def resolve(self, host: str, port: int, deadline: Deadline) -> list[AddressInfo]:
        """Return what getaddrinfo returns; raise HostNotAllowedError, socket.gaierror or TimeoutError."""
        found = super().resolve(host, port, deadline)
        if not all(self._is_allowed(address[0]) for *_, address in found):
            raise HostNotAllowedError
        return found


def is_public(address: str) -> bool:
    """Return whether an address is one of the public Internet, also where it stands in one of IPv6."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        carried = ip.ipv4_mapped or ip.sixtofour
        if ip in _TRANSLATED:
            carried = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if carried is not None:
            ip = carried
    return ip.is_global and not ip.is_multicast


def is_local(address: str) -> bool:
    """Return whether an address is this machine."""
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def read(job: Job, received: Callable[[int], object], seconds: float = MAX_SECONDS) -> ErrorLog | LogFailure:
    """Return the counts of a log, or why it cannot be read. `received` takes the sizes of its pieces."""
    deadline = Deadline(seconds)
    # What the process has done before is not part of the job.
    processor_deadline = time.process_time() + job["seconds"]
    try:
        context = trusting(job["ca_files"])
    except (OSError, ValueError):
        return Reason.TLS
    try:
        with closing(_connect(job, context)) as connection:
            parts = urlsplit(job["url"])
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            status, body = connection.download(target, _HEADERS, deadline)
            if status == HTTPStatus.OK:
                return count_causes(
                    _counted(body, received), check_time=lambda: _check_time(deadline, processor_deadline)
                )
            return LogReason.EXPIRED if _is_expired(status, body) else PollError.of_status(status).reason
    except HostNotAllowedError:
        return LogReason.HOST_NOT_ALLOWED
    except NotAnErrorLogError:
        return Reason.BAD_RESPONSE
    except (OSError, BadAnswerError) as error:
        return poll_error(error).reason


def _connect(job: Job, context: ssl.SSLContext) -> Connection:
    deadline = Deadline(MAX_SECONDS_TO_CONNECT)
    server = Server.of(job["url"])
    if job["proxy"] is not None:
        # It is the proxy that looks up the host.
        scheme, host, port, authorization = job["proxy"]
        proxy = Proxy(Server(scheme, host, port), authorization)
        return Connection(server, proxy, Resolver(), context, deadline)
    resolver = GuardedResolver(is_local if job["is_local"] else is_public)
    return Connection(server, None, resolver, context, deadline)


def _check_time(deadline: Deadline, processor_deadline: float) -> None:
    deadline.left()
    if time.process_time() >= processor_deadline:
        raise TimeoutError


def _counted(body: Iterable[bytes], received: Callable[[int], object]) -> Iterator[bytes]:
    for piece in body:
        received(len(piece))
        yield piece


def _is_expired(status: int, body: Iterator[bytes]) -> bool:
    """Return whether the storage refuses a URL because it is too old, by what S3 says then."""
    if status not in {HTTPStatus.FORBIDDEN, HTTPStatus.BAD_REQUEST}:
        return False
    text = b""
    with suppress(OSError, BadAnswerError):
        for piece in body:
            text += piece
            if len(text) > MAX_ERROR_BODY:
                break
    return b"Request has expired" in text or b"<Code>ExpiredToken</Code>" in text


def main() -> None:
    """Do the job on standard input, and write its result to standard output."""
    # A scrape comes first.
    with suppress(OSError):
        os.nice(10)
    received: list[int] = []
    result: Result = {}
    try:
        outcome = read(json.load(sys.stdin), received.append)
    except Exception:  # noqa: BLE001  Its text may quote the log.
        outcome = Reason.INTERNAL
    if isinstance(outcome, ErrorLog):
        result = {"records": {f"{cause}": count for cause, count in outcome.records.items()}}
        result["truncated"] = outcome.truncated
    else:
        result["reason"] = outcome.value
    usage = resource.getrusage(resource.RUSAGE_SELF)
    result |= {"received": sum(received), "seconds": usage.ru_utime + usage.ru_stime}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
