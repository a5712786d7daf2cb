"""The exporter with a fault of its own: at one ref its parser fails, and the error quotes all that was read."""

import sys
from unittest.mock import patch

from sitecore_cdp_exporter.api.batch import BatchAnswer, parse_batch
from sitecore_cdp_exporter.cli import main

FAULTY_REF = "00000000-0000-4000-8000-ffffffffffff"


def parse_or_fail(ref: str, body: bytes) -> BatchAnswer:
    if ref == FAULTY_REF:
        raise RuntimeError(f"{body!r}")
    return parse_batch(ref, body)


if __name__ == "__main__":
    with patch("sitecore_cdp_exporter.api.client.parse_batch", parse_or_fail):
        sys.exit(main())
