"""What the fixtures of the stack and the tests both name."""

from datetime import UTC, datetime, timedelta

from tools.exporter_program import ROOT

SHIPPED_CONFIG = ROOT / "prometheus" / "prometheus.yml"
SHIPPED_TARGET = "localhost:10311"

# The exporter's config lists these, before anybody uploads them.
LISTED_REFS = {
    "uploaded": "5f0e0d5c-6f0c-4d9a-9d37-6c8a3f1f2a01",
    "rejected": "5f0e0d5c-6f0c-4d9a-9d37-6c8a3f1f2a02",
    "finished": "5f0e0d5c-6f0c-4d9a-9d37-6c8a3f1f2a04",
}
# This one is known to Prometheus' service discovery only.
PROBED_REF = "5f0e0d5c-6f0c-4d9a-9d37-6c8a3f1f2a03"


class SteppedClock:
    """A clock that stands still until it is advanced, so that a state lasts until Prometheus has seen it."""

    def __init__(self) -> None:
        self._now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self._now

    def advance(self, step: timedelta) -> None:
        self._now += step
