"""What to ask the Batch API, what was answered, and what is remembered."""
