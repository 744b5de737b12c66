"""Engines: ways to run units of a batch on workers."""
