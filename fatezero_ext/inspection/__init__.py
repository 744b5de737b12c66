"""Inspection: pictures of what an inversion recorded."""
