"""What `make check` and releases ask about the packages that the exporter is made of."""
