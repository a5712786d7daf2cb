"""`--demo`: the exporter against the sandbox in the same process, with uploads that come and go."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import SecretStr

from sitecore_cdp_exporter.config import ApiConfig, BasicAuth, Config, WatchedBatch
from sitecore_cdp_exporter.poller import Poller
from sitecore_cdp_exporter.sandbox import DemoUploads, Sandbox
from sitecore_cdp_exporter.watchlist import Watchlist

logger = logging.getLogger(__name__)

CLIENT_KEY = "sandbox-client"
API_TOKEN = "sandbox-token"  # noqa: S105  It opens nothing but the sandbox of this process.
# A few rounds of uploads; older ones leave the watch list.
WATCHED_BATCHES = 20
SECONDS_BETWEEN_POLLS = 5.0


@contextmanager
def demo_config(*, speed: float = 1.0) -> Iterator[Config]:
    """Run the sandbox, and yield a config for it. `speed` divides how long a batch takes."""
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, speed=speed) as sandbox:
        basic_auth = BasicAuth(username=SecretStr(CLIENT_KEY), password=SecretStr(API_TOKEN))
        yield Config(api=ApiConfig(base_url=sandbox.base_url, basic_auth=basic_auth, endpoint="inspect"))


@contextmanager
def demo_uploads(base_url: str, watchlist: Watchlist, poller: Poller, *, speed: float = 1.0) -> Iterator[None]:
    """Upload batches, watch each as soon as it is allocated, and poll like a Prometheus that scrapes every 5 s.

    `speed` is that of the sandbox; it divides the time between uploads and between polls, too.
    """
    announced: deque[WatchedBatch] = deque(maxlen=WATCHED_BATCHES)

    def watch(ref: str, feed: str) -> None:
        announced.append(WatchedBatch(ref=ref, feed=feed))
        watchlist.replace(announced)
        logger.info("the demo uploads a batch", extra={"ref": ref, "feed": feed})

    def poll() -> None:
        while not stopping.wait(SECONDS_BETWEEN_POLLS / speed):
            poller.poll(time.monotonic() + SECONDS_BETWEEN_POLLS)

    stopping = threading.Event()
    polls = threading.Thread(target=poll, name="demo-polls", daemon=True)
    uploads = DemoUploads(base_url, client_key=CLIENT_KEY, api_token=API_TOKEN, announce=watch, speed=speed)
    uploads.start()
    polls.start()
    try:
        yield
    finally:
        stopping.set()
        uploads.stop()
        polls.join()
