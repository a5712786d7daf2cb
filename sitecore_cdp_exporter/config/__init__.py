"""The YAML config file as frozen models, and every mistake in it at once, with its line."""
