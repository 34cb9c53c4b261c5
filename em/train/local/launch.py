"""How many processes train, on how many machines, and which launcher of the libraries starts them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from em.config import LocalTrainer
from em.config.paths import CONF
from em.errors import ConfigError, MissingFile
from em.runtime.processes import Launch

ACCELERATE = CONF / "accelerate"


def plan_launch(trainer: LocalTrainer, gpus: int) -> Launch:
    """The processes of a training: one per visible GPU, unless the settings or an Accelerate config say otherwise."""
    wanted = trainer.processes or max(1, gpus)
    # A process without a row in any step would only wait.
    here = min(wanted, trainer.batch_size)
    if trainer.accelerate is None:
        return Launch(here)
    path = accelerate_file(trainer.accelerate)
    values = read_config(path)
    machines = whole_number(path, values, "num_machines", 1)
    rank = trainer.machine_rank
    if machines > 1 and rank is None:
        raise ConfigError(
            f"trainer.accelerate={trainer.accelerate} is for {machines} machines: say which this is with "
            f"trainer.machine_rank=0 to {machines - 1} (on SLURM trainer.machine_rank=$SLURM_NODEID)."
        )
    if rank is not None and not 0 <= rank < machines:
        raise ConfigError(f"trainer.machine_rank={rank}: {path.name} is for {machines} machines, counted from 0.")
    address = (str(values.get("main_process_ip") or ""), whole_number(path, values, "main_process_port", 29500))
    if machines > 1 and not address[0]:
        raise ConfigError(f"{path} is for {machines} machines: give it main_process_ip, the address of machine 0.")
    return Launch(here, str(path), machines, rank or 0, *address)


def accelerate_file(name: str) -> Path:
    """A file of ours by its name, or one of the user's by its path."""
    own = ACCELERATE / f"{name}.yaml"
    path = own if own.is_file() else Path(name).expanduser()
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in ACCELERATE.glob("*.yaml")))
        raise MissingFile(f"trainer.accelerate={name} is neither a file nor one of {known}.")
    return path.resolve()


def read_config(path: Path) -> dict[str, Any]:
    """An Accelerate config file, as `accelerate config` writes it."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is no Accelerate config: write one with `accelerate config --config_file {path}`.")
    return values


def whole_number(path: Path, values: dict[str, Any], name: str, default: int) -> int:
    """A number of an Accelerate config; the default where it is left open."""
    try:
        return int(values.get(name) or default)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: {name}: {values[name]} is no whole number.") from error
