"""What is remembered of fine-tunings by a service: `<store>/models/<fingerprint>/`, as of models trained here."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.runtime.files import RECORD, open_atomic, write_atomic
from em.train.remote.service import Order, Result


@dataclass(frozen=True)
class Tuned:
    """A model that a service made: its name there, and the facts of its training.

    start: name of the model that it was trained from. checkpoints: names of models on the way, by optimiser step.
    """

    folder: Path
    model: str
    start: str
    job: str
    facts: dict[str, Any]
    checkpoints: dict[int, str]


def find_tuned(models: Path, mark: str, start: str = "") -> Tuned | None:
    """The finished model of that fingerprint; None when it isn't there.

    Args:
        start: from what it must have been trained: a first stage that was trained anew is another model by the same
            words, and a second stage that sits on the old one is not what is asked for.
    """
    try:
        record = json.loads((models / mark / RECORD).read_text(encoding="utf-8"))
        checkpoints = {int(step): str(name) for step, name in record["checkpoints"].items()}
        began = str(record["request"]["start"])
        if start not in ("", began):
            return None
        return Tuned(models / mark, str(record["model"]), began, str(record["job"]), record["facts"], checkpoints)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def all_tuned(models: Path) -> Iterator[Tuned]:
    """Every model that is remembered."""
    for record in sorted(models.glob(f"*/{RECORD}")):
        if (found := find_tuned(models, record.parent.name)) is not None:
            yield found


def remember(models: Path, order: Order, server: str, result: Result, usd: float | None) -> Tuned:
    """Keep a finished job: the loss curve first, the record last, each whole or not at all."""
    folder = models / order.mark
    folder.mkdir(parents=True, exist_ok=True)
    write_losses(folder / "loss.csv", order, result)
    facts = facts_of(order, server, result, usd)
    record = {
        "request": {"server": server, "start": order.model, "chain": order.chain, "mark": order.mark},
        "model": result.model,
        "job": result.job,
        "facts": facts,
        "checkpoints": {str(step): name for step, name in result.checkpoints.items()},
    }
    write_atomic(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return Tuned(folder, result.model, order.model, result.job, facts, dict(result.checkpoints))


def facts_of(order: Order, server: str, result: Result, usd: float | None) -> dict[str, Any]:
    """What the manifest keeps of a fine-tuning; what the service does not tell is left out."""
    losses = result.losses
    facts = {
        "steps": losses[-1][0] if losses else None,
        "loss_first": losses[0][1] if losses else None,
        "loss_last": losses[-1][1] if losses else None,
        "tokens": result.tokens,
        "seconds": result.seconds,
        **result.told,
        "server": server,
        "started_from": order.model,
        "job": result.job,
        "usd": usd,
    }
    return {name: value for name, value in facts.items() if value is not None}


def write_losses(path: Path, order: Order, result: Result) -> None:
    """The loss curve, a row per step that the service told of, in the form of models that are trained here."""
    last = max((step for step, _ in result.losses), default=0)
    with open_atomic(path, newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["stage", "fingerprint", "step", "epoch", "loss", "learning_rate"])
        for step, loss in result.losses:
            table.writerow([order.data, order.mark, step, round(order.epochs * step / last, 4), loss, ""])
