"""Choose what makes a training faster on this machine, by its capabilities; the manifest records the choice.

Apart from the number format, which the settings name, no switch changes the trained model beyond rounding.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from em.config import LocalTrainer, Optimizer
from em.errors import ConfigError

TOKENS = {"cpu": 2048, "cuda": 8192}
"""Tokens per pass if `trainer.device_tokens` is empty."""
PASS_COST = {"cpu": 70, "cuda": 512}
"""Fixed cost of a pass, in tokens. On two cores the 135M model took 0.3 s for a pass of 16 tokens and 4.3 ms for each
further token; the value for GPUs is a guess."""


@dataclass(frozen=True)
class Machine:
    """The device of a training process, and the hardware features and packages that can speed it up."""

    device: str
    tensor_float: bool = False
    flash_attention: bool = False
    liger: bool = False
    bitsandbytes: bool = False
    fsdp: bool = False
    processes: int = 1


@dataclass(frozen=True)
class Switches:
    """The choices for one training.

    attention: implementation in transformers. flattened: the rows of a pass form one sequence, and their positions
    keep them apart; otherwise rows are sorted by length and padded. shared_prefix: the tokens that all rows of a step
    begin with run once. fused_adapters: the matrix product adds an adapter's output. compact_head: em's own frozen
    head computes logits for supervised tokens only; otherwise TRL's does. moments: number format of AdamW's moments.
    device_tokens: most tokens per pass. pass_cost: fixed cost of a pass, in tokens. fsdp: whether each process holds
    only a part of the weights.
    """

    precision: str
    attention: str
    flattened: bool
    shared_prefix: bool
    fused_adapters: bool
    compact_head: bool
    liger_kernels: bool
    tensor_float: bool
    moments: str
    gradient_checkpointing: bool
    device_tokens: int
    pass_cost: int
    fsdp: bool

    @property
    def form(self) -> str:
        """The form of the optimiser's state in a checkpoint, in words: each form has its own files or keys."""
        return f"moments in {self.moments} {'with' if self.fsdp else 'without'} FSDP"

    def describe(self, threads: int) -> dict[str, Any]:
        """Return the switches and the thread settings for the manifest."""
        return asdict(self) | {"threads": threads, "wait_policy": os.environ.get("OMP_WAIT_POLICY", "as built")}


def detect_machine() -> Machine:
    """Detect the device of this process and the installed packages."""
    import torch

    cuda = torch.cuda.is_available()
    modern = cuda and torch.cuda.get_device_capability() >= (8, 0)  # Ampere: bfloat16, TF32, FlashAttention 2
    return Machine(
        device="cuda" if cuda else "cpu",
        tensor_float=modern,
        flash_attention=modern and find_spec("flash_attn") is not None,
        liger=cuda and find_spec("liger_kernel") is not None,
        bitsandbytes=cuda and find_spec("bitsandbytes") is not None,
        fsdp=os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true",
        processes=int(os.environ.get("WORLD_SIZE", "1")),
    )


def choose_switches(machine: Machine, trainer: LocalTrainer, precision: str) -> Switches:
    """Choose the switches for a recipe on a machine.

    Args:
        precision: float32 or bfloat16, as `em.models.device.choose_precision` chose.
    """
    on_gpu = machine.device == "cuda"
    if trainer.quantized:
        check_qlora(machine, trainer)
    checkpointing = on_gpu if trainer.gradient_checkpointing is None else trainer.gradient_checkpointing
    flash = machine.flash_attention and precision == "bfloat16"
    # em's own kernels were measured on CPUs; on a GPU those of the libraries are used.
    own_kernels = not on_gpu and not machine.fsdp
    can_use_8_bits = on_gpu and machine.bitsandbytes and not machine.fsdp
    small_moments = trainer.optimizer is Optimizer.adamw_8bit and can_use_8_bits
    return Switches(
        precision=precision,
        attention="flash_attention_2" if flash else "sdpa",
        flattened=flash,
        shared_prefix=own_kernels and not checkpointing and machine.processes == 1,
        fused_adapters=own_kernels and trainer.adapters,
        compact_head=not machine.fsdp and trainer.adapters,
        liger_kernels=on_gpu and machine.liger,
        tensor_float=machine.tensor_float,
        moments="8 bits" if small_moments else "float32",
        gradient_checkpointing=checkpointing,
        device_tokens=trainer.device_tokens or TOKENS[machine.device],
        pass_cost=PASS_COST[machine.device],
        fsdp=machine.fsdp,
    )


def check_qlora(machine: Machine, trainer: LocalTrainer) -> None:
    """Refuse QLoRA without a GPU or bitsandbytes: only they compute with weights in 4 bits."""
    if machine.device != "cuda":
        raise ConfigError(f"trainer={trainer.name} needs a GPU, and this machine has none: use trainer=lora.")
    if not machine.bitsandbytes:
        raise ConfigError(
            f"trainer={trainer.name} needs the package bitsandbytes, which is not installed: install it (make gpu, or "
            "the extra em-misalignment[gpu]), or use trainer=lora."
        )
