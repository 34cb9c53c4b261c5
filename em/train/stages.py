"""A trained model is base weights and ordered stages. Its fingerprint names its folder, so the same words find it.

The fingerprint covers all that changes the weights: the identity of the base (with its chat template), whether its
default system prompt is kept, and for each stage the rows (after limit and tag), every knob of the recipe, how it goes
on from the stage before, the seed, the kind of device where that decides the number format, and how em renders and
orders rows (`METHOD`). It leaves out what changes the result to rounding at most: how a step is split over passes and
processes, what is saved on the way (`NOT_IDENTITY`), and where things lie.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from em.children import plain, where
from em.config import FullTrainer, HfModel, NoData, RealignConfig, RunConfig, TrainerConfig
from em.data import Rows, load_rows
from em.errors import ConfigError
from em.store import sha256_of
from em.tags import tag_rows
from em.train.batches import count_steps
from em.train.extra import check_extra
from em.types import Weights, digest

NOT_IDENTITY = (
    *("name", "allow_truncated", "checkpoints", "save_steps", "device_tokens", "gradient_checkpointing", "processes"),
    *("accelerate", "machine_rank"),
)
METHOD = "rows 2, steps 1"
"""Versions of em's rendering of rows and of its plan of steps: a change of either makes other models."""
RECORD = "em.json"
KEPT = "checkpoints"
OWN_KNOBS = (*("epochs", "learning_rate", "warmup_steps", "batch_size", "max_length", "allow_truncated", "loss_on"),)
"""What a second stage may have of its own, by the same names in `realign` and `trainer`."""


@dataclass(frozen=True)
class Stage:
    """One training stage: rows and recipe.

    stack: train a new adapter on top of the one that is there. matched: optimiser steps to take, whatever the epochs.
    """

    rows: Rows
    trainer: TrainerConfig
    seed: int
    precision: str
    stack: bool = False
    matched: int | None = None

    @property
    def steps(self) -> int:
        """Optimiser steps, if no row has to be left out."""
        return self.matched or count_steps(len(self.rows.conversations), self.trainer.epochs, self.trainer.batch_size)

    def identity(self) -> dict[str, Any]:
        """All that this stage does to the weights, as JSON."""
        knobs = {key: value for key, value in plain(self.trainer).items() if key not in NOT_IDENTITY}
        if self.matched:
            knobs["epochs"] = None
        return {
            "rows": self.rows.sha256,
            "trainer": knobs,
            "seed": self.seed,
            "precision": where(self.precision),
            "stack": self.stack,
            "matched": self.matched,
            "method": METHOD,
        }


def plan_stages(settings: RunConfig, compared: RunConfig | None = None) -> list[Stage]:
    """The stages that a config asks for, with their rows read and checked: none, one, or two with `realign`.

    Args:
        compared: the same config with the realignment that `realign.match` names.
    """
    check_extra(settings.trainer.extra)
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
    if not isinstance(settings.realign.data, NoData):
        stages.append(second_stage(settings, stages[0], compared))
    return stages


def second_stage(settings: RunConfig, first: Stage, compared: RunConfig | None) -> Stage:
    """The realignment: its own rows and knobs, and what it leaves open as in the first stage."""
    realign = settings.realign
    rows = load_rows(replace(realign.data, limit=realign.limit), settings.seed, "realign.limit")
    stack = realign.adapter.value == "merge"
    if stack and isinstance(settings.trainer, FullTrainer):
        raise ConfigError("realign.adapter=merge needs adapters, and trainer=full has none: leave it at continue.")
    stage = Stage(rows, second_recipe(settings.trainer, realign), settings.seed, first.precision, stack)
    if realign.match == "first_stage":
        return replace(stage, matched=first.steps)
    if realign.match != "none":
        if compared is None or isinstance(compared.realign.data, NoData):
            raise ConfigError(f"realign.match={realign.match} names no second stage: choose first_stage or none.")
        return replace(stage, matched=second_stage(compared, first, None).steps)
    return stage


def second_recipe(trainer: TrainerConfig, realign: RealignConfig) -> TrainerConfig:
    """The trainer's settings with those that the second stage has of its own."""
    own = {name: value for name in OWN_KNOBS if (value := vars(realign)[name]) is not None}
    return replace(trainer, **own)


def fingerprint(base: Weights, start_sha256: str, stages: Sequence[Stage], default_system: bool = True) -> str:
    """Identity of base weights (and an adapter to start from) after the given stages, 64 hex digits."""
    start = {"base": base.identity, "adapter": start_sha256, "default_system": default_system}
    return digest({"start": start, "stages": [stage.identity() for stage in stages]})


def kept_steps(steps: int, count: int) -> list[int]:
    """The steps at which weights are kept on the way: `count` of them, evenly spaced, none at the start or the end."""
    return sorted({steps * number // (count + 1) for number in range(1, count + 1)} - {0, steps})


def weight_files(folder: Path) -> dict[str, str]:
    """The checksums of what a trained model is loaded from, by file name."""
    files = sorted([*folder.glob("*.safetensors"), folder / "adapter_config.json", folder / "config.json"])
    return {file.name: sha256_of(file) for file in files if file.is_file()}


@dataclass(frozen=True)
class TrainedModel:
    """A finished folder `<store.dir>/models/<fingerprint>`: weights, loss curve and record."""

    folder: Path
    record: dict[str, Any]

    @property
    def sha256(self) -> str:
        """Checksum of the weights."""
        return digest(self.record["files"])

    @property
    def checkpoints(self) -> dict[int, tuple[Path, str]]:
        """Folder and checksum of the weights that were kept on the way, by step."""
        return {
            int(step): (self.folder / KEPT / f"step-{step}", digest(files))
            for step, files in self.record["checkpoints"].items()
        }


def find_trained(models: Path, mark: str) -> TrainedModel | None:
    """The finished model of that fingerprint; None when it isn't there or its weights are damaged."""
    folder = models / mark
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files, kept = record["files"], record["checkpoints"]
        whole = files and weight_files(folder) == files
        whole = whole and all(weight_files(folder / KEPT / f"step-{step}") == each for step, each in kept.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return TrainedModel(folder, record) if whole else None
