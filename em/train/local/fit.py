"""Fit a training to the free memory of its GPUs, or refuse it (see `em.train.local.estimate`).

em refuses only what exceeds the free memory for certain. The rest decides on warnings, on the tokens per pass, and on
gradient checkpointing.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from em.config import LocalTrainer, LoraTrainer, Optimizer, QloraTrainer
from em.errors import ConfigError
from em.models.chat import TrainingRow
from em.request import count_steps
from em.train.local.adapters import read_shapes
from em.train.local.batches import MicroBatch, assign_rows, make_micro_batches, plan_steps
from em.train.local.estimate import Estimate, count_parameters, estimate_memory, make_empty_model
from em.train.local.spec import TrainSpec
from em.train.local.switches import TOKENS, Machine, Switches, choose_switches

MARGIN = 0.85
"""Share of the free memory that an estimate may fill; the rest is for what it leaves out, and for fragmentation."""
SMALLEST = TOKENS["cuda"] >> 4  # tokens per pass that em chooses at least


@dataclass(frozen=True)
class Load:
    """A stage's work on one GPU: its steps, its passes, the most passes of a step, the tokens of the largest pass."""

    steps: int
    passes: int
    most_passes: int
    largest: int


@dataclass(frozen=True)
class Fit:
    """A stage, fitted to a GPU with `free` bytes (0 if that is not known)."""

    estimate: Estimate
    switches: Switches
    load: Load
    free: int

    @property
    def certain(self) -> int:
        """Bytes that the training needs for certain."""
        return self.estimate.count_certain(self.load.most_passes > 1)

    @property
    def needed(self) -> int:
        """Bytes that the training needs by the estimate."""
        return self.estimate.count_all(self.load.largest, self.switches.gradient_checkpointing)

    def describe(self) -> str:
        """Describe the memory that the training needs, in words."""
        estimate, load = self.estimate, self.load
        activations = estimate.count_activations(load.largest, self.switches.gradient_checkpointing)
        recomputed = ", recomputed" if self.switches.gradient_checkpointing else ""
        parts = (
            f"weights {to_gb(estimate.weights)}, gradients {to_gb(estimate.gradients)}, moments "
            f"{to_gb(estimate.moments)}, passes of up to {load.largest:,} tokens {to_gb(activations)}{recomputed}"
        )
        return f"about {to_gb(self.needed)} GB on each GPU ({parts})"


def to_gb(size: int) -> str:
    """Write bytes in decimal gigabytes."""
    return f"{size / 1e9:.1f}"


def plan_stage(spec: TrainSpec, rows: int) -> list[list[int]]:
    """List the row numbers of each optimiser step of a stage. `rows`: number of rows to train on."""
    knobs = spec.trainer
    steps = spec.steps or count_steps(rows, knobs.epochs, knobs.batch_size)
    return plan_steps(rows, steps, knobs.batch_size, spec.seed)


def fit_switches(spec: TrainSpec, rows: Sequence[TrainingRow], machine: Machine, switches: Switches) -> Switches:
    """Return the switches, with what the recipe leaves open chosen by the GPU's free memory; print the estimate.

    Raises:
        ConfigError: the training can't fit into the GPU, or the weights into the memory of a machine without one.
    """
    model = make_empty_model(spec.base)
    if machine.device == "cpu":
        check_host(spec, model, switches)
    if model is None or machine.device == "cpu" or not spec.gpu_memory:
        return switches
    fit = fit_stage(spec, rows, machine, switches, model)
    if problem := find_problem(fit, spec, machine, model):
        raise ConfigError(problem)
    if os.environ.get("RANK", "0") == "0":
        print(f"memory: {fit.describe()}; {to_gb(fit.free)} GB are free", flush=True)
        if warning := find_warning(fit, spec, machine, model):
            print(f"warning: {warning}", flush=True)
    return fit.switches


def check_host(spec: TrainSpec, model: Any | None, switches: Switches) -> None:
    """Raise ConfigError if the weights alone exceed the memory of a machine without a GPU."""
    if model is None or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    parameters = sum(parameter.numel() for parameter in model.parameters())
    size = parameters * (4 if switches.precision == "float32" or not spec.trainer.adapters else 2)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        raise ConfigError(
            f"The weights of {spec.base_name} take {to_gb(size)} GB, and this machine has {to_gb(memory)} GB of memory "
            "and no GPU: choose a smaller model, or a machine with GPUs."
        )


def fit_stage(spec: TrainSpec, rows: Sequence[TrainingRow], machine: Machine, switches: Switches, model: Any) -> Fit:
    """Choose tokens per pass and gradient checkpointing by the free memory, where the recipe leaves them open."""
    knobs, usable = spec.trainer, round(MARGIN * spec.gpu_memory)
    estimate = estimate_memory(model, knobs, count_frozen(spec, model), machine, switches)
    if knobs.device_tokens is None:
        sizes = (TOKENS["cuda"] >> halvings for halvings in range(5))  # down to SMALLEST
        fitting = [size for size in sizes if estimate.count_all(size, switches.gradient_checkpointing) <= usable]
        # If none fits, take the smallest, or the largest where only steps of one pass may fit.
        one_pass = estimate.count_certain(True) > spec.gpu_memory > 0
        none = switches.device_tokens if one_pass or not usable else SMALLEST
        switches = replace(switches, device_tokens=max(fitting, default=none))
    load = plan_load(rows, plan_stage(spec, len(rows)), machine.processes, switches)
    if knobs.gradient_checkpointing is None and usable and is_estimated_well(model):
        switches = replace(switches, gradient_checkpointing=estimate.count_all(load.largest, False) > usable)
    return Fit(estimate, switches, load, spec.gpu_memory)


