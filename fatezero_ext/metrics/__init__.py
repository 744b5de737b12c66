"""Metrics: scores of an edited clip against its source."""
