"""Sampling: which answers are wanted (`plan`), and who writes them: `local` in children, or `remote` at a server."""
