"""`trainer.extra`: further arguments of TRL's SFTConfig, whose names are checked before the training."""

from __future__ import annotations

from typing import Any

from em.errors import ConfigError, did_you_mean

ALLOWED = (
    *("adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_kwargs", "neftune_noise_alpha", "optim_args"),
    *("optim_target_modules", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"),
    "torch_empty_cache_steps",
)
"""Arguments that em does not set itself and that its training step respects."""
SAME_NAME = (
    *("learning_rate", "warmup_steps", "weight_decay", "max_grad_norm", "max_length", "gradient_checkpointing"),
    "save_steps",
)
TYPED = {name: f"trainer.{name}" for name in SAME_NAME} | {
    "lr_scheduler_type": "trainer.schedule",
    "warmup_ratio": "trainer.warmup_steps",
    "optim": "trainer.optimizer",
    "num_train_epochs": "trainer.epochs",
    "max_steps": "trainer.epochs",
    "per_device_train_batch_size": "trainer.batch_size",
    "gradient_accumulation_steps": "trainer.batch_size",
    "assistant_only_loss": "trainer.loss_on",
    "completion_only_loss": "trainer.loss_on",
    "activation_checkpointing": "trainer.gradient_checkpointing",
    "bf16": "model.precision",
    "fp16": "model.precision",
    "tf32": "model.precision",
    "seed": "seed",
    "data_seed": "seed",
}
"""Arguments that em has a setting for, and that setting."""


def check_extra(extra: dict[str, Any]) -> None:
    """Raise ConfigError for a name that can't be set here; the message says what to write instead."""
    for name in extra:
        if name in TYPED:
            raise ConfigError(f"trainer.extra.{name} has a setting of its own: write {TYPED[name]}.")
        if name not in ALLOWED:
            hint = did_you_mean(name, ALLOWED, f"choose from {', '.join(ALLOWED)}.", most=3)
            raise ConfigError(f"trainer.extra.{name} is no argument of TRL's SFTConfig that can be set here: {hint}")
