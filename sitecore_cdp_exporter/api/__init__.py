"""The Batch API client: each GET returns typed data, or the reason why not."""
