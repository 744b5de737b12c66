"""Checks of a graph before it runs, and the report of mistakes to the page."""
