"""The soak: the exporter under everything that production does to it, and what became of it in two Prometheus.

`python -m tools.soak` runs it and reports what holds.
"""
