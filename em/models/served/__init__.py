"""Servers that em starts: which GPUs they get, their life, and the proof that they serve the weights that em means."""
