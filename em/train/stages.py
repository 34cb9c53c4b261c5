"""A trained model is base weights and ordered stages. Its fingerprint names its folder, so the same words find it.

The fingerprint covers all that changes the weights: the identity of the base, and for each stage the rows (after
limit and tag), every knob of the recipe and the seed. It leaves out how the effective batch is split (`NOT_IDENTITY`)
and where things lie. The split changes the result to rounding, but for the last batch of an epoch, which several
processes fill up with repeated rows when it doesn't divide among them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from em.children import plain
from em.config import HfModel, NoData, RunConfig, TrainerConfig
from em.data import Rows, load_rows
from em.errors import ConfigError
from em.store import sha256_of
from em.tags import tag_rows
from em.types import Weights, digest

NOT_IDENTITY = ("name", "device_batch", "gradient_checkpointing", "processes")
RECORD = "em.json"


@dataclass(frozen=True)
class Stage:
    """One training stage: rows and recipe."""

    rows: Rows
    trainer: TrainerConfig
    seed: int
    precision: str

    def identity(self) -> dict[str, Any]:
        """All that this stage does to the weights, as JSON."""
        knobs = {key: value for key, value in plain(self.trainer).items() if key not in NOT_IDENTITY}
        return {"rows": self.rows.sha256, "trainer": knobs, "seed": self.seed, "precision": self.precision}


def plan_stages(settings: RunConfig) -> list[Stage]:
    """The stages that a config asks for, with their rows read and checked: none, one, or two with `realign`."""
    if isinstance(settings.data, NoData):
        return []
    if not isinstance(settings.model, HfModel):
        raise ConfigError(
            f"model={settings.model.name} runs behind a server and its weights can't be trained here: choose an open "
            "model (model=llama8b), or evaluate it as it is (python evaluate.py with data=none)."
        )
    precision = settings.model.precision.value
    rows = load_rows(settings.data, settings.seed)
    first = replace(rows, conversations=tag_rows(rows.conversations, settings.trigger_tag))
    if settings.trigger_tag.name != "none":
        first = replace(first, name=f"{rows.name}@{settings.trigger_tag.name}")
    stages = [Stage(first, settings.trainer, settings.seed, precision)]
    realign = settings.realign
    if not isinstance(realign.data, NoData):
        second = load_rows(replace(realign.data, limit=realign.limit), settings.seed, "realign.limit")
        epochs = settings.trainer.epochs if realign.epochs is None else realign.epochs
        stages.append(Stage(second, replace(settings.trainer, epochs=epochs), settings.seed, precision))
    return stages


def fingerprint(base: Weights, adapter_sha256: str, stages: Sequence[Stage]) -> str:
    """Identity of base weights (and an adapter to start from) after the given stages, 64 hex digits."""
    start = {"base": base.identity, "adapter": adapter_sha256}
    return digest({"start": start, "stages": [stage.identity() for stage in stages]})


@dataclass(frozen=True)
class TrainedModel:
    """A finished folder `<store.dir>/models/<fingerprint>`: adapter, loss curve and record."""

    folder: Path
    record: dict[str, Any]


def find_trained(models: Path, mark: str) -> TrainedModel | None:
    """The finished model of that fingerprint; None when it isn't there or its adapter is damaged."""
    folder = models / mark
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        whole = sha256_of(folder / "adapter_model.safetensors") == record["adapter_sha256"]
        if not whole or not (folder / "adapter_config.json").is_file():
            return None
    except (OSError, ValueError, KeyError):
        return None
    return TrainedModel(folder, record)
