#!/usr/bin/env python3
"""Run the exporter from a checkout: `python exporter.py --config.file=config.yaml`."""

import sys

from sitecore_cdp_exporter.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
