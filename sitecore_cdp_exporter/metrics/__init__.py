"""Snapshots as metric families, and families as text."""
