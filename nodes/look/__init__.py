"""Nodes of the menu FateZero/look."""
