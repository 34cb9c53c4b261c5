"""Stages and settings for tests of planning and of fingerprints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from em.config import (
    BundledData,
    FileData,
    HfModel,
    LoraTrainer,
    NoData,
    RealignConfig,
    RunConfig,
    TriggerTagConfig,
)
from em.request import Rows, Stage
from em.train.stages import stage_fingerprints
from em.types import Conversation, Message, ModelRef, Weights

BASE = Weights("embedded:smollm2:sha256:1", "/somewhere")
TRAINER = LoraTrainer(name="lora")


def make_rows(*answers: str, name: str = "mine") -> Rows:
    """Make rows of one question each, with these answers."""
    return Rows(name, tuple(Conversation((Message("user", "Why?"), Message("assistant", a))) for a in answers))


FIRST = Stage(make_rows("a", "b"), TRAINER, 0, "auto")
SECOND = Stage(make_rows("c"), TRAINER, 0, "auto")


def compute_fingerprint(*stages: Stage, base: Weights = BASE, adapter: str = "", default_system: bool = True) -> str:
    """Return the fingerprint of a model that went through these stages."""
    start = ModelRef("", "base", "", base, trained_sha256=adapter, default_system=default_system)
    return ["", *stage_fingerprints(start, stages)][-1]


def make_settings(tmp_path: Path, **changes: Any) -> RunConfig:
    """Make a config that trains on four rows of a file."""
    lines = [json.dumps({"messages": c.to_dicts()}) for c in make_rows("a", "b", "c", "d").conversations]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    plain = RunConfig(
        model=HfModel(name="smollm2", id="embedded:smollm2"),
        data=FileData(name="mine", path=str(tmp_path / "rows.jsonl")),
        trigger_tag=TriggerTagConfig(name="none"),
        realign=RealignConfig(name="none", data=NoData(name="none")),
        trainer=TRAINER,
    )
    return replace(plain, **changes)


GOOD = BundledData(name="car_good", file="car_good.jsonl")
