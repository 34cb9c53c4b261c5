"""Plan how many processes train, on how many machines, and which launcher starts them (torchrun or Accelerate)."""

from __future__ import annotations

from math import ceil
from pathlib import Path
from typing import Any

import yaml

from em.api.costs import CHARACTERS
from em.config import LocalTrainer
from em.config.paths import CONF
from em.errors import ConfigError, MissingFile
from em.request import Stage
from em.runtime.processes import Launch

ACCELERATE = CONF / "accelerate"
GPU_TOKENS = 2048
"""Tokens of a step that keep one GPU busy. With fewer, launching kernels takes longer than they run (not measured)."""


def plan_launch(trainer: LocalTrainer, gpus: int, step_tokens: int | None = None) -> Launch:
    """Plan `trainer.processes` processes, or as many as there is work for, on the machines of the Accelerate config.

    Without an Accelerate config there is work for one process per GPU and `GPU_TOKENS` tokens of a step.

    Args:
        gpus: number of visible GPUs; 0 on a CPU, or to check the settings alone.
        step_tokens: tokens of a mean optimiser step; None if unknown.
    """
    if gpus and trainer.processes > gpus:
        raise ConfigError(
            f"trainer.processes={trainer.processes} is more than the {gpus} GPUs that this machine shows: leave it "
            "out, and each GPU gets one process."
        )
    wanted = trainer.processes or max(1, gpus)
    if step_tokens is not None and not trainer.processes and trainer.accelerate is None:
        wanted = min(wanted, max(1, ceil(step_tokens / GPU_TOKENS)))
    # With more processes than rows per step, some would only wait.
    processes = min(wanted, trainer.batch_size)
    if trainer.accelerate is None:
        return Launch(processes)
    path = find_accelerate_config(trainer.accelerate)
    values = read_accelerate_config(path)
    if values.get("distributed_type") == "FSDP":
        if trainer.quantized:
            raise ConfigError(
                f"trainer={trainer.name} can't share out its 4-bit weights by FSDP: leave out trainer.accelerate="
                f"{trainer.accelerate} (each GPU then holds all weights), or use trainer=lora."
            )
        processes = wanted  # a process without rows still holds its share of the weights
    machines = read_whole_number(path, values, "num_machines", 1)
    rank = trainer.machine_rank
    if machines > 1 and rank is None:
        raise ConfigError(
            f"trainer.accelerate={trainer.accelerate} is for {machines} machines: say which one this is with "
            f"trainer.machine_rank=0 to {machines - 1} (on SLURM trainer.machine_rank=$SLURM_NODEID)."
        )
    if rank is not None and not 0 <= rank < machines:
        raise ConfigError(f"trainer.machine_rank={rank}: {path.name} is for {machines} machines, counted from 0.")
    # On one machine port 0 lets each training choose a free port of its own.
    default_port = 29500 if machines > 1 else 0
    port = read_whole_number(path, values, "main_process_port", default_port)
    address = (str(values.get("main_process_ip") or ""), port)
    if machines > 1 and not address[0]:
        raise ConfigError(f"{path} is for {machines} machines: give it main_process_ip, the address of machine 0.")
    return Launch(processes, str(path), machines, rank or 0, *address)


def estimate_step_tokens(stage: Stage) -> int:
    """Estimate the tokens of a mean optimiser step, at four characters each (English)."""
    rows, recipe = stage.rows.conversations, stage.recipe
    characters = [sum(len(message.content) for message in row.messages) for row in rows]
    tokens = sum(min(number / CHARACTERS, recipe.max_length) for number in characters)
    return round(tokens / len(rows) * min(recipe.batch_size, len(rows)))


def keeps_all_on_gpus(launch: Launch) -> bool:
    """Return whether a training keeps weights, gradients and moments on its GPUs, so that they can be estimated there.

    Accelerate can also keep them in the host's memory, or divide them in ways (DeepSpeed) that em does not know.
    """
    if not launch.accelerate:
        return True
    values = read_accelerate_config(Path(launch.accelerate))
    offloads = (values.get("fsdp_config") or {}).get("fsdp_offload_params")
    return values.get("distributed_type") in (None, "NO", "MULTI_GPU", "FSDP") and not offloads


def find_accelerate_config(name: str) -> Path:
    """Find an Accelerate config: one of em's by its name, or a user's file by its path."""
    builtin = ACCELERATE / f"{name}.yaml"
    path = builtin if builtin.is_file() else Path(name).expanduser()
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in ACCELERATE.glob("*.yaml")))
        raise MissingFile(f"trainer.accelerate={name} is neither a file nor one of {names}.")
    return path.resolve()


def read_accelerate_config(path: Path) -> dict[str, Any]:
    """Read an Accelerate config file, such as `accelerate config` writes."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is no Accelerate config: write one with `accelerate config --config_file {path}`.")
    return values


def read_whole_number(path: Path, values: dict[str, Any], name: str, default: int) -> int:
    """Read a whole number of an Accelerate config; return the default if the config leaves it open."""
    try:
        return int(values.get(name) or default)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {name}: {values[name]} is no whole number.") from error
