"""Judging: what is asked of an answer (`plan`), and who says it: `local`, a model in a child, or `remote`, a server."""
