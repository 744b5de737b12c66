"""Batches: tables of clips and values, run through a workflow on several workers and machines, resumable."""
