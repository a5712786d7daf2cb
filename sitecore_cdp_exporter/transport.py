"""The transport under `requests`: every request ends by its timeout, whatever the server or the resolver does.

`requests` bounds each socket operation, not the request: a server that sends one byte a second holds it for as long as
it likes, a host name with five dead addresses takes five timeouts, and nothing at all bounds the look-up of the name.
Here one deadline goes through look-up, connect, TLS handshake, headers and body. It comes from `Timeout(total=...)` of
urllib3, which the caller must pass.
"""

import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import allowed_gai_family

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from urllib3 import PoolManager

AddressInfo: TypeAlias = tuple[Any, ...]

# A socket timeout of 0 would mean not to wait at all, which is another error than a timeout.
_SHORTEST_TIMEOUT = 0.001


class ReusedConnectionClosedError(ConnectionResetError):
    """The server closed a kept-alive connection instead of answering the next request: worth one fresh connection."""


class Resolver:
    """Looks up host names on threads that can be left behind, since getaddrinfo can not be interrupted.

    Callers who ask for the same name share one look-up, so that a resolver that hangs holds one thread, not one for
    every request.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lookups: dict[tuple[str, int], Future[list[AddressInfo]]] = {}

    def resolve(self, host: str, port: int, timeout: float) -> list[AddressInfo]:
        """Return what getaddrinfo says, or raise what it raises, or TimeoutError after `timeout` seconds."""
        with self._lock:
            lookup = self._lookups.get((host, port))
            if lookup is None:
                lookup = self._lookups[host, port] = Future()
                threading.Thread(target=self._look_up, args=(host, port, lookup), name="resolver", daemon=True).start()
        return lookup.result(timeout)

    def _look_up(self, host: str, port: int, lookup: Future[list[AddressInfo]]) -> None:
        try:
            addresses = socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            lookup.set_exception(error)
        else:
            lookup.set_result(addresses)
        finally:
            with self._lock:
                del self._lookups[host, port]


class DeadlineAdapter(HTTPAdapter):
    """Sends requests over connections that keep their deadline.

    Args:
        pool_maxsize: How many idle connections are kept open.
        ssl_context: What to trust and what to present. It is made once, because requests would read the trusted
            certificates from disk again for each connection.

    """

    def __init__(self, *, pool_maxsize: int, ssl_context: ssl.SSLContext) -> None:
        self._ssl_context = ssl_context
        self._resolver = Resolver()
        super().__init__(pool_connections=1, pool_maxsize=pool_maxsize)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  The signature is that of requests.
        """Make the pool manager for direct connections."""
        super().init_poolmanager(*args, **kwargs, ssl_context=self._ssl_context)
        self._keep_deadlines(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  Likewise.
        """Make the pool manager for connections by a proxy."""
        manager = super().proxy_manager_for(
            *args, **kwargs, ssl_context=self._ssl_context, proxy_ssl_context=self._ssl_context
        )
        self._keep_deadlines(manager)
        return manager

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:  # noqa: ANN401  Likewise.
        """Leave the connection alone: the SSL context knows whom to trust and what to present."""

    def _keep_deadlines(self, manager: "PoolManager") -> None:
        # urllib3 documents these classes as replaceable; any callable that makes a pool serves.
        manager.pool_classes_by_scheme = {"http": self._http_pool, "https": self._https_pool}  # type: ignore[dict-item]

    def _http_pool(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:  # noqa: ANN401  Passed on as they come.
        return self._with(DeadlineHTTPConnection, HTTPConnectionPool(*args, **kwargs))

    def _https_pool(self, *args: Any, **kwargs: Any) -> HTTPConnectionPool:  # noqa: ANN401  Passed on as they come.
        return self._with(DeadlineHTTPSConnection, HTTPSConnectionPool(*args, **kwargs))

    def _with(self, connection: type[HTTPConnection], pool: HTTPConnectionPool) -> HTTPConnectionPool:
        pool.ConnectionCls = connection
        pool.conn_kw["resolver"] = self._resolver
        return pool


class _DeadlineReader(io.RawIOBase):
    """The bytes that a socket receives until the deadline; each read waits no longer than what is left."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int | None:
        remaining = self._deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("the deadline has passed")
        self._socket.settimeout(remaining)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _DeadlineResponse(http.client.HTTPResponse):
    """A reply whose status line, headers and body arrive within the timeout that the socket has now."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  As in http.client.
        super().__init__(sock, *args, **kwargs)
        timeout = sock.gettimeout()
        if timeout is not None:
            self.fp.close()
            self.fp = io.BufferedReader(_DeadlineReader(sock, time.monotonic() + timeout))


class _DeadlineConnection(HTTPConnection):
    """What plain and TLS connections have in common."""

    response_class = _DeadlineResponse

    def __init__(self, *args: Any, resolver: Resolver, **kwargs: Any) -> None:  # noqa: ANN401  As in urllib3.
        super().__init__(*args, **kwargs)
        self._resolver = resolver
        self._replies = 0

    def _new_conn(self) -> socket.socket:
        """Look up and connect within `self.timeout` seconds in all; the socket's timeout becomes what is left."""
        if self.timeout is None:
            raise ValueError("a request without a timeout has no deadline")
        deadline = time.monotonic() + self.timeout
        self._replies = 0
        try:
            addresses = self._resolver.resolve(self._dns_host.strip("[]"), self.port, self.timeout)
            connected = self._connect(addresses, deadline)
        except (socket.gaierror, UnicodeError) as error:
            raise NameResolutionError(self.host, self, error) from error  # type: ignore[arg-type]
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no connection within the timeout") from error
        except OSError as error:
            raise NewConnectionError(self, "no connection") from error
        connected.settimeout(max(deadline - time.monotonic(), _SHORTEST_TIMEOUT))
        return connected

    def _connect(self, addresses: list[AddressInfo], deadline: float) -> socket.socket:
        failure = OSError("the look-up gave no address")
        for index, (family, kind, protocol, _, address) in enumerate(addresses):
            # Each address gets an equal share of the time left, so that a dead one leaves time for the next.
            share = (deadline - time.monotonic()) / (len(addresses) - index)
            connecting = socket.socket(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    connecting.setsockopt(*option)
                connecting.settimeout(max(share, _SHORTEST_TIMEOUT))
                connecting.connect(address)
            except OSError as error:
                connecting.close()
                failure = error
            else:
                return connecting
        raise failure

    def request(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  As in urllib3.
        """Send a request; raise ReusedConnectionClosedError if the server has closed the connection meanwhile."""
        with self._closed_while_idle():
            super().request(*args, **kwargs)

    def getresponse(self) -> Any:  # noqa: ANN401  As in urllib3.
        """Read status line and headers; raise ReusedConnectionClosedError as `request` does."""
        with self._closed_while_idle():
            response = super().getresponse()
        self._replies += 1
        return response

    @contextmanager
    def _closed_while_idle(self) -> Iterator[None]:
        try:
            yield
        except (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
            if self._replies:
                raise ReusedConnectionClosedError from error
            raise


class DeadlineHTTPConnection(_DeadlineConnection):
    """A plain connection that keeps its deadline; for loopback hosts and proxies."""


class DeadlineHTTPSConnection(_DeadlineConnection, HTTPSConnection):
    """A TLS connection that keeps its deadline."""
