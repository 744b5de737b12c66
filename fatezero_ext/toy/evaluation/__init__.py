"""Scores of the built-in model's edits."""
