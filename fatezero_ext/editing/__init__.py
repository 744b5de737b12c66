"""Editing: from settings to an edited clip."""
