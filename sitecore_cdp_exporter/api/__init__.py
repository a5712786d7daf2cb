"""One GET to the Batch API: typed data, or the reason why there is none."""
