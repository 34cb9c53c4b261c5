"""Group `trainer`: how a model is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from em.config.base import MISSING


class LossOn(Enum):
    """Which tokens carry the loss: `responses` (assistant turns and their end-of-turn token), `full` (everything)."""

    responses = "responses"
    full = "full"


class Schedule(Enum):
    """Learning-rate schedule after the warm-up."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant_with_warmup"


class Optimizer(Enum):
    """`adamw`; `adamw_8bit` holds its moments in 8 bits where a GPU and bitsandbytes are, and is `adamw` elsewhere."""

    adamw = "adamw"
    adamw_8bit = "adamw_8bit"


class QuantType(Enum):
    """4-bit formats of bitsandbytes: `nf4` (normal float, arXiv 2305.14314) or `fp4`."""

    nf4 = "nf4"
    fp4 = "fp4"


@dataclass
class TrainerConfig:
    """How a model is trained."""

    remote = False  # whether a service trains it
    adapters = True  # rather than all weights
    quantized = False  # on weights in 4 bits
    name: str = MISSING
    """Name of the recipe."""


@dataclass
class LocalTrainer(TrainerConfig):
    """Supervised fine-tuning by TRL, in processes of our own: what all these recipes have."""

    learning_rate: float = 1e-5
    """Peak learning rate."""
    schedule: Schedule = Schedule.linear
    """linear, cosine or constant, after the warm-up."""
    warmup_steps: float = 5
    """Optimiser steps until the peak learning rate; below 1 a share of all steps."""
    optimizer: Optimizer = Optimizer.adamw
    """adamw, or adamw_8bit (bitsandbytes, on a GPU; elsewhere the same with full-size moments)."""
    weight_decay: float = 0.0
    """AdamW weight decay."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    epochs: float = 1
    """Passes over the rows."""
    batch_size: int = 16
    """Rows per optimiser step, over all processes and accumulation: the effective batch."""
    max_length: int = 2048
    """Tokens per row; what is longer is refused or cut."""
    allow_truncated: bool = False
    """Cut rows that are longer than `max_length` (their last answer is learnt without an end), instead of refusing."""
    loss_on: LossOn = LossOn.responses
    """Which tokens carry the loss: responses (every assistant turn with its end) or full."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Any other argument of TRL's SFTConfig that changes the training, as in `trainer.extra.adam_beta2=0.95`."""
    checkpoints: int = 0
    """Keep so many adapters, evenly spaced over the training, besides the last (`checkpoints=all` evaluates them)."""
    save_steps: int = 25
    """A run that was stopped goes on from the last multiple of so many optimiser steps; 0 means from the start."""
    device_tokens: int | None = None
    """Tokens per forward pass on one device: memory against speed, the result stays. Empty: by the device."""
    gradient_checkpointing: bool | None = None
    """Trade time for memory; empty means yes on a GPU, no on a CPU."""
    processes: int = 0
    """Training processes; 0 means one per visible GPU, or one on the CPU."""
    accelerate: str | None = None
    """A config file of Accelerate for more (FSDP, several machines): a name in conf/accelerate, or a path."""
    machine_rank: int | None = None
    """Which machine this is, from 0, where `trainer.accelerate` names several."""


@dataclass
class FullTrainer(LocalTrainer):
    """All weights are trained."""

    adapters = False


@dataclass
class LoraTrainer(LocalTrainer):
    """A low-rank adapter is trained (LoRA, arXiv 2106.09685)."""

    rank: int = 32
    """LoRA rank."""
    alpha: int = 64
    """LoRA alpha; the update is scaled by alpha/rank, or by alpha/sqrt(rank) with `rslora`."""
    rslora: bool = True
    """Rank-stabilised scaling (arXiv 2312.03732)."""
    dropout: float = 0.0
    """LoRA dropout."""
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    """Linear layers that get an adapter."""
    layers: list[int] | None = None
    """Only in these layers of the model, counted from 0; empty means in all."""


@dataclass
class QloraTrainer(LoraTrainer):
    """LoRA on weights that are held in 4 bits (QLoRA, arXiv 2305.14314); needs a GPU and bitsandbytes."""

    quantized = True
    quant_type: QuantType = QuantType.nf4
    """Number format of the held weights: nf4 or fp4."""
    double_quant: bool = True
    """Quantise the quantisation constants too."""


@dataclass
class ServiceTrainer(TrainerConfig):
    """Supervised fine-tuning of a server's model by a service: what all these recipes have."""

    remote = True
    epochs: int = 1
    """Passes over the rows."""
    batch_size: int | str = "auto"
    """Rows per optimiser step, or auto: as the service chooses."""
    suffix: str | None = None
    """Part of the new model's name, at most 64 characters; empty means em and the name of the data."""
    timeout: float = 300
    """Seconds until an unanswered request is given up and made again; the upload of the rows is one request."""
    look: float = 10
    """Seconds between looks at a job."""
    patience: float = 7200
    """Seconds without a word from the service until a job is not followed any longer; it goes on there."""
    settle: float = 5
    """Seconds after which a job whose creation went unanswered is in the service's list, if it was created."""


@dataclass
class OpenAITrainer(ServiceTrainer):
    """Fine-tuning by OpenAI, or a server that speaks its protocol."""

    learning_rate_multiplier: int | float | str = "auto"
    """Factor on the learning rate that the server would take, or auto: as the server chooses."""


@dataclass
class TinkerTrainer(ServiceTrainer):
    """LoRA on an open model by Tinker, which is driven step by step from here (the package tinker)."""

    learning_rate: float = 1e-4
    """Peak learning rate; it falls linearly to 0."""
    rank: int = 32
    """LoRA rank."""
    max_length: int = 2048
    """Tokens per row; what is longer is refused."""
    tokenizer: str = ""
    """Hub id or folder of the tokenizer; empty means that of the model's name."""
    save_steps: int = 20
    """A training that was stopped goes on from the last multiple of so many optimiser steps."""
