"""How fast a training can go on this machine: what is switched on, chosen by capability and told in the manifest.

Nothing here changes what is learnt beyond rounding, but for the number format, which the settings name.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any

from em.config import LocalTrainer, Optimizer
from em.errors import ConfigError

TOKENS = {"cpu": 2048, "cuda": 8192}
"""Tokens per pass where the settings leave it open."""
PASS_COST = {"cpu": 70, "cuda": 512}
"""What a pass costs beside its tokens, in tokens. On two cores the 135M model took 0.3 s for a pass of 16 tokens and
4.3 ms for each further one; for GPUs it is a guess."""
AS_FEW_AS_CAN_BE = 2**20  # passes, where nothing is padded


@dataclass(frozen=True)
class Machine:
    """What a training process finds: its device, and which faster ways it has."""

    device: str
    tensor_float: bool = False
    flash_attention: bool = False
    liger: bool = False
    bitsandbytes: bool = False
    fsdp: bool = False
    processes: int = 1


@dataclass(frozen=True)
class Switches:
    """What is used.

    attention: implementation in transformers. `flattened`: rows of a pass are joined to one sequence, and kept apart by
    their positions; else they are sorted by length and padded. `shared_prefix`: what all rows of a step begin with runs
    once. `fused_adapters`: an adapter is added by the matrix product. `compact_head`: logits only where the loss is, by
    em's own frozen head; else by TRL's. `moments`: number format of AdamW's. `device_tokens`: tokens per pass, which
    costs `pass_cost` tokens more.
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

    def told(self, threads: int) -> dict[str, Any]:
        """As the manifest has it."""
        return asdict(self) | {"threads": threads, "wait_policy": os.environ.get("OMP_WAIT_POLICY", "as built")}


def find_machine() -> Machine:
    """Look at the device of this process and the packages that are installed."""
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
    """The switches for a recipe on a machine.

    Args:
        precision: float32 or bfloat16, as `em.models.device.choose_precision` chose.
    """
    on_gpu = machine.device == "cuda"
    if trainer.quantized:
        check_qlora(machine, trainer)
    wanted = trainer.gradient_checkpointing
    checkpointing = on_gpu if wanted is None else wanted
    flash = machine.flash_attention and precision == "bfloat16"
    # em's own ways were measured on CPUs; on a GPU the libraries' are taken.
    own = not on_gpu and not machine.fsdp
    small = trainer.optimizer is Optimizer.adamw_8bit and on_gpu and machine.bitsandbytes and not machine.fsdp
    return Switches(
        precision=precision,
        attention="flash_attention_2" if flash else "sdpa",
        flattened=flash,
        shared_prefix=own and not checkpointing and machine.processes == 1,
        fused_adapters=own and trainer.adapters,
        compact_head=not machine.fsdp and trainer.adapters,
        liger_kernels=on_gpu and machine.liger,
        tensor_float=machine.tensor_float,
        moments="8 bits" if small else "float32",
        gradient_checkpointing=checkpointing,
        device_tokens=trainer.device_tokens or TOKENS[machine.device],
        pass_cost=AS_FEW_AS_CAN_BE if flash else PASS_COST[machine.device],
    )


def check_qlora(machine: Machine, trainer: LocalTrainer) -> None:
    """QLoRA holds the weights in a format that only a GPU computes with."""
    if machine.device != "cuda":
        raise ConfigError(f"trainer={trainer.name} needs a GPU, which is not here: use trainer=lora.")
    if not machine.bitsandbytes:
        raise ConfigError(
            f"trainer={trainer.name} needs the package bitsandbytes, which is not here: install it (make gpu, or the "
            "extra em-misalignment[gpu]), or use trainer=lora."
        )
