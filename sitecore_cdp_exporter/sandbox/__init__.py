"""A local, stateful imitation of the Batch API on loopback, for the demo, drills and tests.

It stands in for a service that nobody can run locally. It is not Sitecore CDP, and it keeps everything in memory.
"""

from sitecore_cdp_exporter.sandbox.server import Sandbox

__all__ = ["Sandbox"]