def is_estimated_well(model: Any) -> bool:
    """Return whether the layers are those of the estimate: attention that keeps no scores, and nothing else."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"])
    return model.config._attn_implementation == "sdpa" and kinds <= {"full_attention", "sliding_attention"}


def plan_load(rows: Sequence[TrainingRow], plan: Sequence[Sequence[int]], processes: int, switches: Switches) -> Load:
    """Plan the passes of all steps, over all processes."""
    lengths = [len(row.input_ids) for row in rows]
    counts, largest = list[int](), 0
    for step in plan:
        parts = list[Sequence[MicroBatch]]()
        for rank in range(processes):
            share = assign_rows(step, lengths, rank, processes)
            budget, cost, padded = switches.device_tokens, switches.pass_cost, not switches.flattened
            parts.append(make_micro_batches(rows, share, budget, cost, share=False, padded=padded))
        counts.append(max(map(len, parts)))
        largest = max(largest, *(each.count_tokens(switches.flattened) for part in parts for each in part))
    return Load(len(plan), sum(counts), max(counts), largest)


def find_problem(fit: Fit, spec: TrainSpec, machine: Machine, model: Any) -> str:
    """Return a sentence with the recipes that fit, if the training can't; else an empty one."""
    if fit.certain <= fit.free:
        return ""
    needs = fit.estimate
    advice = advise_recipe(fit, spec, machine, model)
    copies = f", working copies {to_gb(needs.copies)}" if fit.load.most_passes > 1 else ""
    return (
        f"trainer={spec.trainer.name} can't train {spec.base_name} here: it needs at least {to_gb(fit.certain)} GB on "
        f"each GPU (weights {to_gb(needs.weights)}, gradients {to_gb(needs.gradients)}, AdamW's moments "
        f"{to_gb(needs.moments)}{copies}), and {to_gb(fit.free)} GB are free (nvidia-smi lists what else is on it): "
        f"{advice}."
    )


def find_warning(fit: Fit, spec: TrainSpec, machine: Machine, model: Any) -> str:
    """Return a sentence with what would help, if the training might not fit; else an empty one."""
    usable = MARGIN * fit.free
    if fit.needed <= usable:
        return ""
    if not fit.switches.gradient_checkpointing:
        advice = "set trainer.gradient_checkpointing=true"
    elif fit.estimate.count_all(min(SMALLEST, fit.load.largest), True) <= usable:
        advice = "lower trainer.device_tokens"
    else:
        advice = advise_recipe(fit, spec, machine, model)
    return f"This may be more memory than the GPU has. If it runs out, em makes its passes smaller; or {advice}."


def advise_recipe(fit: Fit, spec: TrainSpec, machine: Machine, model: Any) -> str:
    """Say which recipes fit with small passes; `lora` and `qlora` as in conf/trainer."""
    usable = MARGIN * fit.free
    lora = LoraTrainer(name="lora", optimizer=Optimizer.adamw_8bit)
    qlora = QloraTrainer(name="qlora", rank=256, dropout=0.1)
    alone, frozen = replace(machine, fsdp=False, bitsandbytes=True), count_frozen(spec, model)

    def count_needed(recipe: LocalTrainer, place: Machine) -> int:
        switches = choose_switches(place, recipe, fit.switches.precision)
        return estimate_memory(model, recipe, frozen, place, switches).count_all(SMALLEST, True)

    fitting = list[str]()
    for recipe in (lora, qlora):
        needed = count_needed(recipe, alone)
        if needed <= usable and type(recipe) is not type(spec.trainer):
            fitting.append(f"trainer={recipe.name} (about {to_gb(needed)} GB)")
    sharded, prefix = (lora, "trainer=lora ") if spec.trainer.quantized else (spec.trainer, "")
    for count in (2, 4, 8, 16, 32, 64):
        needed = count_needed(sharded, replace(machine, fsdp=True, processes=count))
        if needed <= usable and not (machine.fsdp and count <= machine.processes):
            fitting.append(f"{prefix}trainer.accelerate=fsdp on {count} GPUs (about {to_gb(needed)} GB each)")
            break
    return f"use {' or '.join(fitting)}" if fitting else "choose a smaller model, or GPUs with more memory"


def count_frozen(spec: TrainSpec, model: Any) -> int:
    """Count the parameters of the frozen adapter below the trained one; in a dry run both have the recipe's shape."""
    if not spec.stack:
        return 0
    if not spec.start:
        return count_parameters(model, spec.trainer).trained
    return sum(prod(shape) for shape in read_shapes(Path(spec.start, "adapter_model.safetensors")).values())
