"""Sampling: which answers are wanted (`plan`), and who writes them: `hf` in children of ours, `api` at a server."""
