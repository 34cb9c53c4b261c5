"""The task of a training process, which its parent sends as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import PlainValidator, TypeAdapter

from em.config import FullTrainer, LocalTrainer, LoraTrainer, QloraTrainer
from em.train.local.resume import locate_partial_folder
from em.types import Conversation


def read_trainer(values: Any) -> LocalTrainer:
    """Read a recipe from JSON values; their keys tell its class."""
    kind: type[LocalTrainer] = LoraTrainer if "rank" in values else FullTrainer
    if "quant_type" in values:
        kind = QloraTrainer
    return TypeAdapter[LocalTrainer](kind).validate_python(values)


Trainer = Annotated[LocalTrainer, PlainValidator(read_trainer)]


@dataclass(frozen=True)
class LaterStage:
    """A stage to be trained after the present one. Its rows (a file of messages) are checked before any training."""

    rows: str
    stage: str
    trainer: Trainer


@dataclass(frozen=True)
class TrainSpec:
    """The task: which stage to train, on which weights, and where to write the result.

    rows: a file of messages. start: folder of the adapter or weights to start from, or empty; with `stack`, a new
    adapter is trained on top of that one. steps: number of optimiser steps; None derives it from rows and epochs.
    resume: a complete checkpoint of this training, or empty. later: the stages to be trained afterwards.
    prompts: what the evaluation will ask, by the names of question and condition.
    gpu_memory: free bytes of the fullest GPU that the training uses; 0 without a GPU, or if that is not known.
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
    prompts: dict[str, Conversation] = field(default_factory=dict)
    gpu_memory: int = 0

    @property
    def partial(self) -> Path:
        """The folder where the training writes until the model is complete."""
        return locate_partial_folder(Path(self.folder))
