"""The fault suite: one row for each fault that the exporter has to survive, tried on the real program.

`python -m tools.faults` tries them all and writes what it measured into docs/reliability.md.
"""
