"""What a training child is asked for, as it comes from the parent in JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, TypeAdapter

from em.config import FullTrainer, LocalTrainer, LoraTrainer, QloraTrainer
from em.train.local.resume import partial_folder


def read_trainer(values: Any) -> LocalTrainer:
    """Read a recipe that came as JSON; its keys tell its class."""
    kind = QloraTrainer if "quant_type" in values else LoraTrainer if "rank" in values else FullTrainer
    return TypeAdapter[LocalTrainer](kind).validate_python(values)


Trainer = Annotated[LocalTrainer, PlainValidator(read_trainer)]


@dataclass(frozen=True)
class LaterStage:
    """A stage that comes after the one that is trained now: its rows (a file of messages) are checked before it."""

    rows: str
    stage: str
    trainer: Trainer


@dataclass(frozen=True)
class TrainSpec:
    """What the parent asks for.

    rows: a file of messages. start: folder of the adapter or the weights to go on from, or empty; `stack` trains a new
    adapter on top of that one. steps: how many optimiser steps to take; None leaves it to the rows and epochs.
    resume: a whole checkpoint of this training, or empty. later: what is to be trained on top of it.
    """

    base: str
    base_name: str
    start: str
    stack: bool
    rows: str
    stage: str
    trainer: Trainer
    seed: int
    precision: str
    default_system: bool
    steps: int | None
    request: dict[str, Any]
    folder: str
    resume: str = ""
    later: tuple[LaterStage, ...] = ()

    @property
    def partial(self) -> Path:
        """Where the stage is in the making."""
        return partial_folder(Path(self.folder))
