"""Models fine-tuned by a service: read and write their records in `<store>/models/<fingerprint>/`, and their costs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from em.api.costs import CallCost
from em.config import OpenAIModel, ServiceTrainer
from em.models.hosted import make_hosted_model, parse_hosted_name
from em.request import Stage, Training
from em.runtime.files import RECORD, write_atomic
from em.train.remote.service import Order, Result
from em.train.stages import stage_fingerprints
from em.train.trained import SavedWeights, TrainedModel, make_stage_model, write_loss_curve
from em.types import ModelRef, StageRecord


def find_tuned_model(models: Path, fingerprint: str, start: str = "") -> TrainedModel | None:
    """Return the stored model of a service; None if it has no record, or was trained from another model than `start`.

    Args:
        start: the service's name of the model to start from; empty for any. A retrained first stage has the same
            fingerprint and another name, and a second stage trained from the old first stage must not be reused.
    """
    folder = models / fingerprint
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        checkpoints = sorted((int(step), SavedWeights(str(name))) for step, name in record["checkpoints"].items())
        if start not in ("", str(record["request"]["start"])):
            return None
        return TrainedModel(folder, SavedWeights(str(record["model"])), record["facts"], dict(checkpoints))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def store_result(folder: Path, order: Order, server: str, result: Result, usd: float | None) -> None:
    """Write the result of a finished job into `folder`: the loss curve first, the record last, each atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    losses = result.losses
    last = losses[-1][0] if losses else 0
    curve = [(step, round(order.epochs * step / last, 4), loss, "") for step, loss in losses]
    write_loss_curve(folder / "loss.csv", order.data, order.mark, curve)
    ends = {"steps": last, "loss_first": losses[0][1], "loss_last": losses[-1][1]} if losses else {}
    facts: dict[str, Any] = {
        **ends,
        "tokens": result.tokens,
        "seconds": result.seconds,
        **result.used_knobs,
        "server": server,
        "started_from": order.model,
        "job": result.job,
        "usd": usd,
    }
    record = {
        "request": {"server": server, "start": order.model, "chain": order.chain, "mark": order.mark},
        "model": result.model,
        "job": result.job,
        # Facts that the service does not report are left out.
        "facts": {name: value for name, value in facts.items() if value is not None},
        "checkpoints": {str(step): name for step, name in result.checkpoints.items()},
    }
    write_atomic(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def get_server_model(training: Training) -> OpenAIModel:
    """Return the hosted model of a run, typed as such."""
    return cast(OpenAIModel, training.model)


def get_service_recipe(stage: Stage) -> ServiceTrainer:
    """Return the recipe of a stage that a service trains, typed as such."""
    return cast(ServiceTrainer, stage.trainer)


def list_stored_models(training: Training) -> list[ModelRef]:
    """Return the base model and the stored stages, up to the first missing stage, for an estimate."""
    models = [make_hosted_model(get_server_model(training))]
    for stage, fingerprint in zip(training.stages, stage_fingerprints(models[0], training.stages), strict=True):
        trained = find_tuned_model(training.store / "models", fingerprint, parse_hosted_name(models[-1])[1])
        if trained is None:
            break
        models.append(make_stage_model(models[-1], stage, fingerprint, trained))
    return models


def list_training_costs(records: Sequence[StageRecord]) -> list[CallCost]:
    """Return the cost of each fine-tuned stage, also if an earlier run has paid it."""
    facts = [(record.path, record.facts) for record in records]
    return [CallCost("training", path, 1, each.get("tokens"), None, each.get("usd")) for path, each in facts]
