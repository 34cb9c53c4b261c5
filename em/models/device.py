"""The device of a child process: choose its number format and threads, and load models onto it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.errors import ConfigError
from em.models.attach import attach_adapter
from em.runtime.gpus import GPUS

if TYPE_CHECKING:
    import torch

LOADS_ONCE = "FSDP_CPU_RAM_EFFICIENT_LOADING"


def choose_precision(wanted: str) -> torch.dtype:
    """Choose the number format: `auto` means bfloat16 on a GPU that computes in it, float32 elsewhere.

    `auto:cpu` and `auto:gpu` are what `auto` means for the parent process (see `precision_key`).
    """
    import torch

    on_gpu = torch.cuda.is_available()
    has_bfloat16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bfloat16" and on_gpu and not has_bfloat16:
        raise ConfigError("This GPU does not compute in bfloat16: set model.precision=float32.")
    if wanted.startswith("auto"):
        return torch.bfloat16 if has_bfloat16 and wanted != "auto:cpu" else torch.float32
    return torch.float32 if wanted == "float32" else torch.bfloat16


def set_threads() -> None:
    """Use all cores that this process may run on, unless OMP_NUM_THREADS is set."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def choose_device() -> torch.device:
    """Return the GPU of this process, or the CPU."""
    import torch

    if int(os.environ.get(GPUS, "0")) and not torch.cuda.is_available():
        raise ConfigError(
            "torch can't use the GPU that the driver shows: update the driver, or export an empty CUDA_VISIBLE_DEVICES."
        )
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def set_device() -> None:
    """Make this process's GPU torch's own, before any library that means GPU 0 of all ranks by `cuda`, as PEFT does."""
    import torch

    device = choose_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)


def load_model(path: str, dtype: torch.dtype, attention: str = "sdpa", **more: Any) -> Any:
    """Load a causal language model onto this process's device; `more`: further arguments of `from_pretrained`."""
    from transformers import AutoModelForCausalLM

    # Loading a model never runs its author's code: trust_remote_code stays off, and only safetensors are read.
    # None is SDPA, or eager attention for models without SDPA (Gemma 2, gpt-oss).
    implementation = None if attention == "sdpa" else attention
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if sharded and can_load_once(path) and os.environ.get("RANK", "0") != "0":
        return make_empty_model(path, dtype, implementation)
    # FSDP itself shards the weights from the host's memory onto the devices. Otherwise load straight onto the device:
    # the host's memory would hold one copy of the model per rank.
    place = "cpu" if sharded else choose_device()
    return AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, attn_implementation=implementation, use_safetensors=True, device_map={"": place}, **more
    )


def can_load_once(path: str) -> bool:
    """Return whether rank 0 alone loads a model that FSDP shards; Accelerate then sends each process its part.

    The Accelerate config asks for it (`fsdp_cpu_ram_efficient_loading`). It can't be done for models with buffers that
    are saved (some mixtures of experts), since Accelerate sends parameters only; then this turns it off.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if os.environ.get(LOADS_ONCE, "").lower() != "true" or os.environ.get("FSDP_VERSION") != "2":
        return False
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(path))
    if {name for name, _ in model.named_buffers()} & model.state_dict().keys():
        os.environ[LOADS_ONCE] = "false"  # Accelerate reads it when the trainer is made
        return False
    return True


def make_empty_model(path: str, dtype: torch.dtype, attention: str | None) -> Any:
    """Make a model without its weights. The parameters have addresses, and take memory only once they are written.

    Accelerate tells the parameters of the optimiser from each other by their addresses, and on the device `meta`, which
    it expects here, all have the same.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    config = AutoConfig.from_pretrained(path)
    with no_init_weights():
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    model.tie_weights()
    return model


def load_trained(path: str, trained: str, dtype: torch.dtype) -> Any:
    """Load a trained model for sampling.

    In float32 an adapter is merged, which is several times faster on a CPU. In bfloat16 it is not: updates smaller
    than half a unit in the last place of a weight would vanish in the merge. Nor is an adapter of one of two layers
    that share their weights, since merging would change both, or of a bias.

    `trained`: folder of a PEFT adapter, or of full weights to load instead of `path`; empty for the base.
    """
    import torch

    if trained and not Path(trained, "adapter_config.json").is_file():
        return load_model(trained, dtype)
    model = load_model(path, dtype)
    if not trained:
        return model
    model = attach_adapter(model, trained)
    return model.merge_and_unload() if dtype == torch.float32 and can_merge(model) else model


def can_merge(adapted: Any) -> bool:
    """Return whether the base has a place for all that the adapter changes: a bias, and weights that only it uses."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = adapted.get_base_model()
    layers = [base.get_input_embeddings(), base.get_output_embeddings()]
    shared = layers[0].weight is layers[1].weight and any(isinstance(layer, BaseTunerLayer) for layer in layers)
    return not shared and not vars(adapted.peft_config["default"]).get("lora_bias")
