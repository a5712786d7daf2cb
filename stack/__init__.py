"""`make stack`: exporter, Prometheus, Alertmanager and a receiver of alerts, without Docker."""
