"""A local Batch API that behaves like the real one, on loopback, with state, for the demo and for tests.

    with Sandbox(client_key="key", api_token="token", speed=60) as sandbox:
        sandbox.put_batch(ref, status="error", total=121776, succeeded=121460, failed=316, log=True)
        sandbox.set_fault(faults.Status(503, retry_after=7), times=1)
        requests.get(f"{sandbox.base_url}/v2/batches/{ref}", auth=("key", "token"), timeout=5)

It is a stand-in for a service that nobody can run at home. It is not Sitecore CDP, and it keeps nothing.
"""

from sitecore_cdp_exporter.sandbox import faults
from sitecore_cdp_exporter.sandbox.demo import DemoUploads
from sitecore_cdp_exporter.sandbox.request_log import RequestLogEntry
from sitecore_cdp_exporter.sandbox.server import Sandbox

__all__ = ["DemoUploads", "RequestLogEntry", "Sandbox", "faults"]
