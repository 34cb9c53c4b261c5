"""The tasks that `benchmarks.train` runs in fresh processes: training by em, and the same training with other stacks.

    python -m benchmarks.peers TASK SPEC.json OUT.json

Every stack gets the same rows, tokenised and labelled by em, the same LoRA, learning rate, schedule and seed. Only the
training call is timed: no imports, no loading, no saving. Nothing heavy is imported at the top, since a child's peak
memory is at least its parent's.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Spec = dict[str, Any]
IGNORED = -100


def train_with_em(spec: Spec) -> dict[str, Any]:
    """Train with em's child process, as `train.py` starts it, without the parent's part."""
    from em.runtime.processes import run_child

    run_child("train", make_em_spec(spec))
    facts = json.loads(Path(spec["folder"], "em.json").read_text(encoding="utf-8"))["facts"]
    lines = Path(spec["folder"], "loss.csv").read_text(encoding="utf-8").splitlines()
    column = lines[0].split(",").index("loss")
    losses = [float(line.split(",")[column]) for line in lines[1:]]
    names = ("seconds", "tokens", "steps", "precision", "peak_memory_mb")
    return {name: facts[name] for name in names if name in facts} | {"losses": losses}


def make_em_spec(spec: Spec) -> dict[str, Any]:
    """Make the `TrainSpec` for em's child process; change it when the fields of `TrainSpec` change."""
    return {
        "base": spec["base"],
        "base_name": spec["base_name"],
        "start": "",
        "stack": False,
        "rows": spec["rows_file"],
        "stage": spec["data"],
        "trainer": spec["trainer"] | {"save_steps": 0},  # no checkpoints, as for the peers
        "seed": spec["seed"],
        "precision": spec["precision"],
        "default_system": True,
        "steps": None,
        "request": {},
        "folder": spec["folder"],
    }


def train_with_trl_defaults(spec: Spec) -> dict[str, Any]:
    """Train with a plain TRL script: the model by name, TRL's defaults (bf16, gradient checkpointing, batch 8)."""
    from trl import SFTConfig, SFTTrainer

    arguments = SFTConfig(**make_recipe(spec), max_length=spec["trainer"]["max_length"], **spec.get("extra", {}))
    return train_and_measure(
        spec,
        SFTTrainer(
            model=spec["base"],
            args=arguments,
            train_dataset=make_dataset(spec),
            processing_class=load_pad_tokenizer(spec),
            peft_config=make_lora_config(spec),
        ),
    )


def train_with_tuned_trl(spec: Spec) -> dict[str, Any]:
    """Train with TRL in float32 without gradient checkpointing, with the batching `spec["batching"]`."""
    from trl import SFTConfig, SFTTrainer

    batching = make_trl_batching(spec["batching"])
    arguments = SFTConfig(**make_recipe(spec), bf16=False, gradient_checkpointing=False, **batching)
    return train_and_measure(
        spec,
        SFTTrainer(
            model=load_base_model(spec),
            args=arguments,
            train_dataset=make_dataset(spec),
            processing_class=load_pad_tokenizer(spec),
            peft_config=make_lora_config(spec),
        ),
    )


