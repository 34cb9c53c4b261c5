"""Models that a server fine-tuned, as the rest of a run sees them: fingerprints, references, records, costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from em.api.costs import Cost
from em.config import OpenAIModel, ServiceTrainer
from em.models.hosted import hosted_model, hosted_name, hosted_weights
from em.request import Request, Stage
from em.train.local.find_or_train import checkpoint_mark
from em.train.remote.record import Tuned, find_tuned
from em.train.stages import fingerprint
from em.types import CheckpointRecord, ModelRef, StageRecord


def server_model(request: Request) -> OpenAIModel:
    """The model of a run that is behind a server."""
    assert isinstance(request.settings.model, OpenAIModel)
    return request.settings.model


def recipe_of(stage: Stage) -> ServiceTrainer:
    """The recipe of a stage that a server trains."""
    assert isinstance(stage.trainer, ServiceTrainer)
    return stage.trainer


def marks_of(request: Request) -> list[str]:
    """The fingerprint of the model after each stage."""
    base = hosted_model(server_model(request)).base
    return [fingerprint(base, "", request.stages[:number]) for number in range(1, len(request.stages) + 1)]


def models_there(request: Request) -> list[ModelRef]:
    """The base, and the stages that are remembered, up to the first that is not: for an estimate."""
    model = server_model(request)
    found = [hosted_model(model)]
    for stage, mark in zip(request.stages, marks_of(request), strict=True):
        tuned = find_tuned(request.store / "models", mark, hosted_name(found[-1])[1])
        if tuned is None:
            break
        found.append(tuned_model(found[-1], model, stage, mark, tuned))
    return found


def tuned_model(before: ModelRef, model: OpenAIModel, stage: Stage, mark: str, tuned: Tuned) -> ModelRef:
    """The model that a stage ends with."""
    return replace(
        before,
        name=f"{before.name}+{stage.rows.name}",
        stage=stage.rows.name,
        fingerprint=mark,
        base=hosted_weights(model.base_url, tuned.model),
        seed=stage.seed,
    )


def models_on_the_way(last: ModelRef, model: OpenAIModel, tuned: Tuned) -> list[ModelRef]:
    """The models that the service kept on the way to one."""
    return [
        replace(
            last,
            name=f"{last.name} (step {step})",
            fingerprint=checkpoint_mark(last.fingerprint, step),
            base=hosted_weights(model.base_url, name),
        )
        for step, name in sorted(tuned.checkpoints.items())
    ]


def told(stage: Stage, tuned: Tuned) -> str:
    """One line on a fine-tuned stage."""
    facts = tuned.facts
    parts = [f"{len(stage.rows.conversations)} rows"]
    if "loss_first" in facts:
        parts += [f"{facts['steps']} steps", f"loss {facts['loss_first']:.3f} → {facts['loss_last']:.3f}"]
    return f"{stage.rows.name}: {', '.join(parts)}, {tuned.model}"


def stage_record(stage: Stage, mark: str, tuned: Tuned, reused: bool) -> StageRecord:
    """What the manifest keeps of a stage; its path is the model's name at the server."""
    rows, facts = stage.rows, tuned.facts
    if rows.parts:
        facts = facts | {"parts": dict(rows.parts)}
    kept = tuple(
        CheckpointRecord(step, checkpoint_mark(mark, step), name) for step, name in sorted(tuned.checkpoints.items())
    )
    return StageRecord(rows.name, mark, tuned.model, reused, len(rows.conversations), rows.sha256, facts, kept)


def training_costs(records: Sequence[StageRecord]) -> list[Cost]:
    """Return what the fine-tunings cost, whenever they were paid for."""
    return [
        Cost("training", record.path, 1, record.facts.get("tokens"), None, record.facts.get("usd"))
        for record in records
    ]


def copy_losses(path: Path, folders: Sequence[Path]) -> None:
    """The loss curves of all stages in one table."""
    tables = [(folder / "loss.csv").read_text(encoding="utf-8").splitlines(keepends=True) for folder in folders]
    if tables:
        path.write_text("".join([tables[0][0], *(line for table in tables for line in table[1:])]), encoding="utf-8")
