"""The transport under `requests`: every request ends by its deadline, whatever the server or the resolver does.

`requests` bounds each socket operation, not the request: a server that sends one byte a second holds it for as long as
it likes, a host name with five dead addresses takes five timeouts, each proxy on the way takes its own, and nothing at
all bounds the look-up of the name. Here one deadline goes through look-up, connect, TLS handshakes, proxy, headers and
body: requests are sent with `timeout=Deadline(...)`, and each socket takes its timeout for all that it does until it is
given the next one.
"""

import http.client
import socket
import ssl
import threading
import time
from base64 import b64encode
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from requests.adapters import HTTPAdapter
from requests.utils import get_auth_from_url
from urllib3 import Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util.connection import allowed_gai_family
from urllib3.util.response import assert_header_parsing

if TYPE_CHECKING:
    from urllib3 import PoolManager

AddressInfo: TypeAlias = tuple[Any, ...]

# A socket timeout of 0 would mean not to wait at all, which is another error than a timeout.
_SHORTEST_TIMEOUT = 0.001

# How a connection that the other side has closed looks to a plain or a TLS socket.
_CLOSED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)


class ReusedConnectionClosedError(ConnectionResetError):
    """The server closed a kept-alive connection instead of answering the next request: worth one fresh connection."""


class Deadline(Timeout):
    """The moment by which a request has to be over; each step of it gets what is left.

    A Timeout of urllib3 starts anew when a proxy has been connected to.

    Args:
        moment: A moment of the monotonic clock.

    """

    def __init__(self, moment: float) -> None:
        super().__init__()
        self._moment = moment

    def clone(self) -> "Deadline":
        """Return itself: urllib3 clones a timeout to start it anew."""
        return self

    def start_connect(self) -> float:
        """Return now. The deadline is counted from no start."""
        return time.monotonic()

    @property
    def connect_timeout(self) -> float:
        """The seconds that are left."""
        return max(self._moment - time.monotonic(), _SHORTEST_TIMEOUT)

    @property
    def read_timeout(self) -> float:
        """The seconds that are left."""
        return self.connect_timeout


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
                lookup = Future()
                # The look-up is remembered after its thread has started, since there may be no more threads to have.
                threading.Thread(target=self._look_up, args=(host, port, lookup), name="resolver", daemon=True).start()
                self._lookups[host, port] = lookup
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
        resolver: Looks up the hosts.

    """

    def __init__(self, *, pool_maxsize: int, ssl_context: ssl.SSLContext, resolver: Resolver) -> None:
        ssl_context.sslsocket_class = _DeadlineSSLSocket
        self._ssl_context = ssl_context
        self._lock = threading.Lock()
        # urllib3 documents these classes as replaceable; any callable that makes a pool serves.
        self._pool_classes = {
            "http": partial(_HTTPConnectionPool, resolver=resolver),
            "https": partial(_HTTPSConnectionPool, resolver=resolver),
        }
        super().__init__(pool_connections=1, pool_maxsize=pool_maxsize)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  The signature is that of requests.
        """Make the pool manager for direct connections."""
        super().init_poolmanager(*args, **kwargs, ssl_context=self._ssl_context)
        self._keep_deadlines(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  Likewise.
        """Make the pool manager for connections by a proxy."""
        # Without the lock another thread could get the manager before it keeps deadlines.
        with self._lock:
            manager = super().proxy_manager_for(
                *args, **kwargs, ssl_context=self._ssl_context, proxy_ssl_context=self._ssl_context
            )
            self._keep_deadlines(manager)
        return manager

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """Return the credentials for a proxy in UTF-8; requests knows only the letters of Latin-1."""
        username, password = get_auth_from_url(proxy)
        if not username:
            return {}
        return {"Proxy-Authorization": f"Basic {b64encode(f'{username}:{password}'.encode()).decode()}"}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:  # noqa: ANN401  Likewise.
        """Leave the connection alone: the SSL context knows whom to trust and what to present."""

    def close(self) -> None:
        """Close the idle connections now; urllib3 leaves that to the garbage collector."""
        managers: list[PoolManager] = [self.poolmanager, *self.proxy_manager.values()]
        for pools in (manager.pools for manager in managers):
            for key in pools.keys():  # noqa: SIM118  The pools can not be iterated over.
                pools[key].close()
        super().close()

    def _keep_deadlines(self, manager: "PoolManager") -> None:
        manager.pool_classes_by_scheme = self._pool_classes  # type: ignore[assignment]


class _DeadlineSocket(socket.socket):
    """A socket whose timeout bounds all that it does until it is given the next timeout, not each operation."""

    _deadline: float | None = None

    def settimeout(self, value: float | None, /) -> None:
        self._deadline = None if value is None else time.monotonic() + value
        super().settimeout(value)

    def gettimeout(self) -> float | None:
        return None if self._deadline is None else max(self._deadline - time.monotonic(), _SHORTEST_TIMEOUT)

    def recv(self, *args: Any) -> bytes:  # noqa: ANN401  As in socket.
        self._wait_no_longer()
        return super().recv(*args)

    def recv_into(self, *args: Any) -> int:  # noqa: ANN401  As in socket.
        self._wait_no_longer()
        return super().recv_into(*args)

    def send(self, *args: Any) -> int:  # noqa: ANN401  As in socket.
        self._wait_no_longer()
        return super().send(*args)

    def sendall(self, *args: Any) -> None:  # noqa: ANN401  As in socket.
        self._wait_no_longer()
        super().sendall(*args)

    def _wait_no_longer(self) -> None:
        """Let the next operation wait for what is left."""
        if self._deadline is None:
            return
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the deadline has passed")
        super().settimeout(left)


class _DeadlineSSLSocket(_DeadlineSocket, ssl.SSLSocket):
    """Likewise over TLS. The deadline is handed over by the socket that is wrapped."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002  As in ssl.
        # The timeout is set anew after the handshake, which must not move the deadline.
        deadline = self._deadline
        super().do_handshake(block)
        self._deadline = deadline


