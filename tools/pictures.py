"""Take the pictures of the documentation from a running demo, with headless Chromium.

    make pictures

It needs Chromium and Prometheus, and about five minutes: until batches of every status are there, and alerts fire.

docs/dashboard.png is not among them, because it needs a Grafana: after `docker compose up` and ten minutes it is
http://localhost:3000/d/sitecore-cdp-batches?from=now-15m&kiosk in a window of 1280 pixels.
"""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
import yaml

from stack.config_files import PROMETHEUS_CONFIG, Addresses, prometheus_config
from tools.exporter_program import Exporter, running_demo
from tools.program import answers_ok, wait_for
from tools.prometheus_server import PrometheusServer, running_prometheus

DOCS = Path(__file__).parents[1] / "docs"
STATUSES = ("uploading", "processing", "success", "corrupted", "error")
BATCHES = 9
FIRING_ALERTS = 2
MAX_WAIT = 600.0


@contextmanager
def prometheus(directory: Path, exporter: Exporter) -> Iterator[PrometheusServer]:
    """Run Prometheus with the shipped rules."""
    target = exporter.url.removeprefix("http://")
    config = yaml.safe_load(prometheus_config(Addresses(target, "", "127.0.0.1:1", "")))
    # Prometheus shows the path of the rules, so it is one that says nothing of this machine.
    config["rule_files"] = ["alerts.yml"]
    (directory / "alerts.yml").symlink_to(PROMETHEUS_CONFIG.parent / "alerts.yml")
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with running_prometheus(Path("prometheus.yml"), directory=directory, scraped=exporter.program) as server:
        yield server


def shows_enough(page: str) -> bool:
    """Return whether batches of every status are there, and an upload that failed and was repaired."""
    return all(f">{status}<" in page for status in STATUSES) and page.count("<tr><td>") >= BATCHES


def enough_alerts_fire(prometheus_url: str) -> bool:
    """Return whether so many alerts fire."""
    alerts = requests.get(f"{prometheus_url}/api/v1/alerts", timeout=10).json()["data"]["alerts"]
    return len([alert for alert in alerts if alert["state"] == "firing"]) >= FIRING_ALERTS


def alerts_page(prometheus_url: str) -> str:
    """Return the URL of the page Alerts: Debian's Prometheus has the classic pages only."""
    page = f"{prometheus_url}/classic/alerts"
    return page if answers_ok(page) else f"{prometheus_url}/alerts"


def take_picture(url: str, name: str, directory: Path, *, height: int) -> None:
    """Write a picture of a page; `height` is in CSS pixels."""
    subprocess.run(  # noqa: S603  The command is written out here.
        [  # noqa: S607  Chromium is found on the PATH.
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--hide-scrollbars",
            "--force-device-scale-factor=2",
            # The page loads its alerts by script.
            "--virtual-time-budget=5000",
            f"--user-data-dir={directory}/chromium",
            f"--window-size=1240,{height}",
            f"--screenshot={DOCS / name}",
            url,
        ],
        check=True,
        stderr=subprocess.DEVNULL,
    )


def main() -> None:
    """Write docs/landing-page.png and docs/alerts.png."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with running_demo(directory) as (exporter, _), prometheus(directory, exporter) as server:
            url = f"{exporter.url}/"
            wait_for(
                "batches of every status",
                lambda: shows_enough(requests.get(url, timeout=10).text),
                programs=server.programs,
                seconds=MAX_WAIT,
            )
            take_picture(url, "landing-page.png", directory, height=640)
            wait_for(
                "alerts that fire",
                lambda: enough_alerts_fire(server.url),
                programs=server.programs,
                seconds=MAX_WAIT,
            )
            take_picture(alerts_page(server.url), "alerts.png", directory, height=640)


if __name__ == "__main__":
    main()
