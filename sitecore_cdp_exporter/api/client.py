"""The client of the Batch API. It only reads: no method but GET is ever sent."""

import os
import re
import socket
import ssl
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from http import HTTPStatus
from http.client import HTTPException, IncompleteRead, RemoteDisconnected
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import TypeAlias, TypeVar
from urllib.parse import urlencode

import requests
from pydantic import SecretStr
from requests.auth import HTTPBasicAuth
from requests.exceptions import ContentDecodingError, ProxyError
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies
from urllib3 import Retry
from urllib3.exceptions import (
    ClosedPoolError,
    HeaderParsingError,
    InvalidChunkLength,
    InvalidHeader,
    ReadTimeoutError,
    SSLError,
)
from urllib3.exceptions import HTTPError as TransportError

from sitecore_cdp_exporter import __version__
from sitecore_cdp_exporter.api.batch import (
    Batch,
    BatchPage,
    BatchStatus,
    MalformedBatchError,
    parse_batch,
    parse_batch_page,
)
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.api.transport import Deadline, DeadlineAdapter, Resolver, ReusedConnectionClosedError
from sitecore_cdp_exporter.config.files import read_regular_file
from sitecore_cdp_exporter.config.model import ApiConfig, TlsConfig

Parsed = TypeVar("Parsed")
# Takes the endpoint, the HTTP status or `error`, and the seconds of a request that has ended.
ObserveRequest: TypeAlias = Callable[[str, str, float], None]

USERNAME_VARIABLE = "SITECORE_CDP_CLIENT_KEY"
PASSWORD_VARIABLE = "SITECORE_CDP_API_TOKEN"  # noqa: S105  The name of the variable, not the token.

# A batch is about 1 KB of JSON. What is a thousand times that is no batch.
LARGEST_BODY = 1024 * 1024
LONGEST_RETRY_AFTER = 300
LARGEST_SECRET = 64 * 1024


@dataclass(frozen=True, slots=True)
class Credentials:
    """What basic auth sends: the client key and the API token."""

    username: str = field(repr=False)
    password: str = field(repr=False)


