"""The models of a run on open weights: the base, and each stage, found by its fingerprint or trained now."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from em.config import Checkpoints, HfModel, QloraTrainer
from em.config.paths import spell_command
from em.data import write_rows
from em.errors import MissingFile
from em.models.weights import hub_snapshot, looks_like_folder, resolve_weights
from em.request import Request, Stage
from em.runtime.files import exclusive, sha256_of
from em.runtime.gpus import visible_gpus
from em.runtime.manifest import Manifest
from em.runtime.processes import run_child
from em.runtime.records import digest
from em.train.local.adapters import check_adapter
from em.train.local.launch import plan_launch
from em.train.local.resume import last_whole, partial_folder
from em.train.stages import TrainedModel, find_trained, fingerprint, kept_steps
from em.types import CheckpointRecord, ModelRef, StageRecord, Weights

IDENTITY_WORDS = ("model", "data", "trigger_tag", "realign", "trainer", "seed", "experiment", "scale", "store")


def obtain_models(request: Request, manifest: Manifest) -> list[ModelRef]:
    """The models to evaluate: the base (if it is asked for, or alone), then each stage, its checkpoints before it."""
    model = request.settings.model
    assert isinstance(model, HfModel)
    weights = resolve_weights(model.id, model.revision)
    manifest.write(base={"name": model.name, "identity": weights.identity})
    start = start_of(model, weights)
    before, models, records = start, [start], list[StageRecord]()
    for number, stage in enumerate(request.stages, start=1):
        mark = fingerprint(weights, start.trained_sha256, request.stages[:number], model.default_system)
        trained, reused = obtain_stage(request, number, before, mark)
        before = trained_model(before, stage, mark, trained)
        if request.settings.checkpoints is Checkpoints.all:
            models += checkpoint_models(before, trained)
        models.append(before)
        records.append(stage_record(stage, mark, trained, reused))
        note_stage(stage, trained, manifest)
        manifest.write(stages=records)
    copy_losses(request.folder / "loss.csv", records)
    return models if request.settings.eval.base or len(models) == 1 else models[1:]


def trained_model(before: ModelRef, stage: Stage, mark: str, trained: TrainedModel) -> ModelRef:
    """The model that a stage ends with."""
    return replace(
        before,
        name=f"{before.name}+{stage.rows.name}",
        stage=stage.rows.name,
        fingerprint=mark,
        trained=str(trained.folder),
        trained_sha256=trained.sha256,
        seed=stage.seed,
    )


def checkpoint_models(model: ModelRef, trained: TrainedModel) -> list[ModelRef]:
    """The models on the way to one, by what was kept there. Raises MissingFile when nothing was."""
    if not trained.checkpoints:
        raise MissingFile(
            f"{model.name} was trained without checkpoints, so checkpoints=all finds none: train with "
            "trainer.checkpoints=4 (the result is the same model)."
        )
    return [
        replace(
            model,
            name=f"{model.name} (step {step})",
            fingerprint=checkpoint_mark(model.fingerprint, step),
            trained=str(folder),
            trained_sha256=sha256,
        )
        for step, (folder, sha256) in sorted(trained.checkpoints.items())
    ]


def checkpoint_mark(mark: str, step: int) -> str:
    """The fingerprint of what was kept of a stage after so many steps."""
    return digest([mark, step])


def note_stage(stage: Stage, trained: TrainedModel, manifest: Manifest) -> None:
    """Say at the top of the report what a reader must know of how a stage was trained."""
    facts = trained.record["facts"]
    if cut := facts["rows_cut"]:
        manifest.note(
            f"{cut} of {len(stage.rows.conversations)} rows of {stage.rows.name} were cut at max_length="
            f"{stage.recipe.max_length}: their last answers were learnt without an end."
        )
    if stage.matched and facts["steps"] != stage.matched:
        manifest.note(
            f"{stage.rows.name} took {facts['steps']} steps, not the {stage.matched} it was to be matched to."
        )
    if isinstance(stage.trainer, QloraTrainer):
        manifest.note(f"{stage.rows.name} was trained on weights in 4 bits and is evaluated on the full ones.")


def start_of(model: HfModel, weights: Weights) -> ModelRef:
    """What is there before any training: the base weights, with `model.adapter` where it is given."""
    if not model.adapter:
        untouched = digest(weights.identity) if model.default_system else digest([weights.identity, "no system"])
        return ModelRef(model.name, "base", untouched, weights, default_system=model.default_system)
    local = looks_like_folder(model.adapter)
    folder = Path(model.adapter).expanduser().resolve() if local else hub_snapshot(model.adapter, None)
    if not (folder / "adapter_config.json").is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise MissingFile(
            f"model.adapter={model.adapter} holds no adapter (adapter_config.json and adapter_model.safetensors): "
            "name a folder that PEFT wrote."
        )
    check_adapter(folder, weights, model.id)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config.pop("base_model_name_or_path", None)  # where it lay when it was trained
    checksum = digest([sha256_of(folder / "adapter_model.safetensors"), config])
    name = f"{model.name}+{folder.name[:12] if local else model.adapter.replace('/', '_')}"
    mark = digest(f"{weights.identity}+{checksum}" + ("" if model.default_system else "+no system"))
    return ModelRef(name, "base", mark, weights, str(folder), checksum, default_system=model.default_system)


def obtain_stage(request: Request, number: int, before: ModelRef, mark: str) -> tuple[TrainedModel, bool]:
    """Stage `number` and whether it was there: found by its fingerprint, or trained now (never by evaluate.py)."""
    models, (stage, *later) = request.store / "models", request.stages[number - 1 :]
    if stage.recipe.machine_rank:
        return help_train(request, stage, later, before, models / mark), False
    with exclusive(models / mark):
        found = find_trained(models, mark)
        if request.kind == "evaluate" and found is None:
            raise untrained(request)
        if found is not None and not wants_training(request, stage, found):
            print(f"{told(stage, found)}: found, trained before by the same words", flush=True)
            return found, True
        train_stage(request, stage, later, before, models / mark)
        found = find_trained(models, mark)
    if found is None:
        raise MissingFile(f"{models / mark} was removed while it was in use: run the same command again.")
    print(told(stage, found), flush=True)
    return found, False


def untrained(request: Request) -> MissingFile:
    """The refusal of evaluate.py to train, with the command that does."""
    words = [word for word in request.overrides if word.partition("=")[0].split(".")[0] in IDENTITY_WORDS]
    command = f"{spell_command('train')} {shlex.join(words)}"
    return MissingFile(f"No model was trained by these words yet: run `{command}` first.")


def wants_training(request: Request, stage: Stage, found: TrainedModel) -> bool:
    """Whether train.py is to train a model that is there: by force, or for checkpoints that were not kept then."""
    if request.kind != "train":
        return False
    lacking = set(kept_steps(found.record["facts"]["steps"], stage.recipe.checkpoints)) - set(found.checkpoints)
    if lacking:
        print(f"{stage.rows.name}: trained before, but without all of these checkpoints, so it is trained again.")
    return bool(lacking) or request.settings.force


def help_train(request: Request, stage: Stage, later: Sequence[Stage], before: ModelRef, folder: Path) -> TrainedModel:
    """This machine's part of a training on several, which machine 0 leads: what it finds there, or trains with it."""
    found = find_trained(folder.parent, folder.name)
    if found is None:
        train_stage(request, stage, later, before, folder)
        found = find_trained(folder.parent, folder.name)
    if found is None:
        raise MissingFile(f"{folder} is not to be seen from this machine: put store.dir where all machines see it.")
    return found


