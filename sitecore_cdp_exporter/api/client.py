"""The client of the Batch API. It only reads: no method but GET is ever sent."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Self, TypeAlias, TypeVar
from urllib.parse import urlencode

import requests
from requests.auth import HTTPBasicAuth
from urllib3 import Retry
from urllib3.exceptions import InvalidHeader

from sitecore_cdp_exporter import __version__
from sitecore_cdp_exporter.api.batch import (
    BatchAnswer,
    BatchPage,
    BatchStatus,
    MalformedBatchError,
    OtherBatchError,
    parse_batch,
    parse_batch_page,
)
from sitecore_cdp_exporter.api.credentials import Credentials, read_credentials
from sitecore_cdp_exporter.api.deadline import Deadline
from sitecore_cdp_exporter.api.error_log import LogReading
from sitecore_cdp_exporter.api.error_log_reader import ErrorLogReader
from sitecore_cdp_exporter.api.error_log_url import LogUrl
from sitecore_cdp_exporter.api.errors import PollError, Reason
from sitecore_cdp_exporter.api.failures import (
    BadAnswerError,
    ClosedUnansweredError,
    ProxyError,
    describe,
    poll_error,
)
from sitecore_cdp_exporter.api.route import find_proxy
from sitecore_cdp_exporter.api.tls import client_context
from sitecore_cdp_exporter.api.transport import DeadlineAdapter
from sitecore_cdp_exporter.config.model import ApiConfig, ErrorLogs

Parsed = TypeVar("Parsed")
# Called with the endpoint, the HTTP status or `error`, and the duration in seconds of each finished request.
ObserveRequest: TypeAlias = Callable[[str, str, float], None]

MAX_RETRY_AFTER = 300


class BatchApi:
    """Reads batches over pooled connections; safe for use by many threads.

    Args:
        config: Where the API is and how to reach it.
        observe: Counts and times the requests.
        error_logs: Which error logs may be read; None: as the config has it by default.
        environ: Where credentials and a proxy are looked up that the config does not have.
        clock: Gives this moment, in seconds; deadlines are counted by it.

    """

    def __init__(
        self,
        config: ApiConfig,
        observe: ObserveRequest,
        *,
        error_logs: ErrorLogs | None = None,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._observe = observe
        self._environ = environ
        self._endpoint = "v2/batches" if config.endpoint == "batches" else "v2/batches/inspect"
        self._clock = clock
        self._error_logs = ErrorLogReader(config, error_logs or ErrorLogs(), environ)
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._closed = False

    def read_batch(self, ref: str, credentials: Credentials) -> BatchAnswer:
        """Ask the API for one batch, within `api.timeout` seconds from connect to last byte.

        Raises:
            PollError: The batch could not be read.

        """
        path = f"{self._endpoint}/{ref}"
        return self._ask(path, self._config.endpoint, credentials, lambda body: parse_batch(ref, body))

    def read_page(
        self, statuses: Iterable[BatchStatus], offset: int, limit: int, credentials: Credentials
    ) -> BatchPage:
        """Ask the API for a page of the list of batches that have one of these statuses, within `api.timeout`.

        Raises:
            PollError: The page could not be read.

        """
        query = urlencode({"status": ",".join(statuses), "offset": offset, "limit": limit}, safe=",")
        return self._ask(f"v2/batches/inspect?{query}", "list", credentials, parse_batch_page)

    def read_credentials(self) -> Credentials:
        """Read user name and password from where the config says, at each call, so that they can be rotated.

        Raises:
            PollError: Something is missing or cannot be sent by basic auth; the message names all of it.

        """
        return read_credentials(self._config.basic_auth, self._environ)

    def read_error_log(self, url: LogUrl, seconds: float) -> LogReading | None:
        """Read an error log, within two minutes and so many seconds of processor time. None: `close` ended that."""
        return self._error_logs.read(url, seconds)

    def close(self) -> None:
        """Close the idle connections, and end the reading of an error log.

        Requests under way end by themselves; later ones keep no connection.
        """
        self._error_logs.stop()
        with self._lock:
            self._closed = True
            if self._session is not None:
                self._session.close()

    def _ask(self, path: str, endpoint: str, credentials: Credentials, parse: Callable[[bytes], Parsed]) -> Parsed:
        """Return the parsed answer to one GET. `endpoint` is the label that it is counted with."""
        session = self._open_session()
        url = f"{self._config.base_url}/{path}"
        auth = HTTPBasicAuth(credentials.username.encode(), credentials.password.encode())
        # The session would prepare it, too, but to merge what it may have takes a sixth of a request's time.
        request = requests.PreparedRequest()
        request.prepare(method="GET", url=url, headers=session.headers, auth=auth)
        deadline = Deadline(self._config.timeout, self._clock)
        with suppress(_AskAgainError):
            return self._get(session, request, endpoint, deadline, parse)
        # Not over another idle connection: what closed this one, or put it out of step, may have affected all of them.
        return self._get(session, request, endpoint, deadline, parse, fresh=True)

    def _get(
        self,
        session: "_Session",
        request: requests.PreparedRequest,
        endpoint: str,
        deadline: Deadline,
        parse: Callable[[bytes], Parsed],
        *,
        fresh: bool = False,
    ) -> Parsed:
        """Send one GET and parse the body of its answer, counting and timing it."""
        code = "error"
        started = self._clock()
        try:
            with session.send(request, deadline=deadline, fresh=fresh, allow_redirects=False, stream=True) as response:
                code = str(response.status_code)
                if response.status_code == HTTPStatus.OK:
                    parsed = parse(response.content)
                    # A late second copy of any other answer would pass for that of the next request.
                    if isinstance(parsed, BatchAnswer) and parsed.names_itself:
                        session.adapter.keep(response)
                    return parsed
                session.adapter.keep(response)
                failure = PollError.of_status(response.status_code, _retry_after(response))
        except ClosedUnansweredError as error:
            failure = _AskAgainError.of(poll_error(error))
        except OtherBatchError as error:
            failure = _AskAgainError.of(PollError(Reason.BAD_RESPONSE, f"{error}"))
        except MalformedBatchError as error:
            failure = PollError(Reason.BAD_RESPONSE, f"{error}")
        except (OSError, BadAnswerError) as error:
            failure = poll_error(error)
        finally:
            self._observe(endpoint, code, self._clock() - started)
        # Raised out here so that the causes are not chained: they hold URLs, bodies and the credentials.
        raise failure

    def _open_session(self) -> "_Session":
        """Return the session, which is made when it is first needed: its files may not be there before."""
        with self._lock:
            if self._session is None:
                self._session = _Session(self._new_adapter())
                if self._closed:
                    self._session.close()
            return self._session

    def _new_adapter(self) -> DeadlineAdapter:
        failure: PollError
        try:
            context = client_context(self._config.tls_config)
        except (OSError, ValueError) as error:
            failure = PollError(Reason.TLS, f"the files of api.tls_config cannot be used: {describe(error)}")
        else:
            try:
                proxy = find_proxy(self._config, self._environ, self._config.base_url)
                return DeadlineAdapter(proxy=proxy, ssl_context=context, max_idle=self._config.concurrency)
            except ProxyError as error:
                failure = poll_error(error)
        raise failure


class _AskAgainError(PollError):
    """A request failed because of the connection that was used, so it is worth a fresh one."""

    @classmethod
    def of(cls, error: PollError) -> Self:
        return cls(error.reason, f"{error}")


class _Session(requests.Session):
    """A session that leaves redirects alone, and takes nothing from the environment."""

    def __init__(self, adapter: DeadlineAdapter) -> None:
        super().__init__()
        self.adapter = adapter
        self.mount("https://", adapter)
        self.mount("http://", adapter)
        # No netrc: its password would win over ours.
        self.trust_env = False
        self.headers.update(
            {
                "Accept": "application/json",
                "Accept-Encoding": "gzip",
                "User-Agent": f"sitecore-cdp-batch-exporter/{__version__}",
            }
        )

    def get_redirect_target(self, resp: requests.Response) -> None:  # noqa: ARG002  The signature is that of requests.
        """Return None: no answer is a redirect. Asked not to follow one, requests would still prepare to."""
        return


def _retry_after(response: requests.Response) -> float | None:
    """Return what Retry-After says, a number of seconds or a date, in seconds from now."""
    value = response.headers.get("Retry-After")
    if value is None:
        return None
    try:
        return min(Retry().parse_retry_after(value), MAX_RETRY_AFTER)
    # Ignore an unreadable value: a word, a number with too many digits, a date beyond the calendar.
    except (InvalidHeader, ValueError, OverflowError):
        return None