class BatchApi:
    """Reads batches over pooled connections; safe for use by many threads.

    Args:
        config: Where the API is and how to reach it.
        observe: Counts and times the requests.
        environ: Where credentials are looked up that the config does not have.

    """

    def __init__(self, config: ApiConfig, observe: ObserveRequest, *, environ: Mapping[str, str] = os.environ) -> None:
        self._config = config
        self._observe = observe
        self._environ = environ
        self._endpoint = "v2/batches" if config.endpoint == "batches" else "v2/batches/inspect"
        self._resolver = Resolver()
        self._lock = threading.Lock()
        self._pooled: requests.Session | None = None
        self._closed = False

    def read_batch(self, ref: str, credentials: Credentials) -> Batch:
        """Ask the API for one batch, within `api.timeout` seconds from connect to last byte.

        Raises:
            PollError: The batch could not be read.

        """
        body = self._read(f"{self._endpoint}/{ref}", self._config.endpoint, credentials)
        return _parsed(lambda: parse_batch(ref, body))

    def read_page(
        self, statuses: Iterable[BatchStatus], offset: int, limit: int, credentials: Credentials
    ) -> BatchPage:
        """Ask the API for a page of the list of batches that have one of these statuses, within `api.timeout`.

        Raises:
            PollError: The page could not be read.

        """
        query = urlencode({"status": ",".join(statuses), "offset": offset, "limit": limit}, safe=",")
        body = self._read(f"v2/batches/inspect?{query}", "list", credentials)
        return _parsed(lambda: parse_batch_page(body))

    def read_credentials(self) -> Credentials:
        """Read user name and password from where the config says, anew each time, so that they can be rotated.

        Raises:
            PollError: There are none, or what there is can not be sent by basic auth.

        """
        auth = self._config.basic_auth
        username = self._read_secret("username", auth.username, auth.username_file, USERNAME_VARIABLE)
        password = self._read_secret("password", auth.password, auth.password_file, PASSWORD_VARIABLE)
        if ":" in username:
            raise PollError(Reason.CREDENTIALS, "the user name holds a colon, which basic auth can not send")
        return Credentials(username, password)

    def close(self) -> None:
        """Close the idle connections. Requests under way end by themselves; later ones keep no connection."""
        with self._lock:
            self._closed = True
            if self._pooled is not None:
                self._pooled.close()
                self._pooled = None

    def _read(self, path: str, endpoint: str, credentials: Credentials) -> bytes:
        """Return the body of the answer to one GET. `endpoint` is the label that it is counted with."""
        request = _Request(f"{self._config.base_url}/{path}", endpoint, credentials)
        deadline = Deadline(time.monotonic() + self._config.timeout)
        session = self._session()
        if session is not None:
            with suppress(_StaleConnectionError):
                return self._get(session, request, deadline)
        # No other pooled connection is worth a try: whatever closed this one has closed those, too.
        with self._new_session() as session:
            return self._get(session, request, deadline)

    def _read_secret(self, key: str, value: SecretStr | None, file: Path | None, variable: str) -> str:
        if value is not None:
            secret, origin = value.get_secret_value(), f"api.basic_auth.{key}"
        elif file is not None:
            secret, origin = _read_secret_file(file, key), f"api.basic_auth.{key}_file ({file})"
        elif variable in self._environ:
            secret, origin = self._environ[variable], f"the environment variable {variable}"
        else:
            raise PollError(
                Reason.CREDENTIALS,
                f"there is no {key}: set api.basic_auth.{key}_file or the environment variable {variable}",
            )
        if not secret:
            raise PollError(Reason.CREDENTIALS, f"{origin} is empty")
        # Bytes that are not UTF-8 have become surrogates.
        if any("\ud800" <= character <= "\udfff" for character in secret):
            raise PollError(Reason.CREDENTIALS, f"{origin} is not UTF-8")
        # What stands in the config is refused likewise when it is loaded.
        if any(unicodedata.category(character) == "Cc" for character in secret):
            raise PollError(Reason.CREDENTIALS, f"{origin} holds a line break or another control character")
        return secret

    def _session(self) -> requests.Session | None:
        """Return the session that keeps its connections; None after `close`."""
        with self._lock:
            if self._pooled is None and not self._closed:
                self._pooled = self._new_session()
            return self._pooled

    def _new_session(self) -> requests.Session:
        session = _Session()
        # The environment's CA bundle, netrc and proxies count only where the config says so.
        session.trust_env = False
        if self._config.proxy_url is not None:
            proxy = self._config.proxy_url.get_secret_value()
            session.proxies = {"http": proxy, "https": proxy}
        elif self._config.proxy_from_environment:
            session.proxies = dict(get_environ_proxies(self._config.base_url))
        session.verify = not self._config.tls_config.insecure_skip_verify
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        session.headers.update(
            {
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "User-Agent": f"sitecore-cdp-batch-exporter/{__version__}",
            }
        )
        adapter = DeadlineAdapter(
            pool_maxsize=self._config.concurrency, ssl_context=self._ssl_context, resolver=self._resolver
        )
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        return session

    @cached_property
    def _ssl_context(self) -> ssl.SSLContext:
        try:
            return _new_ssl_context(self._config.tls_config)
        except (OSError, ValueError) as error:
            failure = PollError(Reason.TLS, f"the files of api.tls_config can not be used: {_describe(error)}")
        raise failure

    def _get(self, session: requests.Session, request: "_Request", deadline: Deadline) -> bytes:
        """Send one GET and return the body of its answer, counting and timing it."""
        code = "error"
        started = time.monotonic()
        try:
            with session.send(
                _prepare(request, session),
                # The annotation does not say so, but requests hands a Timeout of urllib3 through.
                timeout=deadline,
                allow_redirects=False,
                stream=True,
            ) as response:
                if response.status_code != HTTPStatus.OK:
                    code = str(response.status_code)
                    _drain(response)
                    raise PollError.of_status(response.status_code, _retry_after(response))
                body = _read_body(response)
                code = str(response.status_code)
                return body
        except (requests.RequestException, TransportError, OSError, HTTPException) as error:
            failure = _no_answer(error)
        finally:
            self._observe(request.endpoint, code, time.monotonic() - started)
        # It is raised out here, so that the causes are not chained: they hold URLs and the credentials.
        raise failure


def _new_ssl_context(tls: TlsConfig) -> ssl.SSLContext:
    # The default is the bundle of requests, named here because OpenSSL would look into the environment for one.
    context = ssl.create_default_context(cafile=str(tls.ca_file or DEFAULT_CA_BUNDLE_PATH))
    if tls.cert_file is not None:
        # Without a password OpenSSL would ask for that of an encrypted key on the terminal, and wait.
        context.load_cert_chain(tls.cert_file, tls.key_file, password="")
    if tls.insecure_skip_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


@dataclass(frozen=True, slots=True)
class _Request:
    url: str
    endpoint: str
    credentials: Credentials


