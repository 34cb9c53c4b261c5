"""Proof that the modules moved unchanged."""
