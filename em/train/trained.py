"""What training leaves, here or at a service: `<store>/models/<fingerprint>/`, and how a run refers to it."""

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
from em.runtime.files import RECORD, open_atomic, sha256_of
from em.runtime.records import digest
from em.types import CheckpointRecord, ModelRef, StageRecord, Weights

KEPT = "checkpoints"
IDENTITY_WORDS = ("model", "data", "trigger_tag", "realign", "trainer", "seed", "experiment", "scale", "store")


@dataclass(frozen=True)
class SavedWeights:
    """Weights that a training left.

    place: their folder; at a service their name. sha256: their checksum; empty at a service.
    """

    place: str
    sha256: str = ""

    def put_on(self, model: ModelRef) -> ModelRef:
        """Return a model with these weights."""
        if self.sha256:
            return replace(model, trained=self.place, trained_sha256=self.sha256)
        return replace(model, base=Weights(f"{model.base.identity.partition('|')[0]}|{self.place}"))


@dataclass(frozen=True)
class TrainedModel:
    """A finished stage: weights at its end and, by optimiser step, on the way; its facts; the folder of its record."""

    folder: Path
    weights: SavedWeights
    facts: dict[str, Any]
    checkpoints: dict[int, SavedWeights]


def find_trained(models: Path, fingerprint: str) -> TrainedModel | None:
    """Find the model that was trained here; None when it isn't there or its weights are damaged."""
    folder = models / fingerprint
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files, facts = record["files"], record["facts"]
        kept = {int(step): (folder / KEPT / f"step-{step}", each) for step, each in record["checkpoints"].items()}
        whole = files and all(weight_files(place) == each for place, each in [(folder, files), *kept.values()])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    if not whole:
        return None
    checkpoints = {step: SavedWeights(str(place), digest(each)) for step, (place, each) in sorted(kept.items())}
    return TrainedModel(folder, SavedWeights(str(folder), digest(files)), facts, checkpoints)


def weight_files(folder: Path) -> dict[str, str]:
    """The checksums of what a trained model is loaded from, by file name."""
    files = sorted([*folder.glob("*.safetensors"), folder / "adapter_config.json", folder / "config.json"])
    return {file.name: sha256_of(file) for file in files if file.is_file()}


def model_after(before: ModelRef, stage: Stage, fingerprint: str, trained: TrainedModel) -> ModelRef:
    """Return the model that a stage ends with."""
    name = f"{before.name}+{stage.rows.name}"
    model = replace(before, name=name, stage=stage.rows.name, fingerprint=fingerprint, seed=stage.seed)
    return trained.weights.put_on(model)


def checkpoint_models(model: ModelRef, trained: TrainedModel) -> list[ModelRef]:
    """Return the models on the way to one, as far as they were kept."""
    return [
        replace(
            saved.put_on(model),
            name=f"{model.name} (step {step})",
            fingerprint=checkpoint_fingerprint(model.fingerprint, step),
        )
        for step, saved in trained.checkpoints.items()
    ]


def checkpoint_fingerprint(fingerprint: str, step: int) -> str:
    """Identity of what was kept of a stage after so many steps."""
    return digest([fingerprint, step])


def stage_record(stage: Stage, fingerprint: str, trained: TrainedModel, reused: bool) -> StageRecord:
    """Make what the manifest keeps of a stage."""
    rows, place = stage.rows, trained.weights.place
    facts = trained.facts | ({"parts": dict(rows.parts)} if rows.parts else {}) | rows.left_out
    kept = tuple(
        CheckpointRecord(step, checkpoint_fingerprint(fingerprint, step), saved.place)
        for step, saved in trained.checkpoints.items()
    )
    return StageRecord(rows.name, fingerprint, place, reused, len(rows.conversations), rows.sha256, facts, kept)


def describe_stage(stage: Stage, trained: TrainedModel) -> str:
    """Describe a trained stage on one line; not every service tells of losses."""
    facts, parts = trained.facts, [f"{len(stage.rows.conversations)} rows"]
    if "loss_first" in facts:
        parts += [f"{facts['steps']} steps", f"loss {facts['loss_first']:.3f} → {facts['loss_last']:.3f}"]
    if not trained.weights.sha256:
        parts.append(trained.weights.place)
    return f"{stage.rows.name}: {', '.join(parts)}"


def write_losses(path: Path, stage: str, fingerprint: str, curve: Iterable[tuple[int, float, float, Any]]) -> None:
    """Write a loss curve, a row per optimiser step: its number, epoch, loss and learning rate."""
    with open_atomic(path, newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["stage", "fingerprint", "step", "epoch", "loss", "learning_rate"])
        table.writerows([stage, fingerprint, *row] for row in curve)


def copy_losses(path: Path, folders: Sequence[Path]) -> None:
    """Write the loss curves of all stages into one table."""
    tables = [(folder / "loss.csv").read_text(encoding="utf-8").splitlines(keepends=True) for folder in folders]
    if tables:
        path.write_text("".join([tables[0][0], *(line for table in tables for line in table[1:])]), encoding="utf-8")


def untrained(training: Training) -> MissingFile:
    """Make the refusal of evaluate.py to train, with the command that does."""
    words = [word for word in training.words if word.partition("=")[0].split(".")[0] in IDENTITY_WORDS]
    command = f"{spell_command('train')} {shlex.join(words)}"
    return MissingFile(f"No model was trained by these words yet: run `{command}` first.")
