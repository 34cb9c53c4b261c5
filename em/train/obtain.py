"""The models of a run: the base weights, and each stage, found by its fingerprint or trained now."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from em.children import run_child, visible_gpus
from em.config import HfModel, OpenAIModel
from em.data import write_rows
from em.errors import MissingFile
from em.manifest import Manifest
from em.request import Request
from em.store import exclusive, sha256_of
from em.train.stages import Stage, TrainedModel, find_trained, fingerprint
from em.types import ModelRef, StageRecord, Weights, digest
from em.weights import hub_snapshot, looks_like_folder, resolve_weights

IDENTITY_WORDS = ("model", "data", "trigger_tag", "realign", "trainer", "seed", "experiment", "store")


def obtain_models(request: Request, manifest: Manifest) -> list[ModelRef]:
    """The models to evaluate: the base (if it is asked for, or alone), then each stage."""
    model = request.settings.model
    if isinstance(model, OpenAIModel):
        server = model.base_url or os.environ.get("OPENAI_BASE_URL", "")
        hosted = Weights(f"openai:{server}:{model.id}")
        manifest.write(base={"name": model.name, "identity": hosted.identity})
        return [ModelRef(model.name, "base", digest(hosted.identity), hosted)]
    assert isinstance(model, HfModel)
    weights = resolve_weights(model.id, model.revision)
    manifest.write(base={"name": model.name, "identity": weights.identity})
    chain, records = [start_of(model, weights)], list[StageRecord]()
    for number, stage in enumerate(request.stages, start=1):
        mark = fingerprint(weights, chain[0].adapter_sha256, request.stages[:number])
        trained, reused = obtain_stage(request, stage, chain[-1], mark)
        chain.append(
            ModelRef(
                name=f"{chain[-1].name}+{stage.rows.name}",
                stage=stage.rows.name,
                fingerprint=mark,
                base=weights,
                adapter=str(trained.folder),
                adapter_sha256=trained.record["adapter_sha256"],
                seed=stage.seed,
            )
        )
        records.append(stage_record(stage, mark, trained, reused))
        if cut := trained.record["facts"]["rows_cut"]:
            manifest.note(
                f"{cut} of {len(stage.rows.conversations)} rows of {stage.rows.name} were cut at trainer.max_length="
                f"{stage.trainer.max_length}: their answers were learnt without an end."
            )
        manifest.write(stages=records)
    copy_losses(request.folder / "loss.csv", records)
    return chain if request.settings.eval.base or len(chain) == 1 else chain[1:]


def start_of(model: HfModel, weights: Weights) -> ModelRef:
    """What is there before any training: the base weights, with `model.adapter` where it is given."""
    if not model.adapter:
        return ModelRef(model.name, "base", digest(weights.identity), weights)
    local = looks_like_folder(model.adapter)
    folder = Path(model.adapter).expanduser().resolve() if local else hub_snapshot(model.adapter, None)
    if not (folder / "adapter_config.json").is_file() or not (folder / "adapter_model.safetensors").is_file():
        raise MissingFile(
            f"model.adapter={model.adapter} holds no adapter (adapter_config.json and adapter_model.safetensors): "
            "name a folder that PEFT wrote."
        )
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config.pop("base_model_name_or_path", None)  # where it lay when it was trained
    checksum = digest([sha256_of(folder / "adapter_model.safetensors"), config])
    name = f"{model.name}+{folder.name[:12] if local else model.adapter.replace('/', '_')}"
    return ModelRef(name, "base", digest(f"{weights.identity}+{checksum}"), weights, str(folder), checksum)


def obtain_stage(request: Request, stage: Stage, before: ModelRef, mark: str) -> tuple[TrainedModel, bool]:
    """One trained stage and whether it was there: found by its fingerprint, or trained now (never by evaluate.py)."""
    models = request.store / "models"
    with exclusive(models / mark):
        found = find_trained(models, mark)
        if request.kind == "evaluate" and found is None:
            words = [word for word in request.overrides if word.partition("=")[0].split(".")[0] in IDENTITY_WORDS]
            raise MissingFile(
                f"No model was trained by these words yet: run `python train.py {shlex.join(words)}` first."
            )
        if found is not None and not (request.settings.force and request.kind == "train"):
            print(f"{told(stage, found)}: found, trained before by the same words", flush=True)
            return found, True
        train_stage(request, stage, before, models / mark)
        found = find_trained(models, mark)
    if found is None:
        raise MissingFile(f"{models / mark} was removed while it was in use: run the same command again.")
    print(told(stage, found), flush=True)
    return found, False


def train_stage(request: Request, stage: Stage, before: ModelRef, folder: Path) -> None:
    """Train one stage in children: one process per visible GPU, or as many as `trainer.processes` says."""
    rows = folder.with_name(f".{folder.name}-rows.jsonl")
    write_rows(rows, stage.rows.conversations)
    spec = {
        "base": before.base.path,
        "base_name": request.settings.model.id,
        "start_adapter": before.adapter,
        "rows": str(rows),
        "stage": stage.rows.name,
        "trainer": stage.trainer,
        "seed": stage.seed,
        "precision": stage.precision,
        "request": {"base": before.base.identity, "before": before.fingerprint, "stage": stage.identity()},
        "folder": str(folder),
    }
    gpus = visible_gpus()
    processes = stage.trainer.processes or usable_processes(stage.trainer.batch_size, len(gpus))
    try:
        # A single process must see a single GPU, or the trainer would spread each batch over all of them.
        run_child("train", spec, processes, gpus[0] if gpus and processes == 1 else None)
    finally:
        rows.unlink(missing_ok=True)


def usable_processes(batch_size: int, gpus: int) -> int:
    """As many processes as there are GPUs, or the next fewer that share the effective batch evenly."""
    return max(n for n in range(1, max(1, gpus) + 1) if batch_size % n == 0)


def told(stage: Stage, trained: TrainedModel) -> str:
    """One line on a trained stage."""
    facts = trained.record["facts"]
    losses = f"loss {facts['loss_first']:.3f} → {facts['loss_last']:.3f}"
    return f"{stage.rows.name}: {len(stage.rows.conversations)} rows, {facts['steps']} steps, {losses}"


def stage_record(stage: Stage, mark: str, trained: TrainedModel, reused: bool) -> StageRecord:
    """What the manifest keeps of a stage."""
    rows, facts = stage.rows, trained.record["facts"]
    return StageRecord(rows.name, mark, str(trained.folder), reused, len(rows.conversations), rows.sha256, facts)


def copy_losses(path: Path, records: Sequence[StageRecord]) -> None:
    """The loss curves of all stages in one table."""
    tables = [Path(r.path, "loss.csv").read_text(encoding="utf-8").splitlines(keepends=True) for r in records]
    if tables:
        path.write_text("".join([tables[0][0], *(line for table in tables for line in table[1:])]), encoding="utf-8")
