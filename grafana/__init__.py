"""The Grafana dashboard, as typed code that writes its JSON."""
