"""Measurements of speed and memory; each module is one command: `python -m benchmarks.NAME [--json FILE]`."""
