"""Group `tracker`, and the store: where runs, models and answers are remembered."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from em.config.base import MISSING


class WandbMode(Enum):
    """`auto`: online when a key is set, else offline (send it later with `wandb sync`)."""

    auto = "auto"
    online = "online"
    offline = "offline"


@dataclass
class TrackerConfig:
    """Where a run is recorded besides its own folder."""

    remote = False  # whether it is sent anywhere
    name: str = MISSING
    """none or wandb."""


@dataclass
class NoTracker(TrackerConfig):
    """The run's own folder is enough."""


@dataclass
class WandbTracker(TrackerConfig):
    """Weights & Biases."""

    remote = True
    project: str = "em"
    """W&B project."""
    entity: str | None = None
    """W&B team or user; empty means your default."""
    mode: WandbMode = WandbMode.auto
    """auto, online or offline."""
    adapters: bool = True
    """Send the trained adapters too; false keeps them here, and sends their fingerprints alone."""


@dataclass
class StoreConfig:
    """Where em remembers trained models and the answers of models."""

    dir: str | None = None
    """A folder; empty means the user's cache folder."""
