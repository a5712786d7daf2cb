"""Programs that show how the exporter survives what production does."""
