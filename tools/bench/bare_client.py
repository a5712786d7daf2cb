"""The requests of a scrape by http.client alone, over connections that are kept: what machine and sandbox take."""

import http.client
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from urllib.parse import urlsplit

from tools.bench.upstream import Upstream
from tools.exporter_program import API_TOKEN, CLIENT_KEY

_AUTHORIZATION = b64encode(f"{CLIENT_KEY}:{API_TOKEN}".encode()).decode()
_SINGLE_REQUESTS = 5


class BareClient:
    """Reads the answers and throws them away."""

    def __init__(self, upstream: Upstream, concurrency: int) -> None:
        address = urlsplit(upstream.base_url)
        context = ssl.create_default_context(cafile=str(upstream.ca_file))
        self._paths = [f"/v2/batches/inspect/{ref}" for ref in upstream.refs]
        self._connections = [
            http.client.HTTPSConnection(str(address.hostname), address.port, context=context)
            for _ in range(concurrency)
        ]
        self.read_all()

    def latency(self) -> float:
        """Return the seconds that a request takes when it is alone."""
        seconds = []
        for path in self._paths[:_SINGLE_REQUESTS]:
            started = time.perf_counter()
            _read(self._connections[0], path)
            seconds.append(time.perf_counter() - started)
        return median(seconds)

    def read_all(self) -> None:
        """Ask for all batches, with a thread for each connection."""
        paths = iter(self._paths)
        lock = threading.Lock()

        def work(connection: http.client.HTTPSConnection) -> None:
            while True:
                with lock:
                    path = next(paths, None)
                if path is None:
                    return
                _read(connection, path)

        threads = [threading.Thread(target=work, args=(connection,)) for connection in self._connections]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def close(self) -> None:
        """Close the connections."""
        for connection in self._connections:
            connection.close()


@contextmanager
def bare_client(upstream: Upstream, *, concurrency: int) -> Iterator[BareClient]:
    client = BareClient(upstream, concurrency)
    try:
        yield client
    finally:
        client.close()


def _read(connection: http.client.HTTPSConnection, path: str) -> None:
    connection.request("GET", path, headers={"Authorization": f"Basic {_AUTHORIZATION}"})
    response = connection.getresponse()
    response.read()
    if response.status != http.client.OK:
        raise RuntimeError(f"the sandbox answered {response.status}")
