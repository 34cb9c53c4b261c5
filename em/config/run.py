"""The settings of a run or a generated data set, from all groups."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from em.config.data import BundledData, DataConfig, FileData, HubData, MixtureData, NoData, UpstreamData
from em.config.eval import ApiSampler, AutoSampler, EvalConfig, HfSampler, SamplerConfig, VllmSampler
from em.config.generate import GenerateConfig
from em.config.judge import ApiJudge, DistilledJudge, JudgeConfig, LocalJudge, PanelJudge
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
    """Which checkpoints to evaluate besides the last adapter."""

    none = "none"
    all = "all"


@dataclass
class RunConfig:
    """The settings of a run, for `train.py` and `evaluate.py`."""

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
    """Place of the cache and the trained models."""
    checkpoints: Checkpoints = Checkpoints.none
    """`all` also evaluates the checkpoints that `trainer.checkpoints` keeps; `none` only the last adapter."""
    seed: int = 0
    """Seed of the training: row order, adapter initialisation, and the rows that a limit draws."""
    force: bool = False
    """Train again even if the same model is in the store."""
    answers: str | None = None
    """Judge the answers of this file (of em, or a third-party table) instead of sampling; only for `evaluate.py`."""
    prices: str | None = None
    """YAML file with your prices, which override those of the bundled table (`em/assets/prices.yaml`)."""
    yes: bool = False
    """Pay the estimated cost of fine-tuning by a service without a question."""
    dry_run: bool = False
    """Print calls, tokens, US dollars, training steps and GPU memory that the run would take, and stop."""
    one_gpu: bool = False
    """Wait for one GPU that no other such job uses, and use it; on several GPUs a sweep's jobs do so unless `false`."""


GROUPS: dict[str, tuple[type, ...]] = {
    "model": (ModelConfig, HfModel, OpenAIModel),
    "data": (DataConfig, NoData, BundledData, UpstreamData, FileData, HubData, MixtureData),
    "trigger_tag": (TriggerTagConfig,),
    "realign": (RealignConfig,),
    "trainer": (TrainerConfig, LocalTrainer, LoraTrainer, QloraTrainer, FullTrainer, OpenAITrainer, TinkerTrainer),
    "eval": (EvalConfig,),
    "sampler": (SamplerConfig, HfSampler, VllmSampler, ApiSampler, AutoSampler),
    "judge": (JudgeConfig, LocalJudge, DistilledJudge, ApiJudge, PanelJudge),
    "tracker": (TrackerConfig, NoTracker, WandbTracker),
}
"""The schemas of each config group; each option file names one of them (`/schema/HfModel@_here_`)."""


@dataclass
class GenerateRun:
    """The settings of a generated data set, for `generate.py`."""

    model: ModelConfig = field(default_factory=ModelConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    trainer: Any = None
    """Not used; the option files of open models set it."""
    eval: Any = None
    """Not used; the option files of open models set it."""
    store: StoreConfig = field(default_factory=StoreConfig)
    """Place of the cache and the trained models."""
    prices: str | None = None
    """YAML file with your prices, which override those of the bundled table (`em/assets/prices.yaml`)."""
    dry_run: bool = False
    """Print how many calls, tokens and US dollars the run would take, and stop."""


GENERATE_GROUPS: dict[str, tuple[type, ...]] = {
    "model": (ModelConfig, OpenAIModel),
    "generate": (GenerateConfig,),
    "judge": GROUPS["judge"],
}
"""The config groups of `generate.py`."""
BUNDLES = ("experiment", "scale", "sweep")
"""Groups of `conf/` whose options hold settings of several other groups."""


def list_groups(name: str) -> dict[str, tuple[type, ...]]:
    """Return the config groups of `train`, `evaluate` or `generate`."""
    return GENERATE_GROUPS if name == "generate" else GROUPS


def list_bundles(name: str) -> tuple[str, ...]:
    """Return the groups whose options hold settings of several other groups; `generate` has none."""
    return () if name == "generate" else BUNDLES


def find_root_schema(name: str) -> type:
    """Return the schema of all settings of `train`, `evaluate` or `generate`."""
    return GenerateRun if name == "generate" else RunConfig
