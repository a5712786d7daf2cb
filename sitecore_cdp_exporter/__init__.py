"""Prometheus exporter for the Batch API of Sitecore CDP."""

__version__ = "0.1.0"
