"""What requests came in, for tests to look at."""

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock

# The log is bounded, so that a sandbox that runs for weeks stays small.
MOST_ENTRIES = 20_000


@dataclass
class RequestLogEntry:
    """One request. `status` is None while it waits for its answer, and for ever when it got none.

    `time` is monotonic, of the request's arrival. `headers` are found whatever their case. `peer_port` is the
    client's TCP port: requests that have it in common shared a connection.
    """

    time: float
    method: str
    path: str
    query: str
    headers: Mapping[str, str] = field(repr=False)
    peer_port: int
    status: int | None = None


class RequestLog:
    """The latest requests, safe to use from several threads."""

    def __init__(self) -> None:
        self._entries: deque[RequestLogEntry] = deque(maxlen=MOST_ENTRIES)
        self._lock = Lock()

    def add(self, *, method: str, path: str, query: str, headers: Mapping[str, str], peer_port: int) -> RequestLogEntry:
        """Add a request that came in just now; its status is set on the entry later."""
        entry = RequestLogEntry(time.monotonic(), method, path, query, headers, peer_port)
        with self._lock:
            self._entries.append(entry)
        return entry

    def entries(self) -> list[RequestLogEntry]:
        """Give the entries so far, the oldest first."""
        with self._lock:
            return list(self._entries)

    def clear(self) -> None:
        """Forget all entries."""
        with self._lock:
            self._entries.clear()
