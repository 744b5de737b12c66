"""Inversion: from a clip to its trace."""
