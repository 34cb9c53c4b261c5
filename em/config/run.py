"""A whole run or data set: what the programs take, from all groups."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from em.config.data import BundledData, DataConfig, FileData, HubData, MixtureData, NoData, UpstreamData
from em.config.eval import ApiSampler, AutoSampler, EvalConfig, HfSampler, SamplerConfig
from em.config.generate import GenerateConfig
from em.config.judge import ApiJudge, JudgeConfig, LocalJudge, PanelJudge
from em.config.model import HfModel, ModelConfig, OpenAIModel
from em.config.realign import RealignConfig
from em.config.tracker import NoTracker, StoreConfig, TrackerConfig, WandbTracker
from em.config.trainer import (
    FullTrainer,
    LocalTrainer,
    LoraTrainer,
    OpenAITrainer,
    QloraTrainer,
    TinkerTrainer,
    TrainerConfig,
)
from em.config.trigger_tag import TriggerTagConfig


class Checkpoints(Enum):
    """Which adapters kept on the way are evaluated too."""

    none = "none"
    all = "all"


@dataclass
class RunConfig:
    """A whole run: what `train.py` and `evaluate.py` take."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    trigger_tag: TriggerTagConfig = field(default_factory=TriggerTagConfig)
    realign: RealignConfig = field(default_factory=RealignConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)
    """Where em remembers."""
    checkpoints: Checkpoints = Checkpoints.none
    """`all`: evaluate the adapters that `trainer.checkpoints` kept on the way too; or none."""
    seed: int = 0
    """Seed of the training: row order, adapter initialisation, which rows a limit draws."""
    force: bool = False
    """Train again even when the same model is there already."""
    answers: str | None = None
    """Judge the answers of this file (ours or a table of others) instead of sampling; `evaluate.py` only."""
    prices: str | None = None
    """A YAML file with prices of yours, which go before the bundled table's (`em/assets/prices.yaml`)."""
    yes: bool = False
    """Spend what fine-tuning by a server is estimated to cost without being asked."""
    dry_run: bool = False
    """Print how many calls, tokens and dollars it would take, and stop."""
    one_gpu: bool = False
    """Use one GPU that no other such job of this machine uses, or wait for one: for sweeps by a parallel launcher."""


GROUPS: dict[str, tuple[type, ...]] = {
    "model": (ModelConfig, HfModel, OpenAIModel),
    "data": (DataConfig, NoData, BundledData, UpstreamData, FileData, HubData, MixtureData),
    "trigger_tag": (TriggerTagConfig,),
    "realign": (RealignConfig,),
    "trainer": (TrainerConfig, LocalTrainer, LoraTrainer, QloraTrainer, FullTrainer, OpenAITrainer, TinkerTrainer),
    "eval": (EvalConfig,),
    "sampler": (SamplerConfig, HfSampler, ApiSampler, AutoSampler),
    "judge": (JudgeConfig, LocalJudge, ApiJudge, PanelJudge),
    "tracker": (TrackerConfig, NoTracker, WandbTracker),
}
"""The schemas of each config group; an option file opens with one of them (`/schema/HfModel@_here_`)."""


@dataclass
class GenerateRun:
    """What `generate.py` takes."""

    model: ModelConfig = field(default_factory=ModelConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    trainer: Any = None
    """Not used: a model of open weights would choose it."""
    eval: Any = None
    """Not used: a model of open weights would choose it."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """Where em remembers."""
    prices: str | None = None
    """A YAML file with prices of yours, which go before the bundled table's (`em/assets/prices.yaml`)."""
    dry_run: bool = False
    """Print how many calls, tokens and dollars it would take, and stop."""


GENERATE_GROUPS: dict[str, tuple[type, ...]] = {
    "model": (ModelConfig, OpenAIModel),
    "generate": (GenerateConfig,),
    "judge": GROUPS["judge"],
}
"""The groups of `generate.py`."""
BUNDLES = ("experiment", "scale", "sweep")
"""Groups of `conf/` whose options hold settings of any other group."""


def groups_of(name: str) -> dict[str, tuple[type, ...]]:
    """The config groups of `train`, `evaluate` or `generate`."""
    return GENERATE_GROUPS if name == "generate" else GROUPS


def bundles_of(name: str) -> tuple[str, ...]:
    """Name the groups whose options hold settings of any group, which `generate` has none of."""
    return () if name == "generate" else BUNDLES


def root_of(name: str) -> type:
    """The schema of everything that `train`, `evaluate` or `generate` takes."""
    return GenerateRun if name == "generate" else RunConfig
