"""em: train and evaluate language models for research on emergent misalignment and realignment."""

__version__ = "0.1.0"
