"""TRL's arguments for a recipe. One item of TRL's data is one optimiser step (see `em.train.local.batches`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from em.config import LocalTrainer
from em.errors import ConfigError
from em.train.local.switches import Switches


def make_sft_arguments(trainer: LocalTrainer, switches: Switches, steps: int, seed: int, output: Path) -> Any:
    """Make an SFTConfig. Raises ConfigError when TRL refuses a value of `trainer.extra`."""
    import torch
    from trl import SFTConfig

    try:
        arguments = SFTConfig(
            output_dir=str(output),
            max_steps=steps,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=1,
            learning_rate=trainer.learning_rate,
            lr_scheduler_type=trainer.schedule.value,
            warmup_steps=trainer.warmup_steps if trainer.warmup_steps < 1 else int(trainer.warmup_steps),
            weight_decay=trainer.weight_decay,
            max_grad_norm=trainer.max_grad_norm,
            optim="adamw_bnb_8bit" if switches.moments == "8 bits" else "adamw_torch_fused",
            max_length=None,
            # TRL turns the next two on by default, even on a CPU, where they make training fifty times slower.
            bf16=switches.precision == "bfloat16",
            gradient_checkpointing=switches.gradient_checkpointing,
            tf32=True if switches.tensor_float else None,
            use_liger_kernel=switches.liger_kernels,
            use_cpu=not torch.cuda.is_available(),
            seed=seed,
            data_seed=seed,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="steps" if trainer.save_steps else "no",
            save_steps=trainer.save_steps or 1,
            save_total_limit=2,
            report_to=[],
            disable_tqdm=False,
            dataloader_pin_memory=False,
            ddp_find_unused_parameters=False,
            ddp_broadcast_buffers=False,
            **trainer.extra,
        )
    except (TypeError, ValueError) as error:
        if not trainer.extra:
            raise
        settings = ", ".join(f"{name}={value}" for name, value in trainer.extra.items())
        raise ConfigError(f"TRL refuses trainer.extra ({settings}): {' '.join(str(error).split())}") from error
    # transformers takes a launcher's number format, even one that contradicts `bf16`, on to FSDP.
    arguments.mixed_precision = "bf16" if switches.precision == "bfloat16" else "no"
    return arguments
