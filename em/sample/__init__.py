"""Sampling: plan the answers (`plan`), then generate them in child processes (`local`) or by a server (`remote`)."""
