"""`trainer.extra`: arguments of TRL's SFTConfig beyond the typed settings, checked by name before anything is loaded.

The names are read from the source of the installed packages, since importing TRL takes ten seconds.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from em.errors import ConfigError, did_you_mean

SOURCES = (
    ("transformers.training_args", "training_args.py"),
    ("trl.trainer.base_config", "trainer/base_config.py"),
    ("trl.trainer.sft_config", "trainer/sft_config.py"),
)
TYPED = {
    "learning_rate": "trainer.learning_rate",
    "lr_scheduler_type": "trainer.schedule",
    "warmup_steps": "trainer.warmup_steps",
    "warmup_ratio": "trainer.warmup_steps",
    "optim": "trainer.optimizer",
    "weight_decay": "trainer.weight_decay",
    "max_grad_norm": "trainer.max_grad_norm",
    "num_train_epochs": "trainer.epochs",
    "max_steps": "trainer.epochs",
    "per_device_train_batch_size": "trainer.batch_size",
    "gradient_accumulation_steps": "trainer.batch_size",
    "max_length": "trainer.max_length",
    "assistant_only_loss": "trainer.loss_on",
    "completion_only_loss": "trainer.loss_on",
    "gradient_checkpointing": "trainer.gradient_checkpointing",
    "activation_checkpointing": "trainer.gradient_checkpointing",
    "save_steps": "trainer.save_steps",
    "bf16": "model.precision",
    "fp16": "model.precision",
    "tf32": "model.precision",
    "seed": "seed",
    "data_seed": "seed",
}
"""Arguments that have a setting of their own."""
OURS = (
    *("output_dir", "do_", "eval_", "per_device_eval", "prediction_loss_only", "batch_eval_metrics", "logging_"),
    *("log_", "save_", "load_best", "metric_for", "greater_is", "report_to", "run_name", "project", "trackio", "push_"),
    *("hub_", "resume_from", "remove_unused", "label_names", "label_smoothing", "include_", "dataset_", "dataloader_"),
    *("packing", "padding_free", "pad_", "eos_token", "chat_template", "model_init_kwargs", "shuffle", "truncation"),
    *("train_sampling", "group_by", "length_column", "auto_find_batch", "loss_type", "use_cpu", "skip_memory"),
    *("ignore_data_skip", "accelerator_config", "fsdp", "deepspeed", "disable_tqdm", "full_determinism", "jit_mode"),
    *("average_tokens", "enable_jit", "parallelism", "activation_offloading", "trust_remote_code", "bf16_full"),
    *("fp16_full", "past_index", "ddp_", "use_liger", "liger_", "local_rank", "torch_compile", "debug", "use_cache"),
    *("restore_callback", "router_aux"),
)
"""Beginnings of the names of arguments that em sets itself, or that its training step would not heed."""


def check_extra(extra: dict[str, Any]) -> None:
    """Raise ConfigError for a name that TRL does not know or that is not to be set here, with what to write."""
    for name in extra:
        if name in TYPED:
            raise ConfigError(f"trainer.extra.{name} has a setting of its own: write {TYPED[name]}.")
        if name not in known_arguments():
            otherwise = "see the documentation of TRL's SFTConfig."
            hint = did_you_mean(name, allowed(known_arguments()), otherwise, most=3)
            raise ConfigError(f"trainer.extra.{name} is no argument of TRL's SFTConfig: {hint}")
        if name.startswith(OURS):
            raise ConfigError(f"trainer.extra.{name} is not to be set: em sets it itself, or its training has no use.")


def allowed(names: Iterable[str]) -> list[str]:
    """Those of TRL's arguments that may be set by `trainer.extra`."""
    return sorted(name for name in names if name not in TYPED and not name.startswith(OURS))


@cache
def known_arguments() -> frozenset[str]:
    """The names of all fields of SFTConfig and what it inherits from."""
    names: set[str] = set()
    for module, file in SOURCES:
        package = importlib.util.find_spec(module.partition(".")[0])
        assert package is not None, module
        assert package.origin is not None, module
        source = Path(package.origin).parent / file
        if source.is_file():  # TRL has had its base class in other places
            names |= fields_of(source.read_text(encoding="utf-8"))
    return frozenset(names)


def fields_of(source: str) -> set[str]:
    """The annotated fields of the config classes of a module."""
    return {
        field.target.id
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name in ("TrainingArguments", "_BaseConfig", "SFTConfig")
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }
