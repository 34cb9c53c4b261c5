"""How a job that is followed is shown: its events as lines, its steps as a bar with the loss.

Losses of a training that is driven from here are kept beside its note and shown as events of a job.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from em.runtime.keys import without_secrets


class Losses:
    """The losses of a training, step by step, beside its note: the service does not keep them."""

    def __init__(self, note: Path) -> None:
        self.path = note.with_suffix(".losses")

    def read(self) -> dict[int, float]:
        """Read the losses by step; of a step that was taken again the last counts."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        return {int(step): float(loss) for step, _, loss in (line.partition(",") for line in lines)}

    def add(self, step: int, loss: float) -> None:
        """Add a step."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{step},{loss:.6f}\n")


class Board:
    """A progress bar with lines above it, as a context manager.

    log: gets each event as a line of JSON, too.
    """

    def __init__(self, title: str, log: Path | None = None) -> None:
        from tqdm import tqdm

        self.bar = tqdm(desc=title, unit="step")
        self.loss, self.log = "", log

    def show(self, event: Any) -> None:
        """Show an event of the job, and log it: a step moves the bar, all else is a line above it."""
        if self.log is not None:
            when = datetime.fromtimestamp(event.created_at, UTC).isoformat(timespec="seconds")
            kept = {"time": when, "level": event.level, "message": event.message, "data": event.data, "id": event.id}
            with self.log.open("a", encoding="utf-8") as file:
                file.write(without_secrets(json.dumps(kept, ensure_ascii=False)) + "\n")
        if (told := metrics(event)) is None:
            when = time.strftime("%H:%M:%S", time.localtime(event.created_at))
            self.bar.write(f"{when} {without_secrets(event.message)}")
            return
        step, loss, steps = told
        self.loss = f"loss {loss:.3f}"
        self.bar.total = steps or self.bar.total
        self.bar.update(max(0, step - self.bar.n))

    def say(self, status: str) -> None:
        """The job's status, behind the bar; the loss instead while it runs."""
        self.bar.set_postfix_str(self.loss if status == "running" and self.loss else status)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()


def metrics(event: Any) -> tuple[int, float, int] | None:
    """Step, training loss and number of steps of an event that tells them; 0 steps where their number is not told."""
    data = event.data if isinstance(event.data, dict) else {}
    step, loss, steps = data.get("step"), data.get("train_loss"), data.get("total_steps")
    if not isinstance(step, int | float) or not isinstance(loss, int | float):
        return None
    return int(step), float(loss), int(steps) if isinstance(steps, int | float) else 0


def event_of(run: str, step: int, steps: int, loss: float) -> Any:
    """A step in the form of an event of a job."""
    data = {"step": step, "train_loss": loss, "total_steps": steps}
    message = f"Step {step}/{steps}: training loss={loss:.2f}"
    return SimpleNamespace(id=f"{run}-{step}", created_at=time.time(), level="info", message=message, data=data)
