"""The disk cache: one folder per inversion, shared by processes."""
