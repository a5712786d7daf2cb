"""What maintainers run: benchmarks, faults, soak, pictures."""
