"""Nodes of the menu FateZero: the method's graph from left to right."""
