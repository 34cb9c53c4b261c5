"""`dry_run=true` of a training on open weights: count its tokens, steps and passes, and estimate its memory.

A child process does it, since the parent imports no torch. It needs the model's tokenizer and config, and no weights.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from em.config import HfModel
from em.data import read_messages, write_training_rows
from em.errors import FetchError, MissingFile
from em.models.chat import load_tokenizer
from em.models.device import choose_precision
from em.models.weights import locate_tokenizer
from em.request import Training
from em.runtime.files import write_atomic
from em.runtime.gpu_memory import read_free_memory
from em.runtime.gpus import list_visible_gpus
from em.runtime.processes import run_child
from em.train.local.launch import estimate_step_tokens, keeps_all_on_gpus, plan_launch, read_accelerate_config
from em.train.local.preflight import prepare_rows
from em.train.local.spec import TrainSpec
from em.train.local.switches import Machine, choose_switches, detect_machine


@dataclass(frozen=True)
class EstimateSpec:
    """The stages of a dry run, with the number of processes of each, whether by FSDP, and the file for the result."""

    stages: tuple[TrainSpec, ...]
    processes: tuple[int, ...]
    fsdp: bool
    result: str


def estimate_stages(training: Training, model: HfModel, one_gpu: bool) -> list[str]:
    """Return lines on what the training of each stage would take. Raises EmError for rows that can't be trained on.

    `one_gpu`: as the setting of this name.
    """
    stages, gpus = training.stages, list_visible_gpus()[: 1 if one_gpu else None]
    try:
        base = locate_tokenizer(model.id, model.revision)
    except (FetchError, MissingFile) as error:
        lines = [f"would train {stage.rows.name} ({len(stage.rows.conversations):,} rows)" for stage in stages]
        return [*lines, f"Tokens and memory of the training are not known: {error}"]
    launches = [plan_launch(stage.recipe, len(gpus), estimate_step_tokens(stage)) for stage in stages]
    config = launches[0].accelerate
    with tempfile.TemporaryDirectory(prefix="em-estimate-") as scratch:
        specs = []
        for number, (stage, launch) in enumerate(zip(stages, launches, strict=True)):
            rows = Path(scratch, f"{number}.jsonl")
            write_training_rows(rows, stage.rows.conversations)
            specs.append(
                TrainSpec(
                    base=base,
                    base_name=model.id,
                    start="",
                    stack=stage.stack,
                    rows=str(rows),
                    stage=stage.rows.name,
                    trainer=stage.recipe,
                    seed=stage.seed,
                    precision=stage.precision,
                    default_system=model.default_system,
                    steps=stage.matched,
                    request={},
                    folder="",
                    gpu_memory=read_free_memory(launch, gpus) if keeps_all_on_gpus(launch) else 0,
                )
            )
        fsdp = bool(config) and read_accelerate_config(Path(config)).get("distributed_type") == "FSDP"
        result = Path(scratch, "lines.json")
        processes = tuple(launch.ranks for launch in launches)
        run_child("estimate", EstimateSpec(tuple(specs), processes, fsdp, str(result)))
        lines = list[str](json.loads(result.read_text(encoding="utf-8")))
        if fsdp and not gpus and not stages[0].recipe.processes:
            lines.append("  no GPU is here, so that this is for one process: trainer.processes=8 shows it for eight")
        return lines


def write_estimates(spec: EstimateSpec) -> None:
    """Write the lines on all stages as JSON; runs in the child process."""
    lines = list[str]()
    for stage, processes in zip(spec.stages, spec.processes, strict=True):
        lines += describe_stage(stage, processes, spec.fsdp)
    write_atomic(Path(spec.result), json.dumps(lines))


def describe_stage(spec: TrainSpec, processes: int, fsdp: bool) -> list[str]:
    """Describe what the training of a stage would take, in lines."""
    from em.train.local.estimate import make_empty_model
    from em.train.local.fit import find_problem, find_warning, fit_stage, to_gb

    conversations = read_messages(Path(spec.rows))
    prepared = prepare_rows(conversations, load_tokenizer(spec.base), spec.trainer, spec.default_system, spec.stage)
    machine, precision = detect_machine(), str(choose_precision(spec.precision)).removeprefix("torch.")
    if machine.device == "cpu":  # estimate for a GPU that computes in bfloat16 and has all packages
        machine = Machine("cuda", bitsandbytes=True)
        precision = "float32" if spec.precision == "float32" else "bfloat16"
    machine = replace(machine, processes=processes, fsdp=fsdp)
    head = f"would train {spec.stage} ({len(conversations):,} rows): {prepared.facts['tokens']:,} tokens an epoch"
    model = make_empty_model(spec.base)
    if model is None:
        return [f"{head}; memory is not estimated, since the weights of {spec.base_name} are quantised"]
    fit = fit_stage(spec, prepared.rows, machine, choose_switches(machine, spec.trainer, precision), model)
    each = f" on each of {processes} GPUs" if processes > 1 else ""
    free = f"{to_gb(fit.free)} GB are free" if fit.free else "no GPU is here to compare with"
    lines = [
        f"{head}, {fit.load.steps:,} steps, {fit.load.passes:,} passes{each}",
        f"  memory: {fit.describe()}; {free}",
    ]
    if fit.free and (sentence := find_problem(fit, spec, machine, model) or find_warning(fit, spec, machine, model)):
        lines.append(f"  {sentence}")
    return lines
