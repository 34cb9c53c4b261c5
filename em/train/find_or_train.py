"""Find the models of a run by their fingerprints, or train them: the base model, then one model per stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from em.config import HfModel, OpenAIModel
from em.request import Training
from em.runtime.manifest import ManifestWriter
from em.train.stages import stage_fingerprints
from em.train.trained import (
    TrainedModel,
    list_checkpoint_models,
    make_stage_model,
    make_stage_record,
    merge_loss_curves,
)
from em.types import ModelRef, StageRecord


class StageTrainer(Protocol):
    """Finds or trains the stages of a run, locally or at a service. `start`: the model before the first stage."""

    start: ModelRef

    def find_or_train(self, number: int, before: ModelRef, fingerprint: str) -> tuple[TrainedModel, bool]:
        """Return stage `number` (from 0), trained from the model `before`, and whether the store already had it."""

    def write_records(self, records: Sequence[StageRecord]) -> None:
        """Write the records of the stages so far into the manifest."""


def find_or_train(
    training: Training, manifest: ManifestWriter, total_cost: Callable[[], float | None] | None = None
) -> list[ModelRef]:
    """Return the models to evaluate: the base model (if requested or alone), then each stage after its checkpoints.

    Args:
        total_cost: returns the cost of the run in USD, with answers and verdicts; None if the run samples nothing.
    """
    trainer = choose_trainer(training, manifest, total_cost)
    model = trainer.start
    manifest.write(base={"name": training.model.name, "identity": model.base.identity})
    models, records = [model], list[StageRecord]()
    for number, fingerprint in enumerate(stage_fingerprints(model, training.stages)):
        stage = training.stages[number]
        trained, reused = trainer.find_or_train(number, model, fingerprint)
        model = make_stage_model(model, stage, fingerprint, trained)
        models += [*(list_checkpoint_models(model, trained) if training.checkpoints else ()), model]
        records.append(make_stage_record(stage, fingerprint, trained, reused))
        trainer.write_records(records)
    merge_loss_curves(
        training.folder / "loss.csv", [training.store / "models" / record.fingerprint for record in records]
    )
    return models if training.base or len(models) == 1 else models[1:]


def choose_trainer(
    training: Training, manifest: ManifestWriter, total_cost: Callable[[], float | None] | None
) -> StageTrainer:
    """Choose the trainer: child processes train open weights, a service fine-tunes its own models."""
    match training.model:
        case HfModel() as model:
            from em.train.local.find_or_train import LocalStages

            return LocalStages(training, model, manifest)
        case OpenAIModel() as model:
            from em.train.remote.find_or_train import ServiceStages

            return ServiceStages(training, model, manifest, total_cost)
        case other:
            raise TypeError(f"{other} can't be trained: expected an HfModel or an OpenAIModel")