class _Response(http.client.HTTPResponse):
    """A reply that knows a connection closed before its first byte, and refuses what is not HTTP."""

    def begin(self) -> None:
        try:
            answered = bool(self.fp.peek(1))
        except _CLOSED as error:
            raise _ClosedUnansweredError("the connection was closed") from error
        if not answered:
            raise _ClosedUnansweredError("the connection was closed")
        file = self.fp
        self.fp = _WholeLines(file)  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            # http.client lets go of what it has closed.
            if self.fp is not None:
                self.fp = file
        # urllib3 would go on, and log what it could not parse.
        assert_header_parsing(self.msg)

    def _safe_read(self, amt: int) -> bytes:
        # urllib3 asks for the bytes of a chunk here. To read -1 bytes would be to read all that ever comes.
        if amt < 0:
            raise http.client.HTTPException("a chunk has a negative size")
        content: bytes = super()._safe_read(amt)  # type: ignore[misc]
        return content


class _WholeLines:
    """What http.client reads status line and headers from. It would take an end in their middle for theirs."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readline(self, limit: int) -> bytes:
        line = self._file.readline(limit)
        if len(line) < limit and not line.endswith(b"\n"):
            raise http.client.RemoteDisconnected("the connection was closed in the middle of the headers")
        return line

    def close(self) -> None:
        self._file.close()


class _ClosedUnansweredError(http.client.RemoteDisconnected):
    """The server closed a connection before the first byte of its answer."""


class _DeadlineConnection(HTTPConnection):
    """What plain and TLS connections have in common."""

    response_class = _Response

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
            try:
                return self._connect_to(_DeadlineSocket(family, kind, protocol), address, share)
            except OSError as error:
                failure = error
        raise failure

    def _connect_to(self, connecting: socket.socket, address: Any, timeout: float) -> socket.socket:  # noqa: ANN401  Of any family.
        try:
            for option in self.socket_options or ():
                connecting.setsockopt(*option)
            connecting.settimeout(max(timeout, _SHORTEST_TIMEOUT))
            connecting.connect(address)
        except BaseException:
            connecting.close()
            raise
        return connecting

    def request(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401  As in urllib3.
        """Send a request; raise ReusedConnectionClosedError if the server has closed the connection meanwhile."""
        try:
            super().request(*args, **kwargs)
        except _CLOSED as error:
            if self._replies:
                raise ReusedConnectionClosedError from error
            raise

    def getresponse(self) -> Any:  # noqa: ANN401  As in urllib3.
        """Read status line and headers; raise ReusedConnectionClosedError as `request` does."""
        try:
            response = super().getresponse()
        except _ClosedUnansweredError as error:
            if self._replies:
                raise ReusedConnectionClosedError from error
            raise
        self._replies += 1
        return response


class DeadlineHTTPConnection(_DeadlineConnection):
    """A plain connection that keeps its deadline; for loopback hosts and proxies."""


class DeadlineHTTPSConnection(_DeadlineConnection, HTTPSConnection):
    """A TLS connection that keeps its deadline."""


class _HTTPConnectionPool(HTTPConnectionPool):
    ConnectionCls = DeadlineHTTPConnection


class _HTTPSConnectionPool(HTTPSConnectionPool):
    ConnectionCls = DeadlineHTTPSConnection

    def _validate_conn(self, conn: Any) -> None:  # noqa: ANN401  As in urllib3.
        """Connect as urllib3 does, without its warning of a certificate that is not checked: the config says so."""
        if conn.is_closed:
            conn.connect()
            conn.timeout = conn.sock.gettimeout()
