"""Everything that has to be seen on a GPU, in one run of minutes: `python -m benchmarks.gpu --json FILE`."""
