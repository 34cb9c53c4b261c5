"""Trigger tags: put them on training rows and into questions, and hide them from judges."""
