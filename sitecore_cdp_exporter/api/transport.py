"""The transport under `requests`: it keeps a deadline for the whole request, and its connections in step.

`requests` bounds each wait on a socket, not the request, and reuses a connection even if it has unexpected data on it.
Here look-up, connect, proxy, TLS handshakes, headers and body share one deadline, and a
connection is reused only after an answer that was complete and valid, with nothing after it.
"""

import io
import ssl
import threading

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict

from sitecore_cdp_exporter.api.connection import Answer, Connection
from sitecore_cdp_exporter.api.deadline import Deadline
from sitecore_cdp_exporter.api.resolver import Resolver
from sitecore_cdp_exporter.api.server import Proxy, Server


class DeadlineAdapter(BaseAdapter):
    """Sends GET requests over connections that it keeps; safe for use by many threads.

    Args:
        proxy: The proxy for all servers; None: no proxy.
        ssl_context: The authorities to trust and the certificate to present.
        max_idle: How many idle connections are kept open.

    """

    def __init__(self, *, proxy: Proxy | None, ssl_context: ssl.SSLContext, max_idle: int) -> None:
        super().__init__()
        self._proxy = proxy
        self._ssl_context = ssl_context
        self._max_idle = max_idle
        self._resolver = Resolver()
        self._lock = threading.Lock()
        self._idle: list[Connection] = []

    def send(  # type: ignore[override]  # The signature is that of requests, except for unnamed arguments.
        self, request: requests.PreparedRequest, *, deadline: Deadline, fresh: bool, **_: object
    ) -> requests.Response:
        """Send a GET over an idle connection, or over a fresh one, and return the answer with its body read.

        The connection closes with the response, unless `keep` was called before.

        Raises:
            TimeoutError: The deadline passed.
            ClosedUnansweredError: An idle connection was closed instead of an answer: ask again over a fresh one.
            BadAnswerError: The answer is not HTTP, cannot be unpacked, or is larger than 1 MiB.
            ssl.SSLError: A TLS handshake failed.
            OSError: The connection failed.

        """
        server = Server.of(request.url or "")
        connection = None if fresh else self._take(server)
        if connection is None:
            connection = Connection(server, self._proxy, self._resolver, self._ssl_context, deadline)
        try:
            answer = connection.ask(request, deadline)
        except BaseException:
            connection.close()
            raise
        return _response(request, answer, connection)

    def keep(self, response: requests.Response) -> None:
        """Keep the connection of a response for further requests, if it can be reused."""
        body: _Body = response.raw
        with self._lock:
            if body.is_whole and len(self._idle) < self._max_idle:
                self._idle.append(body.connection)
                body.is_kept = True

    def close(self) -> None:
        """Close the idle connections, and keep none from now on."""
        with self._lock:
            self._max_idle = 0
            while self._idle:
                self._idle.pop().close()

    def _take(self, server: Server) -> Connection | None:
        while True:
            with self._lock:
                connection = next((idle for idle in reversed(self._idle) if idle.server == server), None)
                if connection is None:
                    return None
                self._idle.remove(connection)
            if connection.is_quiet():
                return connection
            connection.close()


class _Body(io.BytesIO):
    """The body of an answer, with its connection."""

    def __init__(self, answer: Answer, connection: Connection) -> None:
        super().__init__(answer.body)
        self.connection = connection
        self.is_whole = answer.is_whole
        self.is_kept = False

    def release_conn(self) -> None:
        """Release the connection; requests calls this when the response is closed."""
        if not self.is_kept:
            self.connection.close()


def _response(request: requests.PreparedRequest, answer: Answer, connection: Connection) -> requests.Response:
    response = requests.Response()
    response.request, response.url = request, request.url or ""
    response.status_code = answer.status
    response.headers = CaseInsensitiveDict(answer.headers)
    response.raw = _Body(answer, connection)
    return response