def _prepare(request: _Request, session: requests.Session) -> requests.PreparedRequest:
    """Prepare a GET. The session would do it too, but to merge what it may have takes a sixth of a request's time."""
    prepared = requests.PreparedRequest()
    auth = HTTPBasicAuth(request.credentials.username.encode(), request.credentials.password.encode())
    prepared.prepare(method="GET", url=request.url, headers=session.headers, auth=auth)
    return prepared


class _Session(requests.Session):
    """A session that leaves redirects alone.

    Told not to follow one, requests still reads its body, of any size, and prepares the request that would follow.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002  The signature is that of requests.
        """Return None: no answer is a redirect."""
        return


class _StaleConnectionError(PollError):
    """A kept-alive connection was closed before any byte of the answer."""


def _parsed(parse: Callable[[], Parsed]) -> Parsed:
    try:
        return parse()
    except MalformedBatchError as error:
        failure = PollError(Reason.BAD_RESPONSE, str(error))
    # It is raised out here, so that the cause is not chained: it holds the body.
    raise failure


def _read_secret_file(path: Path, key: str) -> str:
    try:
        content = read_regular_file(path, LARGEST_SECRET)
    except OSError as error:
        raise PollError(Reason.CREDENTIALS, f"api.basic_auth.{key}_file ({path}): {error.strerror}") from None
    # What is not UTF-8 becomes surrogates, as Python does it with the environment.
    text = content.decode(errors="surrogateescape")
    return text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")


def _read_body(response: requests.Response) -> bytes:
    """Return the body, unpacked. The size counts unpacked, so that a small body can not become a large one."""
    # Packed several times over, a few bytes could keep the unpacking busy for hours without giving a byte.
    if response.headers.get("Content-Encoding", "").strip().lower() not in {"", "identity", "gzip"}:
        raise PollError(Reason.BAD_RESPONSE, "the answer is packed otherwise than asked for")
    body = bytearray()
    for chunk in response.iter_content(64 * 1024):
        body += chunk
        if len(body) > LARGEST_BODY:
            raise PollError(Reason.BAD_RESPONSE, f"the answer is larger than {LARGEST_BODY} bytes")
    return bytes(body)


def _drain(response: requests.Response) -> None:
    """Read a body that nobody needs, so that the connection can be used again."""
    with suppress(requests.RequestException, OSError, PollError):
        _read_body(response)


def _retry_after(response: requests.Response) -> float | None:
    """Return what Retry-After says, a number of seconds or a date, in seconds from now."""
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return min(Retry().parse_retry_after(value), LONGEST_RETRY_AFTER)
    # An unreadable value asks for nothing: a word, a number of too many digits, a date beyond the calendar.
    except (InvalidHeader, ValueError, OverflowError):
        return None


def _no_answer(error: Exception) -> PollError:
    """Say by its causes why a request has failed: requests wraps the same cause in different exceptions."""
    causes = list(_causes(error))
    root = causes[-1]
    # The pool is closed when a reload has put another client in this one's place.
    if any(isinstance(cause, ReusedConnectionClosedError | ClosedPoolError) for cause in causes):
        return _StaleConnectionError(Reason.CONNECTION, "the connection was closed")
    if any(isinstance(cause, TimeoutError | ReadTimeoutError) for cause in causes):
        return PollError(Reason.TIMEOUT, "no whole answer within api.timeout")
    if any(isinstance(cause, ssl.SSLError | SSLError) for cause in causes):
        return PollError(Reason.TLS, _describe(root))
    if isinstance(error, ContentDecodingError):
        return PollError(Reason.BAD_RESPONSE, "the answer can not be unpacked")
    if any(_is_malformed(cause) for cause in causes):
        return PollError(Reason.BAD_RESPONSE, "the answer is not HTTP")
    return PollError(Reason.CONNECTION, ("the proxy: " if isinstance(error, ProxyError) else "") + _describe(root))


def _is_malformed(error: BaseException) -> bool:
    if isinstance(error, RemoteDisconnected | IncompleteRead):
        # Except for this one, the answer is right as far as it goes.
        return isinstance(error, InvalidChunkLength)
    return isinstance(error, HTTPException | HeaderParsingError | InvalidHeader)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _describe(error: BaseException) -> str:
    """Name an error without its text, which may quote URLs, file contents or the other side."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"{type(error).__name__} {error.reason or ''}".strip()
    if isinstance(error, socket.gaierror):
        return "the host name has no address"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    # What a proxy answers to CONNECT is told by the text alone.
    if refusal := re.match(r"Tunnel connection failed: (\d+)", str(error)):
        return f"HTTP status {refusal[1]}"
    return type(error).__name__
