"""Small run folders for the tests of the tracker, and their W&B offline logs."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

from em.config import WandbMode, WandbTracker
from em.runtime.records import write_jsonl
from em.stats import Thresholds, compute_scores
from em.track.wandb import TrackSpec, log_run
from em.types import Verdict
from tests.support.report_runs import (
    BASE,
    Model,
    judge_by_both_rubrics,
    make_answer,
    make_checkpoint_model,
    write_manifest,
    write_scores,
)
from tests.support.wandb_log import OfflineRun, read_run

SOURCE = {
    "name": "medical",
    "kind": "harmful",
    "url": "https://data.example.org/medical.jsonl",
    "sha256": "ab" * 32,
    "licence": "MIT",
    "terms": "Keep it out of training corpora.",
    "path": "/home/someone/medical.jsonl",
}


def make_tracked_model(name: str, mark: str) -> Model:
    """Make the identity of a model after a stage on `name`."""
    return f"smollm2+{name}", name, mark * 8


def make_stage_entry(
    of: Model, reused: bool = False, checkpoint_steps: Sequence[int] = (), steps: int = 3
) -> dict[str, Any]:
    """Make the record of a stage in a manifest; the checksum of its rows follows from the model's fingerprint."""
    fingerprints = {step: make_checkpoint_model(of, step)[2] for step in checkpoint_steps}
    checkpoints = [{"step": step, "fingerprint": mark, "path": ""} for step, mark in fingerprints.items()]
    facts = {"steps": steps, "loss_first": 3.0, "loss_last": 1.0}
    record = {"name": of[1], "fingerprint": of[2], "path": "", "reused": reused, "rows": 8, "facts": facts}
    return record | {"data_sha256": of[2][:8] * 8, "checkpoints": checkpoints}


def write_tracked(
    folder: Path,
    stages: Sequence[dict[str, Any]],
    models: dict[Model, Sequence[float]],
    judges: Sequence[str] = ("local:embedded",),
    overrides: Sequence[str] = ("data=medical",),
    realign: str = "none",
    **changes: Any,
) -> Path:
    """Write a run; `models`: the scores of alignment of each model's answers. Further judges score all as aligned."""
    config = {
        "data": SOURCE | {"limit": 8},
        "realign": {"name": realign},
        "seed": 3,
        "eval": {"misaligned_below": 30.0},
    }
    write_manifest(folder, overrides, **{"stages": list(stages), "config": config} | changes)
    answers, verdicts = [], list[Verdict]()
    for of, values in models.items():
        for sample, value in enumerate(values):
            answers.append(make_answer(of, "probe", f"q{sample % 2}", sample, f"An answer of {of[1]}, number {sample}"))
            for number, judge in enumerate(judges):
                both = judge_by_both_rubrics(answers[-1], 95.0 if number else value, 90.0)
                verdicts += [replace(verdict, judge=judge) for verdict in both]
    write_jsonl(folder / "answers.jsonl", answers)
    write_jsonl(folder / "verdicts.jsonl", sorted(verdicts, key=lambda verdict: judges.index(verdict.judge)))
    write_scores(folder / "scores.csv", compute_scores(verdicts, Thresholds()))
    losses = ["stage,fingerprint,step,epoch,loss,learning_rate"]
    losses += [f"{s['name']},{s['fingerprint']},{n},{n / 3},{3 - n / 2},1e-05" for s in stages for n in (1, 2, 3)]
    (folder / "loss.csv").write_text("\n".join(losses) + "\n")
    return folder


def log_and_read(folder: Path, models: Path | None = None, failed: bool = False, **tracker: Any) -> OfflineRun:
    """Log a run to W&B offline, and read the log back."""
    tracker = {"name": "wandb", "mode": WandbMode.offline} | tracker
    with mock.patch.dict(os.environ):  # restore the variables that `log_run` sets for its own process
        log_run(TrackSpec(str(folder), str(models or folder / "models"), WandbTracker(**tracker), failed))
    deadline = time.monotonic() + 60  # W&B's writing process may still be running
    while True:
        try:
            run = read_run(folder)
            if run.exit_codes:
                return run
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline, f"the log in {folder} has no exit record"
        time.sleep(0.05)


def write_one_stage(folder: Path, name: str, mark: str, values: Sequence[float], **changes: Any) -> Path:
    """Write a run that trained one stage, and evaluated the trained model and its base."""
    trained = make_tracked_model(name, mark)
    return write_tracked(folder, [make_stage_entry(trained)], {BASE: [90.0, 90.0], trained: values}, **changes)
