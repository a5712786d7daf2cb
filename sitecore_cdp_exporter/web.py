"""The exporter's own HTTP server.

Connections and the health paths live on the event loop. Scrapes wait and encode on threads of their own, the landing
page on another, so that neither a slow client nor a stuck scrape keeps the health paths from answering.
"""

import asyncio
import errno
import gzip
import logging
import os
import socket
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, gzip_accepted

from sitecore_cdp_exporter.collector import Families, batch_families, poll_families
from sitecore_cdp_exporter.config import ConfigError, WatchedBatch
from sitecore_cdp_exporter.connection_limit import Connection, ConnectionLimit
from sitecore_cdp_exporter.landing_page import render_landing_page
from sitecore_cdp_exporter.poller import Poller

logger = logging.getLogger(__name__)

SCRAPE_TIMEOUT_HEADER = "X-Prometheus-Scrape-Timeout-Seconds"
DEFAULT_SCRAPE_TIMEOUT = 10.0
# The longest that the header is believed: a client must not be able to hold a thread for as long as it likes.
LONGEST_SCRAPE_TIMEOUT = 120.0
# What is kept back of the scrape timeout, at least, for the way there and back.
SMALLEST_SCRAPE_RESERVE = 0.5
SECONDS_TO_STOP = 3.0
MOST_CONNECTIONS = 1000
# For a client that sends nothing, or only a part of a request, or does not take its answer; and between two requests.
IDLE_SECONDS = 60.0
LARGEST_REQUEST_BODY = 1024
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
}


class ListenError(Exception):
    """An address can not be listened on. The message is one line."""


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen. Without a host: on all interfaces. Port 0: any free one."""

    host: str | None
    port: int

    @classmethod
    def parse(cls, text: str) -> "ListenAddress":
        """Read `host:port`, `:port` or `[IPv6 address]:port`; raises ValueError."""
        host, colon, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError("an IPv6 address stands in brackets: [::1]:10311")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:  # noqa: PLR2004  A port has 16 bits.
            raise ValueError("expected host:port or :port")
        return cls(host or None, int(port))

    def __str__(self) -> str:
        host = self.host or ""
        return f"[{host}]:{self.port}" if ":" in host else f"{host}:{self.port}"


class Reloader(Protocol):
    """What the server needs of `reload.ConfigReloader`."""

    def reload(self) -> None:
        """Load the config again, or raise ConfigError."""

    def reload_if_changed(self) -> None:
        """Load the config again if its file has changed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """How the server behaves.

    Attributes:
        telemetry_path: Where the metrics are.
        auto_reload: Whether each scrape looks at the config file first.
        lifecycle_enabled: Whether `POST /-/reload` is allowed.
        max_requests: How many scrapes and probes may wait at once; any more get 503.
        max_connections: How many connections an address may have; then idle ones have to go.
        idle_seconds: How long a connection may be idle.

    """

    telemetry_path: str = "/metrics"
    auto_reload: bool = False
    lifecycle_enabled: bool = False
    max_requests: int = 64
    max_connections: int = MOST_CONNECTIONS
    idle_seconds: float = IDLE_SECONDS


