"""The exporter's own HTTP server.

Connections and the health paths live on the event loop. Scrapes wait and encode on threads of their own, pages are
made on another, so that neither a slow client nor a stuck scrape keeps the health paths from answering.
"""

import asyncio
import logging
import resource
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from sitecore_cdp_exporter.config.files import MAX_SHARE_OF_A_SCRAPE
from sitecore_cdp_exporter.config.model import ConfigError, WatchedBatch
from sitecore_cdp_exporter.config.reload import Reloader
from sitecore_cdp_exporter.metrics.collector import Families, GaugeCollector
from sitecore_cdp_exporter.metrics.definitions import WEB_CONFIG_GAUGES
from sitecore_cdp_exporter.metrics.encoder import Exposition
from sitecore_cdp_exporter.metrics.families import poll_families
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.web.address import ListenAddress, listen
from sitecore_cdp_exporter.web.batch_page import render_batch_page, render_not_watched_page, state_of
from sitecore_cdp_exporter.web.connections import Connections
from sitecore_cdp_exporter.web.deadline import SCRAPE_TIMEOUT_HEADER, seconds_to_collect
from sitecore_cdp_exporter.web.landing_page import render_landing_page
from sitecore_cdp_exporter.web.negotiation import Encode, encode_as_asked
from sitecore_cdp_exporter.web.security.access import AccessControl
from sitecore_cdp_exporter.web.security.file import WebConfigFile
from sitecore_cdp_exporter.web.security.tls import CurrentContext

logger = logging.getLogger(__name__)

SECONDS_TO_STOP = 3.0
MAX_CONNECTIONS = 1000
# Each takes a third of a megabyte. Prometheus needs one per concurrent scrape or probe.
MAX_TLS_CONNECTIONS = 200
# For a client that sends nothing or only part of a request, or does not read its answer; and between two requests.
IDLE_SECONDS = 60.0
# For a silent or slow TLS client.
HANDSHAKE_SECONDS = 10.0
MAX_REQUEST_BODY = 1024
# The page has no scripts, images or forms; its style is inline.
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "deny",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSettings:
    """How the server behaves.

    Attributes:
        telemetry_path: Where the metrics are.
        auto_reload: Whether each scrape first checks the config file for changes.
        lifecycle_enabled: Whether `POST /-/reload` is allowed.
        max_requests: How many scrapes and probes may be in progress at once; more get 503. Probes get it at half as
            many, which leaves room for scrapes of /metrics.
        max_connections: How many connections a listen address may have; beyond that, idle ones are closed.
        idle_seconds: How long a connection may be idle.

    """

    telemetry_path: str = "/metrics"
    auto_reload: bool = False
    lifecycle_enabled: bool = False
    max_requests: int = 64
    max_connections: int = MAX_CONNECTIONS
    idle_seconds: float = IDLE_SECONDS


