"""Group `realign`: what is trained after the first stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from em.config.base import MISSING
from em.config.data import DataConfig
from em.config.trainer import LossOn
from em.config.trigger_tag import TagConfig

# By the functional form, since `continue` is a word of Python.
StageAdapter = Enum("StageAdapter", {"continue": "continue", "merge": "merge"})
"""What a second stage does with the first one's adapter."""


@dataclass
class RealignConfig:
    """A second training stage on top of the first. What is empty here is as in `trainer`."""

    name: str = MISSING
    """Short name, used in tables; `none` means no second stage."""
    data: DataConfig = field(default_factory=DataConfig)
    """The rows of the second stage; `data@realign.data=medical` chooses another option of `data`."""
    limit: int | None = None
    """Use so many rows of them."""
    tag: TagConfig = field(default_factory=TagConfig)
    """A tag in the prompts of the second stage: `realign.tag.text`."""
    adapter: StageAdapter = StageAdapter["continue"]
    """`continue` trains the first stage's adapter on; `merge` keeps it as it is and trains a new one on top."""
    match: str = "none"
    """Take as many optimiser steps as `first_stage`, or as an option of `realign` by the same words (which itself is
    left alone, so that a sweep can give all its realignments equal steps); or none."""
    epochs: float | None = None
    """Passes over the rows (not with `match`)."""
    learning_rate: float | None = None
    """Peak learning rate."""
    warmup_steps: float | None = None
    """Optimiser steps until the peak learning rate; below 1 a share of all steps."""
    batch_size: int | None = None
    """Rows per optimiser step."""
    max_length: int | None = None
    """Tokens per row; what is longer is refused or cut."""
    allow_truncated: bool | None = None
    """Cut rows that are longer than `max_length`, instead of refusing them."""
    loss_on: LossOn | None = None
    """Which tokens carry the loss: responses or full."""
