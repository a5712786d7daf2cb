"""The soak: the exporter under everything that production does to it, and what two Prometheus servers stored of it.

`python -m tools.soak` runs it and reports what holds.
"""
