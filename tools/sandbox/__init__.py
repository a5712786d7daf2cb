"""The sandbox for tests, bench, faults and soak: with what they look at, and with faults that no user needs."""

from sitecore_cdp_exporter.sandbox import Sandbox, faults

__all__ = ["Sandbox", "faults"]
