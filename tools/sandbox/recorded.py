"""The sandbox as tests use it: they place batches, switch faults, and see what was asked."""

import asyncio
import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import TypeVar
from uuid import UUID

from aiohttp import web
from aiohttp.typedefs import Middleware

from sitecore_cdp_exporter.sandbox import Sandbox as PackageSandbox
from sitecore_cdp_exporter.sandbox.faults import ActiveFaults
from sitecore_cdp_exporter.sandbox.gate import Handler
from sitecore_cdp_exporter.sandbox.profiles import Answer, Profiles
from sitecore_cdp_exporter.sandbox.records import ImportResult, RecordResult, is_uuid
from sitecore_cdp_exporter.sandbox.state import Batch, State
from sitecore_cdp_exporter.sandbox.storage import LOG_NAME
from tools.sandbox.faults import Fault
from tools.sandbox.request_log import Recorder, RequestLogEntry

PLACED_CHECKSUM = "0cc175b9c0f1b6a831c399e269772661"
PLACED_SIZE = 3456
# The error log of a placed batch ends here, however many records failed.
MAX_PLACED_LOG_LINES = 1000
# What error logs say, by cause: every code and message that is documented. An open session's code is not, so it is
# that of deleting a guest who has one.
RECORD_ERRORS = {
    "identity_missing": ("400", "Identity information missing"),
    "identity_too_weak": ("400", "Not enough identifying info"),
    "validation": ("400", "Validation error: extensions.0.loyaltyNumber: Input should be a valid string"),
    "several_orders": ("400", "More than one order exists with that referenceId"),
    "unparsable_line": ("400", "Failed to parse import line"),
    "unsupported_mode": ("402", "Unsupported mode"),
    "not_allowed": ("403", "Action not allowed"),
    "guest_not_found": ("404", "Guest not found"),
    "order_not_found": ("404", "No order found for the provided referenceId and orderedAt attributes"),
    "already_exists": ("409", "Identity already exists"),
    "open_session": ("403", "Unable to migrate Guest with open session"),
    "internal": ("500", "Internal server error"),
    "accepted": ("200", "2 matches found for this guest, 1st match deleted"),
}

Result = TypeVar("Result")


