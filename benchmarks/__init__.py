"""Studies that are too slow for the tests: `python -m benchmarks.NAME --help`."""
