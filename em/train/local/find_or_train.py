"""Find the stages of a run on open weights by their fingerprints, or train them in child processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from em.config import HfModel
from em.data import write_training_rows
from em.errors import MissingFile, OutOfMemory
from em.models.memory import check_fits_gpu
from em.models.served.plan import plan_groups
from em.models.weights import fetch_hub_snapshot, is_folder_name, resolve_weights
from em.request import Stage, Training
from em.runtime.files import hash_file, hold_lock
from em.runtime.gpu_memory import read_free_memory, read_gpu_memory
from em.runtime.gpus import list_visible_gpus, precision_key
from em.runtime.manifest import ManifestWriter
from em.runtime.processes import Launch, run_child
from em.runtime.records import digest
from em.train.local.adapters import check_adapter, read_json
from em.train.local.launch import estimate_step_tokens, keeps_all_on_gpus, plan_launch
from em.train.local.resume import find_last_checkpoint, locate_partial_folder
from em.train.stages import choose_checkpoint_steps, stage_fingerprints
from em.train.trained import TrainedModel, describe_stage, find_trained_model, make_untrained_error
from em.types import ModelRef, StageRecord

if TYPE_CHECKING:
    from em.train.local.spec import TrainSpec


class LocalStages:
    """The stages of a run that this machine trains (see `em.train.find_or_train.StageTrainer`)."""

    def __init__(self, training: Training, model: HfModel, manifest: ManifestWriter) -> None:
        self.training, self.manifest, self.start = training, manifest, find_start_model(model, manifest)

    def write_records(self, records: Sequence[StageRecord]) -> None:
        """Write the records of the stages so far into the manifest."""
        self.manifest.write(stages=records)

    def find_or_train(self, number: int, before: ModelRef, fingerprint: str) -> tuple[TrainedModel, bool]:
        """Find a stage by its fingerprint, or train it; return the model and whether it was reused.

        evaluate.py never trains. Of several machines, machine 0 holds the lock and the others help.
        """
        models, stage = self.training.store / "models", self.training.stages[number]
        helping = bool(stage.recipe.machine_rank)
        with nullcontext() if helping else hold_lock(models / fingerprint):
            trained = find_trained_model(models, fingerprint)
            if trained is None and not self.training.may_train:
                self.refuse_other_device(number)
                raise make_untrained_error(self.training)
            reused = trained is not None and (helping or not self.needs_training(stage, trained))
            if not reused:
                self.run_training(number, before, models / fingerprint)
                trained = find_trained_model(models, fingerprint)
        if trained is None and helping:
            raise MissingFile(
                f"This machine can't see {models / fingerprint}: set store.dir to a folder that all machines share."
            )
        if trained is None:
            raise MissingFile(f"{models / fingerprint} was removed while it was in use: run the same command again.")
        suffix = ": reused, trained earlier with the same settings" if reused else ""
        print(f"{describe_stage(stage, trained)}{suffix}", flush=True)
        if self.training.checkpoints and not trained.checkpoints:
            raise MissingFile(
                f"{before.name}+{stage.rows.name} was trained without checkpoints, so checkpoints=all finds none: "
                "train with trainer.checkpoints=4 (the result is the same model)."
            )
        note_stage(stage, trained, self.manifest)
        return trained, reused

    def refuse_other_device(self, number: int) -> None:
        """Raise MissingFile if the stage was trained where `model.precision=auto` means another number format."""
        kinds = {"auto:cpu": "float32", "auto:gpu": "bfloat16"}
        here = precision_key("auto")
        other = next(kind for kind in kinds if kind != here)
        stages = [replace(stage, precision=stage.precision.replace("auto", other)) for stage in self.training.stages]
        fingerprint = stage_fingerprints(self.start, stages)[number]
        if find_trained_model(self.training.store / "models", fingerprint):
            raise MissingFile(
                f"{self.training.stages[number].rows.name} was trained where model.precision=auto means "
                f"{kinds[other]}, and here it means {kinds[here]} (bfloat16 on GPUs from Ampere on): run this command "
                "there."
            )

    def needs_training(self, stage: Stage, trained: TrainedModel) -> bool:
        """Return whether to train an existing model again: because of `force`, or because it lacks checkpoints."""
        if not self.training.may_train:
            return False
        missing = set(choose_checkpoint_steps(trained.facts["steps"], stage.recipe.checkpoints)) - set(
            trained.checkpoints
        )
        if missing:
            print(f"{stage.rows.name}: trained earlier, but without all of these checkpoints: training it again.")
        return bool(missing) or self.training.force

    def run_training(self, number: int, before: ModelRef, folder: Path) -> None:
        """Train a stage in child processes: one per visible GPU, or `trainer.processes` of them.

        The rows of the later stages are checked before the first step.
        """
        # Imported late: the module imports pydantic, which plans and checks don't need.
        from em.train.local.spec import LaterStage, TrainSpec

        stages, gpus = self.training.stages[number:], list_visible_gpus()
        stage = stages[0]
        if self.training.prompts and self.training.served:
            path, precision = Path(before.base.path), precision_key(stage.precision)
            plan_groups(path, precision, self.training.served, gpus, read_gpu_memory(gpus))
        elif self.training.prompts:
            what = f"Sampling {self.training.model.id}"
            check_fits_gpu(what, before.base.path, stage.precision, "train with eval=none and evaluate elsewhere")
        step_tokens = estimate_step_tokens(stage)
        launch = plan_launch(stage.recipe, len(gpus), step_tokens)
        if launch.processes < min(len(gpus), stage.recipe.batch_size) and not stage.recipe.processes:
            print(
                f"Training on {launch.processes} of {len(gpus)} GPUs, since a step has only about {step_tokens:,} "
                f"tokens (trainer.processes={len(gpus)} uses all).",
                flush=True,
            )
        rank = stage.recipe.machine_rank or ""
        folder.parent.mkdir(parents=True, exist_ok=True)
        files = [folder.with_name(f".{folder.name}-rows{rank}{'+' * n}.jsonl") for n in range(len(stages))]
        for file, each in zip(files, stages, strict=True):
            write_training_rows(file, each.rows.conversations)
        later = [LaterStage(str(file), each.rows.name, each.recipe) for file, each in zip(files, stages, strict=True)]
        spec = TrainSpec(
            base=before.base.path,
            base_name=self.training.model.id,
            start=before.trained,
            stack=stage.stack,
            rows=str(files[0]),
            stage=stage.rows.name,
            trainer=stage.recipe,
            seed=stage.seed,
            precision=precision_key(stage.precision),
            default_system=before.default_system,
            steps=stage.matched,
            request={"base": before.base.identity, "before": before.fingerprint, "stage": stage.build_identity()},
            folder=str(folder),
            resume=find_resume_checkpoint(folder),
            later=tuple(later[1:]),
            prompts=self.training.prompts,
            gpu_memory=read_free_memory(launch, gpus) if keeps_all_on_gpus(launch) else 0,
        )
        try:
            run_processes(spec, launch)
        finally:
            for file in files:
                file.unlink(missing_ok=True)


def run_processes(spec: TrainSpec, launch: Launch) -> None:
    """Run the processes of a training. If one runs out of memory, start all again with what needs less.

    That is smaller passes, and recomputation of activations unless the recipe forbids it; neither changes the result.
    The processes resume from the last checkpoint.
    """
    while True:
        try:
            run_child("train", spec, launch)
            return
        except OutOfMemory as error:
            if launch.machines > 1 or not (error.device_tokens or spec.trainer.gradient_checkpointing is None):
                raise
            print(f"{error} Starting again with it.", flush=True)
            trainer = replace(spec.trainer, device_tokens=error.device_tokens or spec.trainer.device_tokens)
            if trainer.gradient_checkpointing is None:
                trainer = replace(trainer, gradient_checkpointing=True)
            spec = replace(spec, trainer=trainer, resume=find_resume_checkpoint(Path(spec.folder)))


def note_stage(stage: Stage, trained: TrainedModel, manifest: ManifestWriter) -> None:
    """Note what a reader must know about the training of a stage; the report shows the notes at its top."""
    facts = trained.facts
    if cut := facts["rows_cut"]:
        manifest.note(
            f"{cut} of {len(stage.rows.conversations)} rows of {stage.rows.name} were cut at max_length="
            f"{stage.recipe.max_length}: their last answers were learnt without an end."
        )
    if stage.matched and facts["steps"] != stage.matched:
        manifest.note(
            f"{stage.rows.name} took {facts['steps']} steps, not the {stage.matched} it was to be matched to."
        )
    if stage.trainer.quantized:
        manifest.note(f"{stage.rows.name} was trained on weights in 4 bits and is evaluated on the full ones.")


def find_start_model(model: HfModel, manifest: ManifestWriter) -> ModelRef:
    """Find the model before any training: the base weights, with the adapter of `model.adapter` if there is one."""
    weights = resolve_weights(model.id, model.revision)
    if not model.adapter:
        untouched = digest(weights.identity) if model.default_system else digest([weights.identity, "no system"])
        return ModelRef(model.name, "base", untouched, weights, default_system=model.default_system)
    local = is_folder_name(model.adapter)
    folder = Path(model.adapter).expanduser().resolve() if local else fetch_hub_snapshot(model.adapter, None)
    config = read_json(folder / "adapter_config.json")
    if not config or not (folder / "adapter_model.safetensors").is_file():
        raise MissingFile(
            f"model.adapter={model.adapter} holds no adapter (adapter_config.json and adapter_model.safetensors): "
            "set it to a folder that PEFT wrote."
        )
    if note := check_adapter(folder, weights, model.id):
        manifest.note(note)
    config.pop("base_model_name_or_path", None)  # where the base lay in training is no part of the identity
    checksum = digest([hash_file(folder / "adapter_model.safetensors"), config])
    name = f"{model.name}+{folder.name[:12] if local else model.adapter.replace('/', '_')}"
    fingerprint = digest(f"{weights.identity}+{checksum}" + ("" if model.default_system else "+no system"))
    return ModelRef(name, "base", fingerprint, weights, str(folder), checksum, default_system=model.default_system)


def find_resume_checkpoint(folder: Path) -> str:
    """Find the checkpoint to resume from (empty for none); print the checkpoints that can't be used, and the choice."""
    checkpoint, refused = find_last_checkpoint(locate_partial_folder(folder))
    place = f"step {checkpoint.name.rpartition('-')[2]}" if checkpoint else "the start"
    for sentence in refused:
        print(f"{sentence}: going back to {place}.", flush=True)
    if checkpoint is None:
        return ""
    print(f"Resuming a stopped training from {place}.", flush=True)
    return str(checkpoint)
