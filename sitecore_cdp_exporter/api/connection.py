"""One HTTP connection to the server of the Batch API, and the answers that come by it.

http.client reads the answers; what it would let pass is refused here: a connection that is cut in the middle of the
headers or of a body, a chunk of negative size, a framing that two programs would read differently.
"""

import gzip
import http.client
import io
import ssl
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from urllib3.exceptions import HeaderParsingError
from urllib3.util.response import assert_header_parsing

from sitecore_cdp_exporter.api.deadline import Deadline
from sitecore_cdp_exporter.api.failures import BadAnswerError, ClosedUnansweredError, ProxyError, describe
from sitecore_cdp_exporter.api.resolver import Resolver
from sitecore_cdp_exporter.api.server import Proxy, Server
from sitecore_cdp_exporter.api.wire import connect

if TYPE_CHECKING:
    from requests import PreparedRequest

# A batch is about 1 KB of JSON. Anything a thousand times larger is not a batch.
MAX_BODY = 1024 * 1024
# Other bodies than that of a 200 are read only to reuse the connection.
MAX_ERROR_BODY = 64 * 1024
_BUFFER_SIZE = 64 * 1024
# These have no body by definition. Some servers send one all the same, and late.
_BODILESS = {HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, read as far as it is needed.

    Attributes:
        body: Unpacked; empty unless the status is 200.
        is_whole: Whether another request may follow it on this connection: it was read whole, by its framing.

    """

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    is_whole: bool


class Connection:
    """A connection to one server, directly or through the tunnel of a proxy.

    Raises:
        TimeoutError: The deadline passed.
        ssl.SSLError: A TLS handshake failed.
        ProxyError: The proxy cannot be reached, or refuses.
        BadAnswerError: The proxy does not speak HTTP.
        OSError: The server cannot be reached.

    """

    def __init__(
        self, server: Server, proxy: Proxy | None, resolver: Resolver, context: ssl.SSLContext, deadline: Deadline
    ) -> None:
        self.server = server
        self._context = context
        self._has_answered = False
        with _failures_of(proxy):
            first = server if proxy is None else proxy.server
            self._wire = connect(resolver.resolve(first.host, first.port, deadline), deadline)
        self._reader = _Reader(self._wire)
        try:
            if proxy is not None:
                with _failures_of(proxy):
                    self._start_tls(proxy.server)
                    self._open_tunnel(server, proxy)
            self._start_tls(server)
        except BaseException:
            self.close()
            raise

    def ask(self, request: "PreparedRequest", deadline: Deadline) -> Answer:
        """Send a GET and return the answer.

        Raises:
            TimeoutError: The deadline passed.
            ClosedUnansweredError: The connection was used before, and the server closed it without an answer.
            BadAnswerError: The answer is not HTTP, cannot be unpacked, or is larger than 1 MiB.
            OSError: The connection failed.

        """
        self._begin(request.path_url, request.headers, deadline)
        with _failures_of_http(self._reader):
            answer = self._read_head("GET")
            if answer.status == HTTPStatus.OK:
                body, is_whole = _unpack(answer, _read_body(answer, MAX_BODY)), True
            else:
                body, is_whole = b"", _drain(answer)
        is_whole = is_whole and not answer.will_close and answer.status not in _BODILESS
        return Answer(answer.status, answer.getheaders(), body, is_whole)

    def download(self, target: str, headers: Mapping[str, str], deadline: Deadline) -> tuple[int, Iterator[bytes]]:
        """Send a GET and return the status of the answer, and its body as it comes, however long it is.

        The body raises TimeoutError at the deadline, BadAnswerError if it is not HTTP, and OSError if it is cut.

        Raises:
            As `ask` does.

        """
        self._begin(target, headers, deadline)
        with _failures_of_http(self._reader):
            answer = self._read_head("GET")
        return answer.status, self._body_of(answer)

    def _body_of(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        with _failures_of_http(self._reader):
            # Not `read`, which waits for all of it, and loses what has come when it cannot wait any longer.
            while data := answer.read1(_BUFFER_SIZE):
                yield data
        if answer.length:
            raise ConnectionResetError

    def _begin(self, target: str, headers: Mapping[str, Any], deadline: Deadline) -> None:
        """Send a GET and wait for the first byte of the answer."""
        self._wire.deadline = deadline
        try:
            self._send(f"GET {target}", self.server, headers)
            if not self._reader.peek(1):
                raise ConnectionResetError
        except ConnectionError as error:
            if self._has_answered:
                raise ClosedUnansweredError from error
            raise
        self._has_answered = True

    def is_quiet(self) -> bool:
        """Return whether the connection is open and has no unexpected data."""
        self._wire.deadline = None
        try:
            self._reader.read(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Close the connection."""
        self._wire.close()

    def _start_tls(self, server: Server) -> None:
        if server.scheme == "https":
            self._wire.start_tls(self._context, server.host.rstrip("."))
            # What came before the handshake is not of the server.
            self._reader = _Reader(self._wire)

    def _open_tunnel(self, server: Server, proxy: Proxy) -> None:
        authorization = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
        self._send(f"CONNECT {server.authority}", server, authorization)
        with _failures_of_http(self._reader):
            status = self._read_head("CONNECT").status
        if not HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            raise ProxyError(f"HTTP status {status}")

    def _send(self, request: str, server: Server, headers: Mapping[str, Any]) -> None:
        lines = [f"{request} HTTP/1.1", f"Host: {server.host_header}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._wire.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def _read_head(self, method: str) -> http.client.HTTPResponse:
        """Read status line and headers of the answer, past the interim ones (1xx) before it."""
        while True:
            # It uses the reader as a socket.
            answer = http.client.HTTPResponse(self._reader, method=method)  # type: ignore[arg-type]
            answer.begin()
            assert_header_parsing(answer.headers)
            _check_framing(answer)
            if answer.status >= HTTPStatus.OK:
                return answer


class _Reader(io.BufferedReader):
    """What http.client reads all answers of one stream from. It takes it for a socket, and for the file of a socket.

    There is one for all answers: http.client would make one for each, and bytes that nobody asked for would get lost
    in it, instead of showing that the connection is out of step.

    Attributes:
        has_ended: Whether the stream ended while somebody wanted more of it.

    """

    has_ended = False

    def makefile(self, _mode: str) -> "_Reader":
        """Return itself, as the file of the socket that it is taken for."""
        return self

    def close(self) -> None:
        """Stay open at the end of an answer."""

    def flush(self) -> None:
        """Do nothing: nothing is written here."""

    def readline(self, limit: int | None = -1) -> bytes:
        """Return a whole line. http.client would take an end in the middle of the headers for theirs."""
        line = super().readline(limit)
        if not line.endswith(b"\n") and (limit is None or limit < 0 or len(line) < limit):
            raise ConnectionResetError
        return line

    def read(self, size: int | None = -1) -> bytes:
        """Return so many bytes, fewer at the end. http.client would read a chunk of -1 bytes without end."""
        if size is None or size < 0:
            raise http.client.HTTPException("a chunk has a negative size")
        data = super().read(size)
        self.has_ended = len(data) < size
        return data

    def read1(self, size: int = -1) -> bytes:
        """Return what there is, at most so many bytes; nothing at the end."""
        data = super().read1(size)
        self.has_ended = not data
        return data


@contextmanager
def _failures_of(proxy: Proxy | None) -> Iterator[None]:
    """Say of a connection that fails that it is the one to the proxy."""
    try:
        yield
    except (TimeoutError, ssl.SSLError, ProxyError):
        raise
    except OSError as error:
        if proxy is None:
            raise
        raise ProxyError(describe(error)) from error


@contextmanager
def _failures_of_http(reader: _Reader) -> Iterator[None]:
    """Distinguish a truncated answer from a malformed one."""
    try:
        yield
    except (http.client.HTTPException, HeaderParsingError, ValueError) as error:
        if isinstance(error, OSError) or reader.has_ended:
            raise ConnectionResetError from error
        raise BadAnswerError("the answer is not HTTP") from error


def _check_framing(answer: http.client.HTTPResponse) -> None:
    """Reject an answer with ambiguous framing. http.client ignores a length that it cannot read."""
    lengths = {value.strip() for value in answer.headers.get_all("Content-Length", [])}
    if len(lengths) > 1 or not all(value.isascii() and value.isdigit() for value in lengths):
        raise BadAnswerError("the answer has no clear Content-Length")
    if not answer.chunked and "Transfer-Encoding" in answer.headers:
        raise BadAnswerError("the answer has an unknown Transfer-Encoding")


def _read_body(answer: http.client.HTTPResponse, limit: int) -> bytes:
    body = answer.read(limit + 1)
    if len(body) > limit:
        raise BadAnswerError(f"the answer is larger than {limit} bytes")
    if answer.length:
        raise ConnectionResetError
    return body


def _drain(answer: http.client.HTTPResponse) -> bool:
    """Read a body that nobody needs, and return whether its end was reached."""
    if (answer.length or 0) > MAX_ERROR_BODY:
        return False
    with suppress(OSError, http.client.HTTPException, ValueError, BadAnswerError):
        _read_body(answer, MAX_ERROR_BODY)
        return True
    return False


def _unpack(answer: http.client.HTTPResponse, body: bytes) -> bytes:
    """Unpack a body. The limit counts unpacked bytes, so that a small body cannot become a large one."""
    encoding = ", ".join(answer.headers.get_all("Content-Encoding", [])).strip().lower()
    if encoding in {"", "identity"}:
        return body
    # Packed several times over, a few bytes could keep the unpacking busy for hours.
    if encoding != "gzip":
        raise BadAnswerError("the answer is packed otherwise than asked for")
    try:
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(body)).read(MAX_BODY + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadAnswerError("the answer cannot be unpacked") from error
    if len(unpacked) > MAX_BODY:
        raise BadAnswerError(f"the answer is larger than {MAX_BODY} bytes")
    return unpacked
