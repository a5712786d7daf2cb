"""TLS and passwords, in the grammar of the Prometheus exporter-toolkit."""
