"""The command line: `python -m fatezero_ext COMMAND`."""

OK, FAILED, INTERRUPTED = 0, 1, 130
"""Exit codes; 130 is what a shell gives for Ctrl-C."""
