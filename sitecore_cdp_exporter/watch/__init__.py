"""The list of watched batches."""
