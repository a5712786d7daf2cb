"""Which batches are watched."""
