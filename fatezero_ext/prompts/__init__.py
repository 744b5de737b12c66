"""Prompts: words, their tokens, and how two prompts are aligned."""