class WebServer:
    """Serves metrics, probes, the landing page and the health paths.

    Args:
        poller: Answers scrapes and probes.
        reloader: Loads the config again.
        registry: The metrics that are not of a snapshot: requests, process, build.
        settings: How the server behaves.

    """

    def __init__(
        self, poller: Poller, reloader: Reloader, registry: CollectorRegistry, settings: WebSettings | None = None
    ) -> None:
        self._poller = poller
        self._reloader = reloader
        self._registry = registry
        self._settings = settings or WebSettings()
        self._scrape_threads = ThreadPoolExecutor(self._settings.max_requests, thread_name_prefix="scrape")
        self._page_threads = ThreadPoolExecutor(1, thread_name_prefix="landing-page")
        self._scrapes: set[asyncio.Future[web.Response]] = set()
        # Seconds, by path: a probe encodes much less than a scrape.
        self._last_encoding: dict[str, float] = {}
        self._stopping = False
        self._runners: list[web.AppRunner] = []
        self._listeners: list[asyncio.Server] = []
        logger.addFilter(_is_our_fault)

    async def start(self, address: ListenAddress, health_address: ListenAddress | None = None) -> ListenAddress:
        """Listen on the address, and on another one for the health paths alone if there is one.

        Returns:
            The address, with the port that it really is.

        Raises:
            ListenError: An address is taken, or not of this machine.

        """
        health_routes = [web.get("/-/healthy", self._healthy), web.get("/-/ready", self._ready)]
        routes = [
            web.get(self._settings.telemetry_path, self._metrics, allow_head=False),
            web.get("/probe", self._probe, allow_head=False),
            web.get("/", self._landing_page),
            web.post("/-/reload", self._reload),
        ]
        listening = await self._listen(address, [*routes, *health_routes])
        if health_address is not None:
            await self._listen(health_address, health_routes)
        return listening

    async def stop(self) -> None:
        """Give the scrapes that wait three seconds at most, then end."""
        self._stopping = True
        if self._scrapes:
            await asyncio.wait(self._scrapes, timeout=SECONDS_TO_STOP)
        self._poller.stop()
        for listener in self._listeners:
            listener.close()
        for runner in self._runners:
            await runner.cleanup()
        self._scrape_threads.shutdown(wait=False, cancel_futures=True)
        self._page_threads.shutdown(wait=False, cancel_futures=True)

    async def _listen(self, address: ListenAddress, routes: Iterable[web.RouteDef]) -> ListenAddress:
        limit = ConnectionLimit(self._settings.max_connections, self._settings.idle_seconds)
        application = web.Application(middlewares=[limit.track], client_max_size=LARGEST_REQUEST_BODY)
        application.add_routes(routes)
        application.on_response_prepare.append(_add_headers)
        runner = web.AppRunner(application, shutdown_timeout=1)
        await runner.setup()
        self._runners.append(runner)
        server = runner.server
        if server is None:
            raise RuntimeError("the runner was set up, so it has a server")
        try:
            listener = await asyncio.get_running_loop().create_server(
                lambda: Connection(limit, server, logger=logger, access_log=None, lingering_time=0),
                address.host,
                address.port,
                backlog=1024,
            )
        except (OSError, UnicodeError) as error:
            raise ListenError(f"can not listen on {address}: {_reason(error)}") from None
        self._listeners.append(listener)
        return ListenAddress(address.host, listener.sockets[0].getsockname()[1])

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="The exporter is healthy.\n")

    async def _ready(self, _: web.Request) -> web.Response:
        if self._stopping:
            return web.Response(status=503, text="The exporter is stopping.\n")
        return web.Response(text="The exporter is ready.\n")

    async def _reload(self, _: web.Request) -> web.Response:
        if not self._settings.lifecycle_enabled:
            return web.Response(status=403, text="Reloading by HTTP is off. --web.enable-lifecycle switches it on.\n")
        try:
            await asyncio.get_running_loop().run_in_executor(self._page_threads, self._reloader.reload)
        except ConfigError as error:
            return web.Response(status=500, text=f"The config is not reloaded:\n{error}\n")
        return web.Response(text="The config is reloaded.\n")

    async def _landing_page(self, _: web.Request) -> web.Response:
        watched = list(self._poller.watched.values())
        page = await asyncio.get_running_loop().run_in_executor(
            self._page_threads, render_landing_page, self._poller.latest, watched, self._settings.telemetry_path
        )
        return web.Response(text=page, content_type="text/html", headers=PAGE_HEADERS)

    async def _metrics(self, request: web.Request) -> web.Response:
        def collect(deadline: float) -> Families:
            if self._settings.auto_reload:
                self._reloader.reload_if_changed()
            snapshot = self._poller.poll(deadline)
            return Families(batch_families(snapshot), poll_families(snapshot), self._registry.collect())

        return await self._scrape(request, collect)

    async def _probe(self, request: web.Request) -> web.Response:
        targets = request.query.getall("target", [])
        try:
            (target,) = targets
            WatchedBatch(ref=target)
        except ValueError:
            return web.Response(status=400, text="Name one batch: /probe?target=<ref>, where <ref> is a UUID.\n")

        def collect(deadline: float) -> Families:
            return Families(batch_families(self._poller.probe(target, deadline)))

        return await self._scrape(request, collect)

    async def _scrape(self, request: web.Request, collect: Callable[[float], Families]) -> web.Response:
        """Collect and encode on a thread, within the scrape's deadline."""
        deadline = time.monotonic() + self._time_for_scrape(request)
        if len(self._scrapes) >= self._settings.max_requests:
            waiting = f"{self._settings.max_requests} scrapes are waiting already (--web.max-requests)."
            return web.Response(status=503, text=f"{waiting} Try again later.\n")
        scrape = asyncio.get_running_loop().run_in_executor(
            self._scrape_threads, self._encode, request, collect, deadline
        )
        self._scrapes.add(scrape)
        scrape.add_done_callback(self._scrapes.discard)
        # Shielded, so that a scrape whose client has gone still counts until its thread is free.
        return await asyncio.shield(scrape)

    def _time_for_scrape(self, request: web.Request) -> float:
        """Return how many seconds a scrape may take until it must be encoded."""
        timeout = _scrape_timeout(request.headers.get(SCRAPE_TIMEOUT_HEADER))
        return timeout - max(SMALLEST_SCRAPE_RESERVE, 1.5 * self._last_encoding.get(request.path, 0.0))

    def _encode(self, request: web.Request, collect: Callable[[float], Families], deadline: float) -> web.Response:
        families = collect(deadline)
        started = time.monotonic()
        try:
            encoder, content_type = choose_encoder(request.headers.get("Accept", ""))
        except TypeError:  # The library compares a version that is not of numbers with numbers.
            encoder, content_type = choose_encoder("")
        body = encoder(families)
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if gzip_accepted(request.headers.get("Accept-Encoding", "")):
            body = gzip.compress(body, compresslevel=1)
            headers["Content-Encoding"] = "gzip"
        self._last_encoding[request.path] = time.monotonic() - started
        return web.Response(body=body, headers=headers)


def _scrape_timeout(header: str | None) -> float:
    """Return the seconds that Prometheus gives the scrape, or the default if it names no sensible number."""
    try:
        timeout = float(header or "")
    except ValueError:
        return DEFAULT_SCRAPE_TIMEOUT
    return timeout if 0 < timeout <= LONGEST_SCRAPE_TIMEOUT else DEFAULT_SCRAPE_TIMEOUT


def _reason(error: OSError | UnicodeError) -> str:
    """Say in the system's words why an address can not be listened on; asyncio wraps them in a longer text."""
    if isinstance(error, UnicodeError):
        return "this is no host name"
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    # Since Python 3.13 asyncio skips addresses that are not of this machine, and gives no number if none is left.
    return os.strerror(error.errno or errno.EADDRNOTAVAIL)


async def _add_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "sitecore-cdp-batch-exporter"
    response.headers["X-Content-Type-Options"] = "nosniff"


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Leave malformed requests out of the log: any stranger could fill it."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