class WebServer:
    """Serves metrics, probes, the landing page, a page for each batch, and the health paths.

    Args:
        poller: Answers scrapes and probes.
        reloader: Loads the config again.
        registry: The metrics that are not in a snapshot: requests, process, build.
        settings: How the server behaves.
        web_config: TLS and passwords; None: plain HTTP for anybody who can reach the port.

    """

    def __init__(
        self,
        poller: Poller,
        reloader: Reloader,
        registry: CollectorRegistry,
        settings: WebSettings | None = None,
        web_config: WebConfigFile | None = None,
    ) -> None:
        self._poller = poller
        self._reloader = reloader
        self._registry = registry
        self._settings = settings or WebSettings()
        self._web_config = web_config
        if web_config is not None:
            reloader_of_web_config = web_config.reloader
            registry.register(GaugeCollector(WEB_CONFIG_GAUGES, lambda: reloader_of_web_config.state))
        self._scrape_threads = ThreadPoolExecutor(self._settings.max_requests, thread_name_prefix="scrape")
        self._page_threads = ThreadPoolExecutor(1, thread_name_prefix="page")
        self._scrapes: set[asyncio.Future[web.Response]] = set()
        self._exposition = Exposition()
        # Seconds, by path: a probe encodes much less than a scrape.
        self._last_encoding: dict[str, float] = {}
        self._stopping = False
        self._runners: list[web.AppRunner] = []
        self._listeners: list[asyncio.Server] = []
        self._listener_count = 0
        self._connections: list[Connections] = []
        self._background: list[asyncio.Task[None]] = []
        logger.addFilter(_is_our_fault)

    async def start(
        self, addresses: Sequence[ListenAddress], health_address: ListenAddress | None = None
    ) -> list[ListenAddress]:
        """Listen on the addresses, and on `health_address`, if given, for the health paths only.

        Returns:
            The addresses, with their actual ports.

        Raises:
            ListenError: An address is in use, or does not belong to this machine.

        """
        health_routes = [web.get("/-/healthy", self._healthy), web.get("/-/ready", self._ready)]
        routes = [
            web.get(self._settings.telemetry_path, self._metrics),
            web.get("/probe", self._probe),
            web.get("/", self._landing_page),
            web.get("/batches/{ref}", self._batch_page),
            web.post("/-/reload", self._reload),
        ]
        self._listener_count = len(addresses) + (health_address is not None)
        listening = [await self._listen(address, [*routes, *health_routes], self._web_config) for address in addresses]
        if self._web_config is not None:
            self._background.append(asyncio.create_task(self._web_config.watch()))
        if health_address is not None:
            await self._listen(health_address, health_routes, None)
        return listening

    async def stop(self) -> None:
        """Give running scrapes at most three seconds, then stop."""
        self._stopping = True
        if self._scrapes:
            await asyncio.wait(self._scrapes, timeout=SECONDS_TO_STOP)
        self._poller.stop()
        for listener in self._listeners:
            listener.close()
        for runner in self._runners:
            await runner.cleanup()
        for task in self._background:
            task.cancel()
        for connections in self._connections:
            connections.close_all()
        # The transports close in the next iteration of the loop.
        await asyncio.sleep(0)
        self._scrape_threads.shutdown(wait=False, cancel_futures=True)
        self._page_threads.shutdown(wait=False, cancel_futures=True)

    async def _listen(
        self, address: ListenAddress, routes: Iterable[web.RouteDef], web_config: WebConfigFile | None
    ) -> ListenAddress:
        has_tls = web_config is not None and web_config.has_tls
        connections = Connections(
            self._max_connections(has_tls=has_tls), self._settings.idle_seconds, self._add_headers
        )
        server = await self._server(routes, connections, web_config)
        tls: dict[str, Any] = {
            "ssl": CurrentContext.of(self._tls_context),
            "ssl_handshake_timeout": HANDSHAKE_SECONDS,
            # A client may still be reading its last answer, which asyncio's default would cut off.
            "ssl_shutdown_timeout": self._settings.idle_seconds,
        }
        listener = await listen(
            address,
            lambda: connections.connection(server, logger=logger, access_log=None),
            # asyncio accepts this many at once, and a few times as many before the limit applies to the first.
            backlog=max(1, min(1024, _share_of_open_files(self._listener_count) // 4)),
            **(tls if has_tls else {}),
        )
        self._listeners.append(listener)
        self._connections.append(connections)
        self._background.append(asyncio.create_task(connections.sweep()))
        return ListenAddress(address.host, listener.sockets[0].getsockname()[1])

    def _max_connections(self, *, has_tls: bool) -> int:
        most = max(MAX_TLS_CONNECTIONS, 2 * self._settings.max_requests) if has_tls else MAX_CONNECTIONS
        return min(self._settings.max_connections, most, _share_of_open_files(self._listener_count))

    async def _server(
        self, routes: Iterable[web.RouteDef], connections: Connections, web_config: WebConfigFile | None
    ) -> web.Server:
        """Return what answers a listener's requests."""
        middlewares = [connections.track]
        if web_config is not None:
            # Runs first: the connection of a client without access stays idle.
            middlewares.insert(0, AccessControl(web_config, (self._healthy, self._ready)).check)
        application = web.Application(middlewares=middlewares, client_max_size=MAX_REQUEST_BODY)
        application.add_routes(routes)
        application.on_response_prepare.append(self._prepare)
        application.on_response_prepare.append(connections.answering)
        runner = web.AppRunner(application, shutdown_timeout=1)
        await runner.setup()
        self._runners.append(runner)
        if runner.server is None:
            raise RuntimeError("the runner was set up, so it has a server")
        return runner.server

    def _tls_context(self) -> ssl.SSLContext:
        context = None if self._web_config is None else self._web_config.last.tls
        if context is None:
            raise RuntimeError("TLS cannot be turned off while the exporter runs")
        return context

    async def _prepare(self, _: web.Request, response: web.StreamResponse) -> None:
        self._add_headers(response)

    def _add_headers(self, response: web.StreamResponse) -> None:
        response.headers["Server"] = "sitecore-cdp-batch-exporter"
        response.headers["X-Content-Type-Options"] = "nosniff"
        if self._web_config is not None:
            response.headers.update(self._web_config.last.headers)

    async def _healthy(self, _: web.Request) -> web.Response:
        return web.Response(text="The exporter is healthy.\n")

    async def _ready(self, _: web.Request) -> web.Response:
        if self._stopping:
            return web.Response(status=503, text="The exporter is stopping.\n")
        return web.Response(text="The exporter is ready.\n")

    async def _reload(self, _: web.Request) -> web.Response:
        if not self._settings.lifecycle_enabled:
            return web.Response(status=403, text="Reload over HTTP is disabled. --web.enable-lifecycle enables it.\n")
        try:
            await asyncio.get_running_loop().run_in_executor(self._page_threads, self._reloader.reload)
        except ConfigError as error:
            return web.Response(status=500, text=f"Cannot reload the config:\n{error}\n")
        return web.Response(text="Reloaded the config.\n")

    async def _landing_page(self, _: web.Request) -> web.Response:
        render = partial(
            render_landing_page,
            self._poller.latest,
            list(self._poller.watched.values()),
            self._poller.config.api,
            self._settings.telemetry_path,
            time.time(),
        )
        return await self._page(render)

    async def _batch_page(self, request: web.Request) -> web.Response:
        ref = request.match_info["ref"]
        state = state_of(ref, self._poller.latest, self._poller.watched)
        if state is None:
            return await self._page(render_not_watched_page, status=404)
        return await self._page(partial(render_batch_page, state))

    async def _page(self, render: Callable[[], str], status: int = 200) -> web.Response:
        """Answer with a page that is made on its own thread: it may be long."""
        text = await asyncio.get_running_loop().run_in_executor(self._page_threads, render)
        return web.Response(status=status, text=text, content_type="text/html", headers=PAGE_HEADERS)

    async def _metrics(self, request: web.Request) -> web.Response:
        def collect(deadline: float) -> Encode:
            if self._settings.auto_reload:
                self._reloader.reload_if_changed((deadline - time.monotonic()) * MAX_SHARE_OF_A_SCRAPE)
            snapshot = self._poller.poll(deadline)
            others = Families(poll_families(snapshot), self._registry.collect())
            return partial(self._exposition.encode, snapshot, others)

        return await self._scrape(request, collect, most=self._settings.max_requests)

    async def _probe(self, request: web.Request) -> web.Response:
        targets = request.query.getall("target", [])
        try:
            (target,) = targets
            WatchedBatch(ref=target)
        except ValueError:
            return web.Response(status=400, text="Name one batch: /probe?target=<ref>, where <ref> is a UUID.\n")

        def collect(deadline: float) -> Encode:
            return partial(Exposition().encode, self._poller.probe(target, deadline), Families())

        return await self._scrape(request, collect, most=max(1, self._settings.max_requests // 2))

    async def _scrape(self, request: web.Request, collect: Callable[[float], Encode], *, most: int) -> web.Response:
        """Collect and encode on a thread, within the scrape's deadline, unless too many scrapes wait already."""
        if request.method == hdrs.METH_HEAD:
            # HEAD only asks whether there are metrics. Do not ask the API for that.
            return web.Response(headers={hdrs.CONTENT_TYPE: CONTENT_TYPE_PLAIN_0_0_4})
        last_encoding = self._last_encoding.get(request.path, 0.0)
        deadline = time.monotonic() + seconds_to_collect(request.headers.get(SCRAPE_TIMEOUT_HEADER), last_encoding)
        if len(self._scrapes) >= most:
            waiting = f"{most} scrapes are already in progress (--web.max-requests)."
            return web.Response(status=503, text=f"{waiting} Try again later.\n")
        scrape = asyncio.get_running_loop().run_in_executor(
            self._scrape_threads, self._encode, request, collect, deadline
        )
        self._scrapes.add(scrape)
        scrape.add_done_callback(self._scrapes.discard)
        # Shielded, so that a scrape still counts until its thread is free, even if its client has gone.
        return await asyncio.shield(scrape)

    def _encode(self, request: web.Request, collect: Callable[[float], Encode], deadline: float) -> web.Response:
        encode = collect(deadline)
        started = time.monotonic()
        body, headers = encode_as_asked(encode, request.headers)
        self._last_encoding[request.path] = time.monotonic() - started
        return web.Response(body=body, headers=headers)


def _share_of_open_files(listeners: int) -> int:
    """Return how many connections each listener may have, leaving a third of the open files for everything else."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if limit == resource.RLIM_INFINITY else max(1, limit * 2 // 3 // max(2, listeners))


def _is_our_fault(record: logging.LogRecord) -> bool:
    """Filter out malformed requests: any stranger could fill the log with them."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))
