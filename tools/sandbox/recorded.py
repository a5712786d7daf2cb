"""The sandbox as tests use it: they place batches, switch faults, and see what was asked."""

import asyncio
import gzip
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cached_property
from typing import TypeVar

from aiohttp import web
from aiohttp.typedefs import Middleware

from sitecore_cdp_exporter.sandbox import Sandbox as PackageSandbox
from sitecore_cdp_exporter.sandbox.records import RecordError
from sitecore_cdp_exporter.sandbox.state import Batch, State
from tools.sandbox.faults import Fault
from tools.sandbox.request_log import Recorder, RequestLogEntry

PLACED_CHECKSUM = "0cc175b9c0f1b6a831c399e269772661"
PLACED_SIZE = 3456
# The error log of a placed batch ends here, however many records failed.
MAX_PLACED_LOG_LINES = 1000

Result = TypeVar("Result")


class Sandbox(PackageSandbox):
    """The sandbox of the package, with more ways in."""

    @cached_property
    def _recorder(self) -> Recorder:
        return Recorder()

    def _middlewares(self) -> Sequence[Middleware]:
        return [self._recorder.middleware, *super()._middlewares()]

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
        log: bool = False,
    ) -> None:
        """Place a batch in a state where it stays, in place of any that has this ref.

        Any text is taken as `status`. What is None is left out of the body, save `modified_at`, which is then
        `created_at`, which is then now. With `log` there is an error log.
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
            error_log=_placed_log(1 if failed is None else failed) if log else None,
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

    def clear_faults(self) -> None:
        """Behave again."""
        self._run(self._faults.clear)

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


def _placed_log(failed: int) -> bytes:
    line = RecordError("null", "400", "Failed to parse import line").line()
    return gzip.compress(line * min(failed, MAX_PLACED_LOG_LINES), mtime=0)
