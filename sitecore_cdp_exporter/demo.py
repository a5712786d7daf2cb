"""`--demo`: run the exporter against a sandbox in the same process, with continuous uploads."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import requests

from sitecore_cdp_exporter.config.model import Config
from sitecore_cdp_exporter.poll.poller import Poller
from sitecore_cdp_exporter.sandbox import Sandbox
from sitecore_cdp_exporter.sandbox.demo_upload_schedule import (
    FEEDS,
    ROUND_TIME,
    TIME_BETWEEN_UPLOADS,
)
from sitecore_cdp_exporter.sandbox.demo_uploader import DemoUploads
from sitecore_cdp_exporter.sandbox.server import API_TOKEN, CLIENT_KEY

logger = logging.getLogger(__name__)

# Three rounds of uploads: what is older leaves the page, as what is past its retention does anywhere.
RETENTION = {"succeeded": "9m", "failed": "9m"}
SECONDS_BETWEEN_POLLS = 5.0
# Of each other feed every five minutes: each uploads in every round.
EXPECTED = {"nightly-guests": {"expect_success_by": {"time": "23:30", "window": "6h"}}}
# On a busy machine the sandbox takes longer than its speed says.
SECONDS_TO_FINISH_A_ROUND = 30.0


@dataclass(frozen=True)
class Demo:
    """A sandbox, and what the exporter needs to show it. `speed` divides all times."""

    sandbox: Sandbox
    speed: float = 1.0

    @property
    def config(self) -> Config:
        """A config for the sandbox. Batches are discovered, and matched to feeds by their ref prefix."""
        return Config.model_validate(
            {
                "api": {
                    "base_url": self.sandbox.base_url,
                    "basic_auth": {"username": CLIENT_KEY, "password": API_TOKEN},
                    "endpoint": "inspect",
                },
                "discovery": {"enabled": True},
                "retention": RETENTION,
                "feeds": [
                    {
                        "name": feed.name,
                        "ref_prefix": feed.ref_prefix,
                        **EXPECTED.get(feed.name, {"expect_success_every": "5m"}),
                        "next_success_resolves": True,
                    }
                    for feed in FEEDS
                ],
            }
        )

    @contextmanager
    def uploads(self, poller: Poller) -> Iterator[None]:
        """Upload batches, and poll as often as a Prometheus with a scrape interval of 5 s."""

        def announce(ref: str, feed: str) -> None:
            logger.info("the demo uploads a batch", extra={"ref": ref, "feed": feed})

        def poll() -> None:
            while not stopping.wait(SECONDS_BETWEEN_POLLS / self.speed):
                poller.poll(time.monotonic() + SECONDS_BETWEEN_POLLS)

        stopping = threading.Event()
        polls = threading.Thread(target=poll, name="demo-polls", daemon=True)
        uploads = self._new_uploads(announce)
        uploads.start()
        polls.start()
        try:
            yield
        finally:
            stopping.set()
            uploads.stop()
            polls.join()

    def upload_round(self) -> None:
        """Upload until as many batches have finished as there are feeds, or for half a minute."""
        uploads = self._new_uploads(lambda *_: None)
        uploads.start()
        give_up = time.monotonic() + SECONDS_TO_FINISH_A_ROUND
        try:
            with requests.Session() as session:
                # Loopback needs no proxy of the environment, and no netrc.
                session.trust_env = False
                session.auth = (CLIENT_KEY, API_TOKEN)
                url = f"{self.sandbox.base_url}/v2/batches/inspect?status=success,error,corrupted"
                while time.monotonic() < give_up:
                    if session.get(url, timeout=SECONDS_TO_FINISH_A_ROUND).json()["totalCount"] >= len(FEEDS):
                        break
                    time.sleep(0.05)
        finally:
            uploads.stop()

    def _new_uploads(self, announce: Callable[[str, str], None]) -> DemoUploads:
        return DemoUploads(
            self.sandbox.base_url,
            client_key=CLIENT_KEY,
            api_token=API_TOKEN,
            announce=announce,
            speed=self.speed,
        )

    def banner(self, url: str, telemetry_path: str) -> str:
        """Return a text about what to look at. `url` is that of the exporter."""
        base_url = self.sandbox.base_url
        return (
            "\n"
            "This is a demo: a sandbox in this process stands in for Sitecore CDP. Nothing leaves this machine.\n"
            f"Every {ROUND_TIME:.0f} seconds each of its {len(FEEDS)} feeds uploads a batch, "
            f"{TIME_BETWEEN_UPLOADS:.0f} seconds after the one before.\n"
            "Some fail, and are repaired and uploaded again. Watch them go through their states:\n"
            "\n"
            f"    {url}/  what is watched\n"
            f"    {url}{telemetry_path}  the metrics\n"
            f"    {base_url}  the sandbox itself, for curl: client key {CLIENT_KEY}, API token {API_TOKEN}\n"
            "\n"
            "For example, to list its batches as Sitecore CDP would:\n"
            "\n"
            f"    curl --user {CLIENT_KEY}:{API_TOKEN} '{base_url}/v2/batches/inspect?limit=100'\n"
            "\n"
            "Ctrl-C ends it.\n"
        )


@contextmanager
def start_demo(*, speed: float = 1.0) -> Iterator[Demo]:
    """Run the sandbox of a demo."""
    with Sandbox(speed=speed) as sandbox:
        yield Demo(sandbox, speed)
