"""What a training tells: a bar with the loss while it runs, and its curve and facts when it is done."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from typing import Any


def progress_bar(stage: str) -> Any:
    """One bar that shows the loss, instead of a line of numbers per step."""
    from transformers.trainer_callback import ProgressCallback

    class LossBar(ProgressCallback):  # type: ignore[misc]  # transformers is not checked
        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            super().on_train_begin(args, state, control, **rest)
            if self.training_bar is not None:
                self.training_bar.set_description(f"training on {stage}")
                self.training_bar.update(state.global_step)  # what was done before it was stopped
                self.current_step = state.global_step

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **rest: Any) -> None:
            if self.training_bar is not None and logs and "loss" in logs:
                self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.3f}")

    return LossBar()


def loss_entries(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The entries of a log that are optimiser steps."""
    return [entry for entry in history if "loss" in entry]


def training_facts(trainer: Any, tokens: int) -> dict[str, Any]:
    """What the manifest keeps of a training that is done."""
    import torch

    losses = loss_entries(trainer.state.log_history)
    seen = sum(trainer.lengths[number] for item in trainer.train_dataset for number in item["step"])
    on_gpu = torch.cuda.is_available()
    # ru_maxrss counts KiB on Linux, bytes on a Mac.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "steps": trainer.state.global_step,
        "loss_first": losses[0]["loss"],
        "loss_last": losses[-1]["loss"],
        "processes": trainer.accelerator.num_processes,
        "precision": trainer.switches.precision,
        "device": trainer.args.device.type,
        "tokens": tokens,
        "seconds": round(trainer.seconds, 2),
        "tokens_per_second": round(seen / trainer.seconds, 1),
        "peak_memory_mb": round((torch.cuda.max_memory_allocated() if on_gpu else peak) / 2**20),
    }
