"""`--demo`: the exporter against the sandbox in the same process, with uploads that come and go."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sitecore_cdp_exporter.config.model import Config
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.sandbox import DemoUploads, Sandbox
from sitecore_cdp_exporter.sandbox.demo_upload_schedule import FEEDS

logger = logging.getLogger(__name__)

CLIENT_KEY = "sandbox-client"
API_TOKEN = "sandbox-token"  # noqa: S105  It opens nothing but the sandbox of this process.
# A few rounds of uploads; older ones leave the page.
WATCHED_BATCHES = 20
SECONDS_BETWEEN_POLLS = 5.0


@contextmanager
def demo_sandbox(*, speed: float = 1.0) -> Iterator[Sandbox]:
    """Run the sandbox. `speed` divides how long a batch takes."""
    with Sandbox(client_key=CLIENT_KEY, api_token=API_TOKEN, speed=speed) as sandbox:
        yield sandbox


def demo_config(sandbox: Sandbox) -> Config:
    """Return a config for the sandbox: its batches are discovered, and each feed is known by the prefix of its refs."""
    return Config.model_validate(
        {
            "api": {
                "base_url": sandbox.base_url,
                "basic_auth": {"username": CLIENT_KEY, "password": API_TOKEN},
                "endpoint": "inspect",
            },
            "discovery": {"enabled": True, "max_batches": WATCHED_BATCHES},
            "feeds": [
                {
                    "name": feed.name,
                    "ref_prefix": feed.ref_prefix,
                    "expect_success_every": "5m",
                    "next_success_resolves": True,
                }
                for feed in FEEDS
            ],
        }
    )


@contextmanager
def demo_uploads(sandbox: Sandbox, poller: Poller, *, speed: float = 1.0) -> Iterator[None]:
    """Upload batches, and poll like a Prometheus that scrapes every 5 s.

    `speed` is that of the sandbox; it divides the time between uploads and between polls, too.
    """

    def announce(ref: str, feed: str) -> None:
        logger.info("the demo uploads a batch", extra={"ref": ref, "feed": feed})

    def poll() -> None:
        while not stopping.wait(SECONDS_BETWEEN_POLLS / speed):
            poller.poll(time.monotonic() + SECONDS_BETWEEN_POLLS)

    stopping = threading.Event()
    polls = threading.Thread(target=poll, name="demo-polls", daemon=True)
    uploads = DemoUploads(sandbox.base_url, client_key=CLIENT_KEY, api_token=API_TOKEN, announce=announce, speed=speed)
    uploads.start()
    polls.start()
    try:
        yield
    finally:
        stopping.set()
        uploads.stop()
        polls.join()
