"""The device that a child has: number format, threads, and models loaded onto it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.errors import ConfigError, MissingFile
from em.runtime.gpus import GPUS

if TYPE_CHECKING:
    import torch


def choose_precision(wanted: str) -> torch.dtype:
    """The number format: `auto` is bfloat16 on a GPU that computes in it, float32 elsewhere."""
    import torch

    on_gpu = torch.cuda.is_available()
    able = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bfloat16" and on_gpu and not able:
        raise ConfigError("This GPU does not compute in bfloat16: set model.precision=float32.")
    if wanted.startswith("auto"):
        return torch.bfloat16 if able else torch.float32
    return torch.float32 if wanted == "float32" else torch.bfloat16


def set_threads() -> None:
    """Use the cores that this process may run on (unless OMP_NUM_THREADS says otherwise)."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def device() -> torch.device:
    """The GPU of this process, or the CPU."""
    import torch

    if int(os.environ.get(GPUS, "0")) and not torch.cuda.is_available():
        raise ConfigError(
            "The driver shows a GPU that torch can't use: update the driver, or export an empty CUDA_VISIBLE_DEVICES."
        )
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def load_model(path: str, dtype: torch.dtype, attention: str = "sdpa", **more: Any) -> Any:
    """Load a causal language model onto this process's device; `more`: further arguments of `from_pretrained`."""
    from transformers import AutoModelForCausalLM

    # FSDP shards the weights onto the devices by itself, from the host's memory.
    place = "cpu" if os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true" else device()
    # trust_remote_code stays off and safetensors are asked for: loading a model never runs another's code.
    # Straight onto the device: every rank by way of the host's memory would hold the model there as often.
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, attn_implementation=attention, use_safetensors=True, device_map={"": place}, **more
    )


def load_trained(path: str, trained: str, dtype: torch.dtype) -> Any:
    """A model as training left it, for sampling.

    In float32 an adapter is merged, which is several times faster on a CPU. In bfloat16 it is not: updates smaller
    than half a unit in the last place of a weight would vanish in the merge.

    `trained`: folder of a PEFT adapter, or of whole weights that take the place of `path`; empty for the base.
    """
    import torch
    from peft import PeftModel

    if trained and not Path(trained, "adapter_config.json").is_file():
        return load_model(trained, dtype)
    model = load_model(path, dtype)
    if not trained:
        return model
    try:
        model = PeftModel.from_pretrained(model, trained)
    except (RuntimeError, ValueError) as error:
        raise MissingFile(
            f"The adapter {trained} does not fit the base model: name the base that it was trained on."
        ) from error
    return model.merge_and_unload() if dtype == torch.float32 else model
