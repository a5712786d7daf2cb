"""Prometheus exporter for the Batch API of Sitecore CDP."""

import os

__version__ = "0.1.0"

# Libraries read these when they are imported. The first names a file for the keys of all TLS connections, which decrypt
# the token; the others a folder where prometheus_client keeps the metrics of several processes. The exporter starts
# whether or not they can be written.
for _name in ("SSLKEYLOGFILE", "PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
    os.environ.pop(_name, None)
