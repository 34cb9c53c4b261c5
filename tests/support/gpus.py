"""A driver that reports GPUs which do not exist, and a memory that is full after some tokens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

FULL_AFTER = "EM_TEST_FULL_AFTER"


def write_driver(folder: Path, *gpus: tuple[int, int]) -> dict[str, str]:
    """Write an nvidia-smi that lists GPUs with these MiB of free and total memory; return the variables to find it."""
    lines = [f"{number}, GPU-{number}, {free}, {total}, Disabled" for number, (free, total) in enumerate(gpus)]
    names = [f"GPU {number}: Test (UUID: GPU-{number})" for number in range(len(gpus))]
    folder.mkdir(parents=True, exist_ok=True)
    script = folder / "nvidia-smi"
    listing, query = "\n".join(names), "\n".join(lines)
    script.write_text(f"#!/bin/sh\nif [ \"$1\" = -L ]; then echo '{listing}'; else echo '{query}'; fi\n")
    script.chmod(0o755)
    visible = ",".join(str(number) for number in range(len(gpus)))
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": visible}


def limit_memory() -> None:
    """Let large passes run out of memory in this process, if the variable `FULL_AFTER` says so.

    It has two numbers: the most tokens of a pass, and how many passes of any size come before.
    """
    if FULL_AFTER not in os.environ:
        return
    import torch

    most, before = (int(number) for number in os.environ[FULL_AFTER].split(","))
    passes = iter(range(10**6))

    def refuse(module: Any, inputs: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and next(passes) >= before and inputs[0].numel() > most:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {inputs[0].numel()} tokens.")

    torch.nn.modules.module.register_module_forward_pre_hook(refuse)
