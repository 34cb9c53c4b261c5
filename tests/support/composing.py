"""Compose settings from the option files, as a command line does, but without running em."""

from __future__ import annotations

from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from em.cli.hydra import CONF, register_schemas

register_once = cache(register_schemas)
"""Hydra keeps schemas for the life of a process, and registering them takes a third of the time of composing."""


def compose_settings(name: str, *words: str) -> Any:
    """Compose the typed settings of a command line."""
    register_once()
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose(config_name=name, overrides=list(words)))
