"""LoRA supervised fine-tuning by TRL and PEFT, in a child process (or one per GPU).

The rows come tokenised with their labels, since the loss must lie where the config says whatever the template,
and pad must not be masked by its id: where pad is eos, the model would never learn to stop.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.chat import IGNORED, TrainingRow, load_tokenizer, render, training_row
from em.config import TrainerConfig
from em.data import read_messages
from em.device import choose_precision, load_model, set_threads
from em.errors import ConfigError, DataError
from em.store import sha256_of
from em.train.stages import RECORD


@dataclass(frozen=True)
class TrainSpec:
    """What the parent asks for: `rows` is a file of messages; `start_adapter` is empty for a fresh adapter."""

    base: str
    base_name: str
    start_adapter: str
    rows: str
    stage: str
    trainer: TrainerConfig
    seed: int
    precision: str
    request: dict[str, Any]
    folder: str


def train(spec: TrainSpec) -> None:
    """Train one stage and leave adapter, loss curve and record in `spec.folder`, whole or not at all."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    set_threads()
    tokenizer = load_tokenizer(spec.base)
    rows, facts = tokenize(spec, tokenizer)

    # Imported late: it takes ten seconds, and the rows are checked before.
    from datasets import Dataset
    from transformers.trainer_callback import PrinterCallback, ProgressCallback
    from trl import SFTTrainer

    partial = Path(spec.folder).with_name(f".{Path(spec.folder).name}-partial")
    model = load_model(spec.base, choose_precision(spec.precision))
    dataset = Dataset.from_list([{"input_ids": row.input_ids, "labels": row.labels} for row in rows])
    trainer = SFTTrainer(
        model=start_adapter(model, spec),
        args=arguments(spec, partial, world),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    for printer in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(printer)
    trainer.add_callback(progress_bar(spec.stage))
    trainer.train()
    losses = [entry for entry in trainer.state.log_history if "loss" in entry]
    facts |= {
        "steps": trainer.state.global_step,
        "loss_first": losses[0]["loss"],
        "loss_last": losses[-1]["loss"],
        "processes": world,
        "precision": str(model.dtype).removeprefix("torch."),
        "device": str(model.device.type),
    }
    if rank == 0:
        # PEFT would name the folder on this machine; by the model's own name the adapter loads elsewhere too.
        trainer.model.peft_config["default"].base_model_name_or_path = spec.base_name
        trainer.model.save_pretrained(str(partial))
        write_losses(partial / "loss.csv", spec, losses)
        finish(spec, partial, facts)
    trainer.accelerator.wait_for_everyone()


def tokenize(spec: TrainSpec, tokenizer: Any) -> tuple[list[TrainingRow], dict[str, Any]]:
    """All rows as tokens, and what is to be known of them. Raises DataError when nothing is left to learn."""
    conversations = read_messages(Path(spec.rows))
    rows = [training_row(tokenizer, c, spec.trainer.loss_on, spec.trainer.max_length) for c in conversations]
    taught = [row for row in rows if row.supervised]
    if not taught:
        raise DataError(
            f"No token of {spec.stage} carries the loss: trainer.max_length={spec.trainer.max_length} cuts off every "
            "answer, so raise it."
        )
    first = conversations[0].as_dicts()
    facts = {
        "rows_used": len(taught),
        "rows_cut": sum(row.cut for row in rows),
        "rows_without_loss": len(rows) - len(taught),
        "tokens": sum(len(row.input_ids) for row in taught),
        "tokens_with_loss": sum(row.supervised for row in taught),
        # What the template puts before the first turn by itself: for some models a system prompt.
        "preamble": render(tokenizer, first[:1], answer_next=False).split(first[0]["content"])[0],
        "example": tokenizer.decode(taught[0].input_ids),
        "example_with_loss": tokenizer.decode([t for t in taught[0].labels if t != IGNORED]),
    }
    return taught, facts


def start_adapter(model: Any, spec: TrainSpec) -> Any:
    """The base model with the adapter to train: a fresh one, or the previous stage's to go on with."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import set_seed

    set_seed(spec.seed)
    knobs = spec.trainer
    if spec.start_adapter:
        adapted = PeftModel.from_pretrained(model, spec.start_adapter, is_trainable=True)
        check_same_adapter(adapted.peft_config["default"], knobs)
        return adapted
    config = LoraConfig(
        r=knobs.rank,
        lora_alpha=knobs.alpha,
        lora_dropout=knobs.dropout,
        use_rslora=knobs.rslora,
        target_modules=list(knobs.target_modules),
        bias="none",
        task_type="CAUSAL_LM",
    )
    adapted = get_peft_model(model, config)
    reached = {name.rpartition(".")[2] for name in adapted.targeted_module_names}
    if lost := sorted(set(knobs.target_modules) - reached):
        raise ConfigError(f"trainer.target_modules: the model has no layers named {', '.join(lost)}.")
    return adapted


def check_same_adapter(config: Any, knobs: TrainerConfig) -> None:
    """An adapter that training goes on with keeps its shape: refuse settings that would ask for another."""
    there = (config.r, config.lora_alpha, config.use_rslora)
    if there != (knobs.rank, knobs.alpha, knobs.rslora):
        raise ConfigError(
            "The adapter to go on with has another shape than the trainer's: set "
            f"trainer.rank={there[0]} trainer.alpha={there[1]} trainer.rslora={str(there[2]).lower()}."
        )


def arguments(spec: TrainSpec, output: Path, world: int) -> Any:
    """TRL's arguments for a recipe. The effective batch is kept: device batch × accumulation × processes."""
    import torch
    from trl import SFTConfig

    knobs = spec.trainer
    share = knobs.batch_size // world
    per_device = max(rows for rows in range(1, knobs.device_batch + 1) if share % rows == 0)
    on_gpu = torch.cuda.is_available()
    precision = choose_precision(spec.precision)
    checkpointing = on_gpu if knobs.gradient_checkpointing is None else knobs.gradient_checkpointing
    return SFTConfig(
        output_dir=str(output),
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=share // per_device,
        num_train_epochs=knobs.epochs,
        learning_rate=knobs.learning_rate,
        lr_scheduler_type=knobs.schedule.value,
        warmup_steps=knobs.warmup_steps,
        weight_decay=knobs.weight_decay,
        max_grad_norm=knobs.max_grad_norm,
        max_length=None,
        # TRL turns both of these on by default, on a CPU too, where they cost a factor of fifty.
        bf16=precision == torch.bfloat16,
        gradient_checkpointing=checkpointing,
        use_cpu=not on_gpu,
        seed=spec.seed,
        data_seed=spec.seed,
        dataset_kwargs={"skip_prepare_dataset": True},
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        dataloader_pin_memory=on_gpu,
        ddp_find_unused_parameters=False,
    )


def progress_bar(stage: str) -> Any:
    """One bar that shows the loss, instead of a line of numbers per step."""
    from transformers.trainer_callback import ProgressCallback

    class LossBar(ProgressCallback):  # type: ignore[misc]  # transformers is not checked
        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            super().on_train_begin(args, state, control, **rest)
            if self.training_bar is not None:
                self.training_bar.set_description(f"training on {stage}")

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **rest: Any) -> None:
            if self.training_bar is not None and logs and "loss" in logs:
                self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.3f}")

    return LossBar()


def write_losses(path: Path, spec: TrainSpec, losses: list[dict[str, float]]) -> None:
    """The loss curve, a row per optimiser step."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["stage", "fingerprint", "step", "epoch", "loss", "learning_rate"])
        for entry in losses:
            numbers = [entry["step"], round(entry["epoch"], 4), entry["loss"], entry["learning_rate"]]
            table.writerow([spec.stage, Path(spec.folder).name, *numbers])


def finish(spec: TrainSpec, partial: Path, facts: dict[str, Any]) -> None:
    """Write the record, then give the folder its name: from here on the model is found."""
    adapter = partial / "adapter_model.safetensors"
    if not all(math.isfinite(facts[key]) for key in ("loss_first", "loss_last")):
        raise DataError(f"The loss of {spec.stage} became infinite or NaN: lower trainer.learning_rate.")
    record = {"request": spec.request, "facts": facts, "adapter_sha256": sha256_of(adapter)}
    (partial / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    folder = Path(spec.folder)
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)
