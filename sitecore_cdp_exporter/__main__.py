"""`python -m sitecore_cdp_exporter` is the command, too."""

import sys

from sitecore_cdp_exporter.cli import main

sys.exit(main())
