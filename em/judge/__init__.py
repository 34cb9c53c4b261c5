"""Judging: what is asked about an answer (`plan`), and who says it: `local`, a model in a child of ours."""
