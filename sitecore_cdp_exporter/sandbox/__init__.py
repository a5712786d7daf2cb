"""A local Batch API that behaves like the real one, on loopback, with state, for the demo, drills and tests.

It is a stand-in for a service that nobody can run at home. It is not Sitecore CDP, and it keeps nothing.
"""

from sitecore_cdp_exporter.sandbox.demo_uploader import DemoUploads
from sitecore_cdp_exporter.sandbox.server import Sandbox

__all__ = ["DemoUploads", "Sandbox"]
