"""Nodes of the menu FateZero/clips."""
