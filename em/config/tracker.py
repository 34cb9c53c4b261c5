"""Group `tracker`, and the store: where to record runs and keep models and answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from em.config.base import MISSING


class WandbMode(Enum):
    """`auto`: online if a key is set, else offline (`wandb sync` sends the run later)."""

    auto = "auto"
    online = "online"
    offline = "offline"


@dataclass
class TrackerConfig:
    """Where to record a run besides its own folder."""

    remote = False  # whether em sends the run anywhere
    name: str = MISSING
    """none or wandb."""


@dataclass
class NoTracker(TrackerConfig):
    """No tracker: only the run's own folder."""


@dataclass
class WandbTracker(TrackerConfig):
    """Weights & Biases."""

    remote = True
    project: str = "em"
    """W&B project."""
    entity: str | None = None
    """W&B team or user; empty means your default."""
    mode: WandbMode = WandbMode.auto
    """online, offline, or auto (online if a key is set, else offline)."""
    adapters: bool = True
    """Send the trained adapters too; false sends only their fingerprints."""


@dataclass
class StoreConfig:
    """Where em keeps trained models, and caches answers and verdicts."""

    dir: str | None = None
    """Folder for trained models and cached calls; empty means the user's cache folder."""
