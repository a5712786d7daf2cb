"""The sandbox for tests, bench, faults and soak: with what they look at, and with faults that no user needs.

with Sandbox(client_key="key", api_token="token") as sandbox:
sandbox.put_batch(ref, status="error", total=800, succeeded=776, failed=24, log={"identity_missing": 24})
sandbox.set_fault(faults.Status(503, retry_after=7), times=1)
requests.get(f"{sandbox.base_url}/v2/batches/{ref}", auth=("key", "token"), timeout=5)
"""

from tools.sandbox import faults
from tools.sandbox.recorded import RECORD_ERRORS, Sandbox, error_log

__all__ = ["RECORD_ERRORS", "Sandbox", "error_log", "faults"]
