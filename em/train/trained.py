"""Trained models in the store: read `<store>/models/<fingerprint>/`, refer to its weights, and record its stage."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from em.config.paths import spell_command
from em.errors import MissingFile
from em.request import Stage, Training
from em.runtime.files import RECORD, hash_file, open_atomic
from em.runtime.records import digest
from em.types import CheckpointRecord, ModelRef, StageRecord, Weights

KEPT = "checkpoints"
IDENTITY_WORDS = ("model", "data", "trigger_tag", "realign", "trainer", "seed", "experiment", "scale", "store")


@dataclass(frozen=True)
class SavedWeights:
    """Weights saved by a training run.

    place: their folder, or their name at a service. sha256: their checksum; empty at a service.
    """

    place: str
    sha256: str = ""

    def attach_to(self, model: ModelRef) -> ModelRef:
        """Return `model` with these weights."""
        if self.sha256:
            return replace(model, trained=self.place, trained_sha256=self.sha256)
        return replace(model, base=Weights(f"{model.base.identity.partition('|')[0]}|{self.place}"))


@dataclass(frozen=True)
class TrainedModel:
    """A finished stage: the folder of its record, its final weights, its facts, and checkpoints by optimiser step."""

    folder: Path
    weights: SavedWeights
    facts: dict[str, Any]
    checkpoints: dict[int, SavedWeights]


def find_trained_model(models: Path, fingerprint: str) -> TrainedModel | None:
    """Return the model of a local training; None if its record is missing or its weights are damaged."""
    folder = models / fingerprint
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files, facts = record["files"], record["facts"]
        saved = {int(step): (folder / KEPT / f"step-{step}", sums) for step, sums in record["checkpoints"].items()}
        intact = files and all(hash_weight_files(place) == sums for place, sums in [(folder, files), *saved.values()])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not intact:
        return None
    checkpoints = {step: SavedWeights(str(place), digest(sums)) for step, (place, sums) in sorted(saved.items())}
    return TrainedModel(folder, SavedWeights(str(folder), digest(files)), facts, checkpoints)


def hash_weight_files(folder: Path) -> dict[str, str]:
    """Return the checksums, by file name, of the files that a trained model is loaded from."""
    files = sorted([*folder.glob("*.safetensors"), folder / "adapter_config.json", folder / "config.json"])
    return {file.name: hash_file(file) for file in files if file.is_file()}


def make_stage_model(before: ModelRef, stage: Stage, fingerprint: str, trained: TrainedModel) -> ModelRef:
    """Return the model at the end of a stage that began with the model `before`."""
    name = f"{before.name}+{stage.rows.name}"
    model = replace(before, name=name, stage=stage.rows.name, fingerprint=fingerprint, seed=stage.seed)
    return trained.weights.attach_to(model)


def list_checkpoint_models(model: ModelRef, trained: TrainedModel) -> list[ModelRef]:
    """Return the saved checkpoints of `model`, each as a model of its own."""
    models = []
    for step, saved in trained.checkpoints.items():
        fingerprint = checkpoint_fingerprint(model.fingerprint, step)
        models.append(replace(saved.attach_to(model), name=f"{model.name} (step {step})", fingerprint=fingerprint))
    return models


def checkpoint_fingerprint(fingerprint: str, step: int) -> str:
    """Return the fingerprint of a stage's checkpoint after `step` optimiser steps."""
    return digest([fingerprint, step])


def make_stage_record(stage: Stage, fingerprint: str, trained: TrainedModel, reused: bool) -> StageRecord:
    """Make the manifest's record of a stage."""
    rows, place = stage.rows, trained.weights.place
    facts = trained.facts | ({"parts": dict(rows.parts)} if rows.parts else {}) | rows.left_out
    checkpoints = []
    for step, saved in trained.checkpoints.items():
        checkpoints.append(CheckpointRecord(step, checkpoint_fingerprint(fingerprint, step), saved.place))
    size = len(rows.conversations)
    return StageRecord(rows.name, fingerprint, place, reused, size, rows.sha256, facts, tuple(checkpoints))


def describe_stage(stage: Stage, trained: TrainedModel) -> str:
    """Describe a trained stage on one line, without losses if the service reports none."""
    facts, parts = trained.facts, [f"{len(stage.rows.conversations)} rows"]
    if "loss_first" in facts:
        parts += [f"{facts['steps']} steps", f"loss {facts['loss_first']:.3f} → {facts['loss_last']:.3f}"]
    if not trained.weights.sha256:
        parts.append(trained.weights.place)
    return f"{stage.rows.name}: {', '.join(parts)}"


def write_loss_curve(path: Path, stage: str, fingerprint: str, curve: Iterable[tuple[int, float, float, Any]]) -> None:
    """Write a loss curve, a row per optimiser step: its number, epoch, loss and learning rate."""
    with open_atomic(path, newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["stage", "fingerprint", "step", "epoch", "loss", "learning_rate"])
        table.writerows([stage, fingerprint, *row] for row in curve)


def merge_loss_curves(path: Path, folders: Sequence[Path]) -> None:
    """Write the loss curves of all stages into one CSV file."""
    tables = [(folder / "loss.csv").read_text(encoding="utf-8").splitlines(keepends=True) for folder in folders]
    if tables:
        path.write_text("".join([tables[0][0], *(line for table in tables for line in table[1:])]), encoding="utf-8")


def make_untrained_error(training: Training) -> MissingFile:
    """Make the error of evaluate.py, which trains no models, with the command that trains this one."""
    words = [word for word in training.words if word.partition("=")[0].split(".")[0] in IDENTITY_WORDS]
    command = f"{spell_command('train')} {shlex.join(words)}"
    return MissingFile(f"No model was trained with these settings yet: run `{command}` first.")
