"""The HTTP server: metrics, pages, health."""
