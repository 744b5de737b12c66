"""Checks of a graph before it runs, and how mistakes reach the page."""
