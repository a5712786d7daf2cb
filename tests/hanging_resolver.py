"""The command with a resolver that hangs for one host. It runs in a process of its own, and imports little."""

import os
import signal
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

from sitecore_cdp_exporter import cli
from sitecore_cdp_exporter.web import server as web
from sitecore_cdp_exporter.web.address import ListenAddress

HOST = "sitecore.invalid"


def main(flags: Sequence[str]) -> int:
    """Run the command, scrape it once it listens, and send it SIGTERM as soon as it looks up the host."""
    look_up, start = socket.getaddrinfo, web.WebServer.start

    def hang(host: Any, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401  As in getaddrinfo.
        if host == HOST:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(3600)
        return look_up(host, *arguments, **options)

    async def start_and_scrape(self: web.WebServer, *addresses: Any) -> list[ListenAddress]:  # noqa: ANN401  Those of start.
        [address] = await start(self, *addresses)
        threading.Thread(target=_scrape, args=(address,)).start()
        return [address]

    socket.getaddrinfo = hang
    web.SECONDS_TO_STOP = 0.5
    setattr(web.WebServer, "start", start_and_scrape)  # noqa: B010  mypy takes it for a mistake.
    return cli.main(flags)


def _scrape(address: ListenAddress) -> None:
    with urllib.request.urlopen(f"http://{address}/metrics") as answer:
        sys.stdout.write(f"scraped: {answer.status}\n")
