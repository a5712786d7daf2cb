"""Looking up host names within a deadline."""

import socket
import threading
from concurrent.futures import Future
from typing import Any, TypeAlias

from sitecore_cdp_exporter.api.deadline import Deadline

# What socket.getaddrinfo returns: family, type, protocol, canonical name, address.
AddressInfo: TypeAlias = tuple[Any, ...]


class Resolver:
    """Looks up host names on threads that can be left behind, since getaddrinfo cannot be interrupted.

    Callers that ask for the same name share one look-up, so a resolver that hangs holds one thread, not one a request.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lookups: dict[tuple[str, int], Future[list[AddressInfo]]] = {}

    def resolve(self, host: str, port: int, deadline: Deadline) -> list[AddressInfo]:
        """Return what getaddrinfo returns; raise socket.gaierror, or TimeoutError at the deadline."""
        with self._lock:
            lookup = self._lookups.get((host, port))
            if lookup is None:
                lookup = Future()
                # Remember the look-up only once its thread runs: starting a thread may fail.
                threading.Thread(target=self._look_up, args=(host, port, lookup), name="resolver", daemon=True).start()
                self._lookups[host, port] = lookup
        return lookup.result(deadline.left())

    def _look_up(self, host: str, port: int, lookup: Future[list[AddressInfo]]) -> None:
        try:
            try:
                found = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
            finally:
                # Before anybody has the answer: whoever asks after that gets a new one.
                with self._lock:
                    del self._lookups[host, port]
        except OSError as error:
            lookup.set_exception(error)
        except UnicodeError:
            lookup.set_exception(socket.gaierror(socket.EAI_NONAME, "no host can have this name"))
        else:
            lookup.set_result(found)
