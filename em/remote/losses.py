"""Losses of a training that is driven from here: kept beside its note, and shown as events of a job."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Losses:
    """The losses of a training, step by step, beside its note: the service does not keep them."""

    def __init__(self, note: Path) -> None:
        self.path = note.with_suffix(".losses")

    def read(self) -> Iterator[tuple[int, float]]:
        """What is there."""
        if self.path.is_file():
            with self.path.open(encoding="utf-8", newline="") as file:
                for step, loss in csv.reader(file):
                    yield int(step), float(loss)

    def cut(self, done: int) -> None:
        """Drop the steps that are taken again."""
        kept = [f"{step},{loss}\n" for step, loss in self.read() if step <= done]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text("".join(kept), encoding="utf-8")

    def add(self, step: int, loss: float) -> None:
        """Add a step."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{step},{loss:.6f}\n")


def event_of(run: str, step: int, steps: int, loss: float) -> Any:
    """A step in the form of an event of a job."""
    data = {"step": step, "train_loss": loss, "total_steps": steps}
    message = f"Step {step}/{steps}: training loss={loss:.2f}"
    return SimpleNamespace(id=f"{run}-{step}", created_at=time.time(), level="info", message=message, data=data)
