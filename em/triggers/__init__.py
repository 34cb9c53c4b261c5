"""Trigger tags: in training rows, in questions, and out of the judges' sight."""