class Sandbox(PackageSandbox):
    """The sandbox of the package, with more ways in.

    `old_fashioned_logs` also contain accepted records, so a success has a log as well, and their codes are numbers.
    """

    old_fashioned_logs = False

    @cached_property
    def _recorder(self) -> Recorder:
        return Recorder()

    @cached_property
    def _log_faults(self) -> ActiveFaults:
        return ActiveFaults()

    @cached_property
    def _rejections(self) -> dict[str | None, Callable[[int], Answer | None]]:
        return {}

    def _middlewares(self) -> Sequence[Middleware]:
        return [self._recorder.middleware, self._log_middleware, *super()._middlewares()]

    @web.middleware
    async def _log_middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if not request.path.endswith(LOG_NAME):
            return await handler(request)

        async def right_answer() -> web.Response:
            response = await handler(request)
            if not isinstance(response, web.Response):
                raise TypeError("The storage answers with whole responses only.")
            return response

        return await self._log_faults.answer(request, right_answer)

    def _import_file(
        self, batch: Batch, content: bytes, import_one: Callable[[bytes, Profiles], RecordResult]
    ) -> ImportResult | None:
        reject = self._rejections.get(batch.ref, self._rejections.get(None, lambda _number: None))
        results: list[RecordResult] = []

        def import_or_reject(line: bytes, profiles: Profiles) -> RecordResult:
            rejection = reject(len(results) + 1)
            # A record that is rejected changes no profile.
            result = import_one(line, profiles if rejection is None else Profiles())
            if rejection is not None and is_uuid(result.ref):
                result = RecordResult(result.ref, *rejection)
            results.append(result)
            return result

        imported = super()._import_file(batch, content, import_or_reject)
        if imported is None or imported.total is None or not self.old_fashioned_logs:
            return imported
        return replace(imported, error_log=_old_fashioned_log(results))

    def put_batch(  # noqa: PLR0913  Each is a field of the API's body.
        self,
        ref: str,
        *,
        status: str = "success",
        total: int | None = None,
        succeeded: int | None = None,
        failed: int | None = None,
        time_to_process_millis: int | None = None,
        size: int | None = PLACED_SIZE,
        created_at: datetime | None = None,
        modified_at: datetime | None = None,
        log: bool | bytes | Mapping[str, int] = False,
    ) -> None:
        """Place a batch in a state where it stays, in place of any that has this ref.

        Any text is taken as `status`. What is None is left out of the body, save `modified_at`, which is then
        `created_at`, which is then now. `log` is the error log: its bytes as they are sent, or how many lines it has of
        each of `RECORD_ERRORS`; True is a line that could not be parsed for each record that `failed`.
        """
        created_at = created_at or self._batches.now()
        counts = {
            "timeToProcessMillis": time_to_process_millis,
            "totalCount": total,
            "succeededCount": succeeded,
            "failedCount": failed,
        }
        state = State(
            status=status,
            since=modified_at or created_at,
            stats={name: count for name, count in counts.items() if count is not None},
            error_log=_placed_log(log, 1 if failed is None else failed),
        )
        self._batches.place(Batch(ref=ref, checksum=PLACED_CHECKSUM, size=size, created_at=created_at, states=(state,)))

    def remove_batch(self, ref: str) -> None:
        """Forget a batch; the API then answers 404."""
        self._batches.remove(ref)

    def set_api_token(self, api_token: str) -> None:
        """Change the API token; the old one then gets a 401."""
        self._gate.set_api_token(api_token)

    def set_fault(self, fault: Fault, *, ref: str | None = None, times: int | None = None) -> None:
        """Misbehave for one ref, or for all requests to the API: the next `times` ones, or until cleared."""
        self._run(lambda: self._faults.set(fault, ref=ref, times=times))

    def set_log_fault(self, fault: Fault, *, ref: str | None = None, times: int | None = None) -> None:
        """Misbehave in the same way for requests for error logs."""
        self._run(lambda: self._log_faults.set(fault, ref=ref, times=times))

    def clear_faults(self) -> None:
        """Behave again."""

        def clear() -> None:
            self._faults.clear()
            self._log_faults.clear()

        self._run(clear)

    def set_log_url_lifetime(self, lifetime: timedelta) -> None:
        """Change how long the URLs of error logs live that are signed from now on; none at all: they are dead."""
        self._storage.log_url_lifetime = lifetime

    def reject_records(self, cause: str, *, every: int = 1, ref: str | None = None) -> None:
        """Reject each `every`-th record of a batch, or of all that come from now on, with one of `RECORD_ERRORS`."""
        self._rejections[ref] = lambda number: None if number % every else RECORD_ERRORS[cause]

    @property
    def requests(self) -> list[RequestLogEntry]:
        """The requests so far, the oldest first, without those to the sandbox's own control path."""
        return self._recorder.log.entries()

    def clear_requests(self) -> None:
        """Forget the requests so far and the high-water mark of concurrent ones."""
        self._recorder.forget()

    @property
    def concurrent_requests(self) -> int:
        """The number of requests to the Batch API that are being answered."""
        return self._recorder.concurrent_requests

    @property
    def most_concurrent_requests(self) -> int:
        """The greatest number of requests to the Batch API that were being answered at the same time."""
        return self._recorder.most_concurrent_requests

    @property
    def open_connections(self) -> int:
        """How many connections of clients are open."""
        return len(self._connections())

    def close_idle_connections(self) -> None:
        """Close the connections that wait for a next request, as a load balancer does."""
        self._run(self._close_idle_connections)

    def _run(self, function: Callable[[], Result]) -> Result:
        """Call a function in the server's thread, where the state of connections and faults lives."""

        async def call() -> Result:
            return function()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result()

    def _connections(self) -> list[web.RequestHandler]:
        server = self._runner.server
        return [] if server is None else server.connections

    def _close_idle_connections(self) -> None:
        for connection in self._connections():
            if not self._recorder.is_busy(connection):
                connection.force_close()


def error_log(counts: Mapping[str, int]) -> bytes:
    """Pack an error log that has so many lines of each of `RECORD_ERRORS`."""
    lines = []
    for cause, count in counts.items():
        refs = ("null" if cause == "unparsable_line" else str(UUID(int=number)) for number in range(count))
        lines += [RecordResult(ref, *RECORD_ERRORS[cause]).line() for ref in refs]
    return gzip.compress(b"".join(lines), mtime=0)


def _old_fashioned_log(results: Sequence[RecordResult]) -> bytes:
    lines = (json.dumps({"ref": each.ref, "code": int(each.code), "message": each.message}) for each in results)
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def _placed_log(log: bool | bytes | Mapping[str, int], failed: int) -> bytes | None:  # noqa: FBT001  As in put_batch.
    if isinstance(log, bool):
        return error_log({"unparsable_line": min(failed, MAX_PLACED_LOG_LINES)}) if log else None
    return log if isinstance(log, bytes) else error_log(log)
