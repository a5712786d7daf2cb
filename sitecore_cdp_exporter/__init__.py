"""Prometheus exporter for the Batch API of Sitecore CDP."""

import os

__version__ = "0.2.0"

# Libraries read these when they are imported. The first names a log file for TLS keys, with which the token can be
# decrypted; the others a folder in which prometheus_client shares metrics between processes. The exporter must start
# even if they are not writable.
for _name in ("SSLKEYLOGFILE", "PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
    os.environ.pop(_name, None)
