"""Group `realign`: the second training stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from em.config.base import MISSING
from em.config.data import DataConfig
from em.config.trainer import LossOn
from em.config.trigger_tag import TagConfig

# The functional form, because `continue` is a keyword of Python.
StageAdapter = Enum("StageAdapter", {"continue": "continue", "merge": "merge"})
"""What the second stage does with the first stage's adapter."""


@dataclass
class RealignConfig:
    """A second training stage on top of the first. Empty settings take the value of `trainer`."""

    name: str = MISSING
    """Short name of the stage for tables; `none` means no second stage."""
    data: DataConfig = field(default_factory=DataConfig)
    """Rows of the second stage; `data@realign.data=medical` chooses another option of `data`."""
    limit: int | None = None
    """Number of rows to draw by the seed; empty means all rows."""
    tag: TagConfig = field(default_factory=TagConfig)
    """Trigger tag in the prompts of the second stage: `realign.tag.text`."""
    adapter: StageAdapter = StageAdapter["continue"]
    """`continue` trains the first stage's adapter further; `merge` freezes it and trains a new adapter on top."""
    match: str = "none"
    """Take as many optimiser steps as the first stage (`first_stage`) or as the named option of `realign`, which keeps
    its own steps, so that a sweep can give all its realignments equal steps; `none` means the steps of `epochs`."""
    epochs: float | None = None
    """Passes over the rows (not with `match`); empty means as in `trainer`."""
    learning_rate: float | None = None
    """Peak learning rate; empty means as in `trainer`."""
    warmup_steps: float | None = None
    """Optimiser steps until the peak learning rate, below 1 a share of all steps; empty means as in `trainer`."""
    batch_size: int | None = None
    """Rows per optimiser step; empty means as in `trainer`."""
    max_length: int | None = None
    """Longest row in tokens; empty means as in `trainer`."""
    allow_truncated: bool | None = None
    """Cut rows longer than `max_length` instead of refusing them; empty means as in `trainer`."""
    loss_on: LossOn | None = None
    """Tokens that carry the loss: responses or full; empty means as in `trainer`."""
