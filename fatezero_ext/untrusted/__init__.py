"""Untrusted sources: files are opened if they are plain and bounded, values of configs are checked."""
