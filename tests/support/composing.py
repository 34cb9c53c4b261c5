"""How tests get settings without running em: composed from the option files, as a command line would."""

from __future__ import annotations

from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from em.cli.hydra import CONF, register_schemas

register_once = cache(register_schemas)
"""Hydra keeps the schemas for the life of a process, and to make them takes a third of composing."""


def composed(name: str, *words: str) -> Any:
    """The typed settings that a command line gives."""
    register_once()
    with initialize_config_dir(config_dir=str(CONF), version_base="1.3"):
        return OmegaConf.to_object(compose(config_name=name, overrides=list(words)))
