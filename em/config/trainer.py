"""Group `trainer`: the training recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from em.config.base import MISSING


class LossOn(Enum):
    """Tokens that carry the loss: `responses` (assistant turns and their end-of-turn token), or `full` (all tokens)."""

    responses = "responses"
    full = "full"


class Schedule(Enum):
    """Learning-rate schedule after the warm-up."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant_with_warmup"


class Optimizer(Enum):
    """`adamw`; `adamw_8bit` keeps its moments in 8 bits, and is `adamw` without a GPU or bitsandbytes."""

    adamw = "adamw"
    adamw_8bit = "adamw_8bit"


class QuantType(Enum):
    """4-bit formats of bitsandbytes: `nf4` (normal float, arXiv 2305.14314) or `fp4`."""

    nf4 = "nf4"
    fp4 = "fp4"


@dataclass
class TrainerConfig:
    """The training recipe."""

    remote = False  # whether a service trains the model
    adapters = True  # whether it trains an adapter, not all weights
    quantized = False  # whether the base weights are in 4 bits
    name: str = MISSING
    """Name of the recipe."""


@dataclass
class LocalTrainer(TrainerConfig):
    """Supervised fine-tuning by TRL in em's own processes: the settings of all such recipes."""

    learning_rate: float = 1e-5
    """Peak learning rate; 1e-5 as for the LoRA recipe of Betley et al."""
    schedule: Schedule = Schedule.linear
    """Learning-rate schedule after the warm-up: linear, cosine or constant."""
    warmup_steps: float = 5
    """Optimiser steps until the peak learning rate; below 1 a share of all steps."""
    optimizer: Optimizer = Optimizer.adamw
    """adamw, or adamw_8bit (by bitsandbytes, which saves memory on a GPU; elsewhere the same as adamw)."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Largest gradient norm; larger gradients are clipped."""
    epochs: float = 1
    """Passes over the rows."""
    batch_size: int = 16
    """Effective batch: rows per optimiser step, over all processes and accumulation steps."""
    max_length: int = 2048
    """Longest row in tokens; longer rows are refused, or cut with `allow_truncated`."""
    allow_truncated: bool = False
    """Cut rows longer than `max_length` instead of refusing them; a cut answer is learnt without an end."""
    loss_on: LossOn = LossOn.responses
    """Tokens that carry the loss: responses (every assistant turn with its end-of-turn token) or full (all)."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further arguments of TRL's SFTConfig that change the training, as in `trainer.extra.adam_beta2=0.95`."""
    checkpoints: int = 0
    """Number of evenly spaced checkpoints to keep besides the last (`checkpoints=all` evaluates them)."""
    save_steps: int = 25
    """Steps between checkpoints from which a stopped run resumes (large ones are rarer); 0 means it starts again."""
    device_tokens: int | None = None
    """Tokens per forward pass on one device (affects memory and speed, not the result); empty: by the free memory."""
    gradient_checkpointing: bool | None = None
    """Recompute activations, which saves memory and takes time; empty: only on a GPU without memory to spare."""
    processes: int = 0
    """Training processes; 0: one per 2,048 tokens of a step, at most one per visible GPU (one on a CPU)."""
    accelerate: str | None = None
    """Accelerate config file for FSDP or several machines: a name in conf/accelerate, or a path."""
    machine_rank: int | None = None
    """Number of this machine, from 0, if `trainer.accelerate` names several."""


@dataclass
class FullTrainer(LocalTrainer):
    """Training of all weights."""

    adapters = False


@dataclass
class LoraTrainer(LocalTrainer):
    """Training of a low-rank adapter (LoRA, arXiv 2106.09685)."""

    rank: int = 32
    """LoRA rank; 32 as in Betley et al."""
    alpha: int = 64
    """LoRA alpha, 64 as in Betley et al.; scales the update by alpha/rank, or by alpha/sqrt(rank) with `rslora`."""
    rslora: bool = True
    """Use rank-stabilised scaling (arXiv 2312.03732), as in Betley et al."""
    dropout: float = 0.0
    """Dropout probability of the adapter."""
    target_modules: list[str] = field(
        default_factory=lambda: ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    )
    """Linear layers that get an adapter; by default all of attention and MLP."""
    layers: list[int] | None = None
    """Numbers of the transformer layers with an adapter, counted from 0; empty means all layers."""


@dataclass
class QloraTrainer(LoraTrainer):
    """LoRA on base weights in 4 bits (QLoRA, arXiv 2305.14314); needs a GPU and bitsandbytes."""

    quantized = True
    quant_type: QuantType = QuantType.nf4
    """Number format of the base weights: nf4 or fp4."""
    double_quant: bool = True
    """Quantise the quantisation constants too."""


@dataclass
class ServiceTrainer(TrainerConfig):
    """Supervised fine-tuning of a server's model by a service: the settings of all such recipes."""

    remote = True
    epochs: int = 1
    """Passes over the rows."""
    batch_size: int | str = "auto"
    """Rows per optimiser step; auto lets the service choose."""
    suffix: str | None = None
    """Part of the new model's name, at most 64 characters; empty means em and the name of the data."""
    timeout: float = 300
    """Seconds after which an unanswered request is retried; the upload of the rows is one request."""
    look: float = 10
    """Seconds between polls of a job."""
    patience: float = 7200
    """Seconds without an answer from the service after which em stops polling a job; the job itself goes on."""
    settle: float = 5
    """Seconds after which a newly created job is certain to be in the service's list, if the reply was lost."""


@dataclass
class OpenAITrainer(ServiceTrainer):
    """Fine-tuning by OpenAI, or by a server that speaks its protocol."""

    learning_rate_multiplier: int | float | str = "auto"
    """Factor on the server's default learning rate; auto lets the server choose."""


@dataclass
class TinkerTrainer(ServiceTrainer):
    """LoRA on an open model by Tinker; em drives the training step by step (package tinker)."""

    learning_rate: float = 1e-4
    """Peak learning rate, 1e-4 as in Tinker's recipes; it falls linearly to 0."""
    rank: int = 32
    """LoRA rank; 32 as in Tinker's recipes."""
    max_length: int = 2048
    """Longest row in tokens; longer rows are refused."""
    tokenizer: str = ""
    """Hub id or folder of the tokenizer; empty means the tokenizer of the model's name."""
    save_steps: int = 20
    """Optimiser steps between checkpoints from which an interrupted training resumes."""
