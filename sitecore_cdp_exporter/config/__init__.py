"""Read the YAML config file into frozen models, and report every mistake in it at once, with its line."""
