"""Recording a finished run with Weights & Biases, in a child of its own: config, loss curves, scores, status.

Without a key the run is kept offline in the run's folder; `wandb sync` sends it later.
"""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from em.config import WandbMode, WandbTracker


@dataclass(frozen=True)
class TrackSpec:
    """The run's folder, and whether the run failed."""

    folder: str
    tracker: WandbTracker
    failed: bool


def track(spec: TrackSpec) -> None:
    """Copy what a run's folder holds into a W&B run; a failed run ends with exit code 1 there too."""
    import wandb

    folder = Path(spec.folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    run = wandb.init(
        project=spec.tracker.project,
        entity=spec.tracker.entity,
        mode=mode(spec.tracker.mode),
        dir=spec.folder,
        job_type=manifest["run"],
        name=" ".join(manifest["overrides"]) or None,
        config=manifest["config"],
        settings=wandb.Settings(console="off", silent=True),
    )
    for row in read(folder / "loss.csv"):
        run.log({f"{row['stage']}/loss": float(row["loss"]), f"{row['stage']}/step": int(row["step"])})
    for row in read(folder / "scores.csv"):
        if row["question"] == "*" and row["rate"]:
            keys = ("model", "condition", "eval_set", "metric", "convention")
            run.summary["/".join(row[key] for key in keys)] = float(row["rate"])
    run.summary["error"] = manifest["error"]
    run.finish(exit_code=1 if spec.failed else 0)


def mode(wanted: WandbMode) -> Literal["online", "offline"]:
    """Online or offline; `auto` is online when there is a key."""
    if wanted is not WandbMode.auto:
        return "online" if wanted is WandbMode.online else "offline"
    netrc = Path.home() / ".netrc"
    keyed = os.environ.get("WANDB_API_KEY") or (netrc.is_file() and "wandb.ai" in netrc.read_text(encoding="utf-8"))
    return "online" if keyed else "offline"


def read(table: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none when it isn't there."""
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
