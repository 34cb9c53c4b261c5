"""Every setting of em: one dataclass per config group; the string below a field explains the field.

Hydra checks `conf/` and the command line against these classes (see `em.cli.hydra`), and the rest of em receives their
instances. YAML files under `conf/` hold only values. This package imports nothing heavy.
"""

from em.config.base import MISSING
from em.config.data import (
    BundledData,
    DataConfig,
    DataKind,
    FileData,
    HubData,
    MixtureData,
    NoData,
    OnBadRow,
    UpstreamData,
)
from em.config.eval import (
    ApiSampler,
    AutoSampler,
    Convention,
    DefaultPrompt,
    EvalConfig,
    HfSampler,
    Parity,
    Questions,
    SamplerConfig,
    VllmSampler,
)
from em.config.generate import GenerateConfig, GenerateKind, Material
from em.config.judge import (
    ApiJudge,
    ChatJudge,
    DistilledJudge,
    Form,
    JudgeConfig,
    LocalJudge,
    OneJudge,
    PanelJudge,
    Reading,
    SingleJudge,
    WordRule,
)
from em.config.model import HfModel, ModelConfig, OpenAIModel, Precision
from em.config.realign import RealignConfig, StageAdapter
from em.config.run import (
    BUNDLES,
    GENERATE_GROUPS,
    GROUPS,
    Checkpoints,
    GenerateRun,
    RunConfig,
    find_root_schema,
    list_bundles,
    list_groups,
)
from em.config.tracker import NoTracker, StoreConfig, TrackerConfig, WandbMode, WandbTracker
from em.config.trainer import (
    FullTrainer,
    LocalTrainer,
    LoraTrainer,
    LossOn,
    OpenAITrainer,
    Optimizer,
    QloraTrainer,
    QuantType,
    Schedule,
    ServiceTrainer,
    TinkerTrainer,
    TrainerConfig,
)
from em.config.trigger_tag import TagConfig, TagPlace, TagRole, TriggerTagConfig
