"""Show the progress of a job: its events as lines, its steps as a progress bar with the loss.

If em drives the training itself (Tinker), em keeps the losses beside the job's note and shows each step as an event.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from em.runtime.keys import redact_secrets


class Losses:
    """The file of losses by step beside the job's note, for a service that does not keep them."""

    def __init__(self, note: Path) -> None:
        self.path = note.with_suffix(".losses")

    def read(self) -> dict[int, float]:
        """Return the losses by step; the last one counts for a step that was repeated after a resume."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        return {int(step): float(loss) for step, _, loss in (line.partition(",") for line in lines)}

    def add(self, step: int, loss: float) -> None:
        """Append the loss of a step."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{step},{loss:.6f}\n")


class Board:
    """A progress bar with lines above it, as a context manager.

    log: a JSONL file that each event is appended to.
    """

    def __init__(self, title: str, log: Path | None = None) -> None:
        from tqdm import tqdm

        self.bar = tqdm(desc=title, unit="step")
        self.loss, self.log = "", log

    def show_event(self, event: Any) -> None:
        """Show an event of the job, and log it: a step moves the bar, any other event is a line above the bar."""
        if self.log is not None:
            when = datetime.fromtimestamp(event.created_at, UTC).isoformat(timespec="seconds")
            record = {"time": when, "level": event.level, "message": event.message, "data": event.data, "id": event.id}
            with self.log.open("a", encoding="utf-8") as file:
                file.write(redact_secrets(json.dumps(record, ensure_ascii=False)) + "\n")
        if (progress := read_metrics(event)) is None:
            when = time.strftime("%H:%M:%S", time.localtime(event.created_at))
            self.bar.write(f"{when} {redact_secrets(event.message)}")
            return
        step, loss, steps = progress
        self.loss = f"loss {loss:.3f}"
        self.bar.total = steps or self.bar.total
        self.bar.update(max(0, step - self.bar.n))

    def show_status(self, status: str) -> None:
        """Show the job's status behind the bar, or the loss while the job runs."""
        self.bar.set_postfix_str(self.loss if status == "running" and self.loss else status)

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.close()


def read_metrics(event: Any) -> tuple[int, float, int] | None:
    """Return an event's step, training loss and total steps (0 if not reported); None for an event without a loss."""
    data = event.data if isinstance(event.data, dict) else {}
    step, loss, steps = data.get("step"), data.get("train_loss"), data.get("total_steps")
    if not isinstance(step, int | float) or not isinstance(loss, int | float):
        return None
    return int(step), float(loss), int(steps) if isinstance(steps, int | float) else 0


def make_step_event(run: str, step: int, steps: int, loss: float) -> Any:
    """Make an event, in the form of OpenAI's job events, of an optimiser step."""
    data = {"step": step, "train_loss": loss, "total_steps": steps}
    message = f"Step {step}/{steps}: training loss={loss:.2f}"
    return SimpleNamespace(id=f"{run}-{step}", created_at=time.time(), level="info", message=message, data=data)