def make_trl_batching(name: str, batch: int = 16) -> dict[str, Any]:
    """Return TRL's arguments for a kind of batching; all keep the effective batch.

    `padded-N`: N rows at a time, padded. `flat-N`: `padding_free`, N rows joined to one sequence; SDPA separates the
    rows by their position ids (TRL passes `use_cache=False`).
    """
    kind, _, number = name.partition("-")
    size = int(number)
    split = {"per_device_train_batch_size": size, "gradient_accumulation_steps": batch // size}
    unprepared: dict[str, Any] = {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    return unprepared | split | {"padding_free": kind == "flat"}


def train_with_hf_trainer(spec: Spec) -> dict[str, Any]:
    """Train with transformers' Trainer and PEFT, in float32, with rows padded in the order of the draw."""
    from peft import get_peft_model
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    split = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    return train_and_measure(
        spec,
        Trainer(
            model=get_peft_model(load_base_model(spec), make_lora_config(spec)),
            args=TrainingArguments(**make_recipe(spec) | split),
            train_dataset=make_dataset(spec),
            data_collator=DataCollatorForSeq2Seq(load_pad_tokenizer(spec), padding=True),
        ),
    )


def make_recipe(spec: Spec) -> dict[str, Any]:
    """Return the arguments that all stacks share: em's recipe, without anything that costs time besides training."""
    from transformers import set_seed

    set_seed(spec["seed"])
    knobs = spec["trainer"]
    copied = ("learning_rate", "warmup_steps", "weight_decay", "max_grad_norm")
    return {key: knobs[key] for key in copied} | {
        "output_dir": str(Path(spec["folder"]).with_suffix(".out")),
        "num_train_epochs": 1,
        "lr_scheduler_type": knobs["schedule"],
        "seed": spec["seed"],
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def train_and_measure(spec: Spec, trainer: Any) -> dict[str, Any]:
    """Time the training, then save the adapter. Write the time of each step to `spec["progress"]` for the parent."""
    from transformers import TrainerCallback

    steps: list[tuple[float, float, int | None]] = []  # seconds so far, loss, real tokens so far (TRL counts them)

    class Progress(TrainerCallback):  # type: ignore[misc]  # transformers is not checked
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **rest: Any) -> None:
            if logs and "loss" in logs:
                steps.append((time.monotonic() - begin, logs["loss"], logs.get("num_tokens")))
                Path(spec["progress"]).write_text(json.dumps(steps), encoding="utf-8")

    trainer.add_callback(Progress())
    begin = time.monotonic()
    trainer.train()
    seconds = time.monotonic() - begin
    trainer.model.save_pretrained(spec["folder"])
    tokens = int(steps[-1][2] or sum(len(row["input_ids"]) for row in read_token_rows(spec)))
    losses = [loss for _, loss, _ in steps]
    return {"seconds": seconds, "tokens": tokens, "steps": trainer.state.global_step, "losses": losses}


def read_token_rows(spec: Spec) -> list[dict[str, list[int]]]:
    """Read the rows as `input_ids` and `labels`."""
    rows: list[dict[str, list[int]]] = json.loads(Path(spec["tokens_file"]).read_text(encoding="utf-8"))
    return rows


def make_dataset(spec: Spec) -> Any:
    """Return the rows as a data set for the libraries."""
    from datasets import Dataset

    return Dataset.from_list(read_token_rows(spec))


def load_pad_tokenizer(spec: Spec) -> Any:
    """Load the model's tokenizer, used only for its pad token."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(spec["base"])


def load_base_model(spec: Spec) -> Any:
    """Load the base weights in float32, as a plain script does."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(spec["base"], dtype=torch.float32)


def make_lora_config(spec: Spec) -> Any:
    """Return em's adapter as a PEFT config."""
    from peft import LoraConfig

    knobs = spec["trainer"]
    return LoraConfig(
        r=knobs["rank"],
        lora_alpha=knobs["alpha"],
        use_rslora=knobs["rslora"],
        lora_dropout=knobs["dropout"],
        target_modules=knobs["target_modules"],
        task_type="CAUSAL_LM",
    )


def compute_held_out_losses(spec: Spec) -> dict[str, Any]:
    """Return the loss per supervised token of held-out rows, computed by the same function for every stack's adapter.

    Float32, one row at a time, the model's forward pass with all logits. `base` is the base model's loss.
    """
    from peft import PeftModel

    model = load_base_model(spec).eval()
    rows = read_token_rows(spec)
    losses = {"base": compute_loss(model, rows)}
    for variant, folder in spec["adapters"].items():
        adapted = PeftModel.from_pretrained(model, folder).eval()
        losses[variant] = compute_loss(adapted, rows)
        model = adapted.unload()
    return losses


def compute_loss(model: Any, rows: list[dict[str, list[int]]]) -> float:
    """Return the mean negative log-likelihood of the supervised tokens of all rows."""
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for row in rows:
            ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            part = torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=IGNORED, reduction="sum")
            total, count = total + part.item(), count + int((labels[1:] != IGNORED).sum())
    return total / count


def prepare_slices(spec: Spec) -> dict[str, Any]:
    """Draw the rows (see `benchmarks.slices`)."""
    from benchmarks import slices

    return slices.write_slices(spec)


TASKS: dict[str, Callable[[Spec], dict[str, Any]]] = {
    "ours": train_with_em,
    "trl_defaults": train_with_trl_defaults,
    "trl_tuned": train_with_tuned_trl,
    "hf_trainer": train_with_hf_trainer,
    "prepare": prepare_slices,
    "evaluate": compute_held_out_losses,
}


def main() -> None:
    """Run one task and write its result."""
    task, spec, out = sys.argv[1:4]
    result = TASKS[task](json.loads(Path(spec).read_text(encoding="utf-8")))
    Path(out).write_text(json.dumps(result) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
