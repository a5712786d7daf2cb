"""The shipped config files with the addresses of this run; the rules and templates stay where they are."""

from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PROMETHEUS_CONFIG = ROOT / "prometheus" / "prometheus.yml"
ALERTMANAGER_CONFIG = ROOT / "alertmanager" / "alertmanager.yml"


@dataclass(frozen=True)
class Addresses:
    """Where each program listens, as host:port."""

    exporter: str
    prometheus: str
    alertmanager: str
    webhook_receiver: str


# As the shipped config files name them.
SHIPPED = Addresses(
    exporter="localhost:10311",
    prometheus="localhost:9090",
    alertmanager="localhost:9093",
    webhook_receiver="webhook-receiver:9099",
)


def prometheus_config(addresses: Addresses) -> str:
    """Return prometheus/prometheus.yml, to be used from any folder."""
    text = PROMETHEUS_CONFIG.read_text(encoding="utf-8")
    text = text.replace(SHIPPED.exporter, addresses.exporter).replace(SHIPPED.alertmanager, addresses.alertmanager)
    config = yaml.safe_load(text)
    folder = PROMETHEUS_CONFIG.parent
    config["rule_files"] = [str(folder / name) for name in config["rule_files"]]
    for job in config["scrape_configs"]:
        for discovery in job.get("file_sd_configs", []):
            discovery["files"] = [str(folder / name) for name in discovery["files"]]
    return yaml.safe_dump(config, sort_keys=False)


def alertmanager_config(addresses: Addresses) -> str:
    """Return alertmanager/alertmanager.yml, to be used from any folder."""
    text = ALERTMANAGER_CONFIG.read_text(encoding="utf-8")
    config = yaml.safe_load(text.replace(SHIPPED.webhook_receiver, addresses.webhook_receiver))
    config["templates"] = [str(ALERTMANAGER_CONFIG.parent / name) for name in config["templates"]]
    return yaml.safe_dump(config, sort_keys=False)
