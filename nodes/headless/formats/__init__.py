"""Readers and writers of workflow files."""