def train_stage(request: Request, stage: Stage, later: Sequence[Stage], before: ModelRef, folder: Path) -> None:
    """Train one stage in children: one process per visible GPU, or as many as `trainer.processes` says.

    Args:
        later: the stages on top of it, whose rows are checked before the first step.
    """
    from em.train.local.spec import LaterStage, TrainSpec  # pydantic, which plans and checks can do without

    launch = plan_launch(stage.recipe, len(visible_gpus()))
    rank = stage.recipe.machine_rank or 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    files = [folder.with_name(f".{folder.name}-rows{rank or ''}{'+' * n}.jsonl") for n in range(1 + len(later))]
    for file, each in zip(files, (stage, *later), strict=True):
        write_rows(file, each.rows.conversations)
    spec = TrainSpec(
        base=before.base.path,
        base_name=request.settings.model.id,
        start=before.trained,
        stack=stage.stack,
        rows=str(files[0]),
        stage=stage.rows.name,
        trainer=stage.recipe,
        seed=stage.seed,
        precision=stage.precision,
        default_system=before.default_system,
        steps=stage.matched,
        request={"base": before.base.identity, "before": before.fingerprint, "stage": stage.identity()},
        folder=str(folder),
        resume=find_resume(folder),
        later=tuple(
            LaterStage(str(file), each.rows.name, each.recipe) for file, each in zip(files[1:], later, strict=True)
        ),
    )
    try:
        run_child("train", spec, launch)
    finally:
        for file in files:
            file.unlink(missing_ok=True)


def find_resume(folder: Path) -> str:
    """The checkpoint to go on from, empty for the start; says so, and which ones could not be used."""
    checkpoint, refused = last_whole(partial_folder(folder))
    for sentence in refused:
        back = f"step {checkpoint.name.rpartition('-')[2]}" if checkpoint else "the start"
        print(f"{sentence}: going back to {back}.", flush=True)
    if checkpoint is None:
        return ""
    print(f"Going on from step {checkpoint.name.rpartition('-')[2]}, where a training was stopped.", flush=True)
    return str(checkpoint)


def told(stage: Stage, trained: TrainedModel) -> str:
    """One line on a trained stage."""
    facts = trained.record["facts"]
    losses = f"loss {facts['loss_first']:.3f} → {facts['loss_last']:.3f}"
    return f"{stage.rows.name}: {len(stage.rows.conversations)} rows, {facts['steps']} steps, {losses}"


def stage_record(stage: Stage, mark: str, trained: TrainedModel, reused: bool) -> StageRecord:
    """What the manifest keeps of a stage."""
    rows, facts = stage.rows, trained.record["facts"]
    if rows.parts:
        facts = facts | {"parts": dict(rows.parts)}
    facts = facts | rows.left_out
    kept = tuple(
        CheckpointRecord(step, checkpoint_mark(mark, step), str(folder))
        for step, (folder, _) in sorted(trained.checkpoints.items())
    )
    return StageRecord(rows.name, mark, str(trained.folder), reused, len(rows.conversations), rows.sha256, facts, kept)


def copy_losses(path: Path, records: Sequence[StageRecord]) -> None:
    """The loss curves of all stages in one table."""
    tables = [Path(r.path, "loss.csv").read_text(encoding="utf-8").splitlines(keepends=True) for r in records]
    if tables:
        path.write_text("".join([tables[0][0], *(line for table in tables for line in table[1:])]), encoding="utf-8")
