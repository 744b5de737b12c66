"""The command line: `python -m fatezero_ext COMMAND`."""
