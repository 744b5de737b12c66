"""Execution of a graph."""
