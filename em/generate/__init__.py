"""Data sets that a model writes: sources and prompts, calls, rows that are accepted, and their card."""
