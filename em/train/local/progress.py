"""Report on a training: a progress bar with the loss while it runs, then its loss curve and facts."""

from __future__ import annotations

import resource
import sys
from collections.abc import Sequence
from typing import Any


def make_progress_bar(stage: str) -> Any:
    """Make a progress bar that shows the loss, in place of the line that transformers prints at each step."""
    from transformers.trainer_callback import ProgressCallback

    class LossBar(ProgressCallback):  # type: ignore[misc]  # transformers is not checked
        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            super().on_train_begin(args, state, control, **rest)
            if self.training_bar is not None:
                self.training_bar.set_description(f"training on {stage}")
                self.training_bar.update(state.global_step)  # steps done before the training was resumed
                self.current_step = state.global_step

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **rest: Any) -> None:
            if self.training_bar is not None and logs and "loss" in logs:
                self.training_bar.set_postfix_str(f"loss {float(logs['loss']):.3f}")

    return LossBar()


def select_loss_entries(history: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Select the log entries of optimiser steps."""
    return [entry for entry in history if "loss" in entry]


def collect_training_facts(trainer: Any, tokens: int) -> dict[str, Any]:
    """Collect the facts of a finished training for the manifest."""
    import torch

    losses = select_loss_entries(trainer.state.log_history)
    seen = sum(trainer.lengths[number] for item in trainer.train_dataset for number in item["step"])
    on_gpu = torch.cuda.is_available()
    # ru_maxrss counts KiB on Linux and bytes on a Mac.
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
