"""Group `judge`: what scores the answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from em.config.base import MISSING
from em.config.model import Precision


class Reading(Enum):
    """How a score is read off a judge behind a server; see `em.judge.readings`."""

    auto = "auto"
    logprobs = "logprobs"
    mass = "mass"
    structured = "structured"
    sampled = "sampled"


@dataclass
class JudgeConfig:
    """The model that scores the answers."""

    remote = False  # whether a server is asked
    name: str = MISSING
    """Short name, used in tables."""

    def list_members(self) -> list[LocalJudge | ApiJudge]:
        """List the judges of a panel, or the one judge."""
        assert isinstance(self, LocalJudge | ApiJudge)
        return [self]

    def list_weights(self) -> list[tuple[str, str]]:
        """List names of weights, or folders with them, each behind the setting that names it."""
        return []


@dataclass
class OneJudge(JudgeConfig):
    """One model that judges."""

    model: str = MISSING
    """Of a local judge: `embedded:smollm2`, a hub id or a folder; else the server's name of the model."""
    min_mass: float = 0.25
    """No score when the numbers 0..100 together have less probability than this."""


@dataclass
class LocalJudge(OneJudge):
    """A model in a process of our own, read by exact token probabilities."""

    revision: str | None = None
    """Commit, tag or branch on the hub."""
    precision: Precision = Precision.auto
    """Number format: auto, float32 or bfloat16."""
    batch_size: int = 8
    """Judgements per forward pass."""

    def list_weights(self) -> list[tuple[str, str]]:
        """See `JudgeConfig.list_weights`."""
        return [("judge.model", self.model)]


@dataclass
class ApiJudge(OneJudge):
    """A model behind an OpenAI-compatible server."""

    remote = True
    base_url: str | None = None
    """Address of the server; empty means OPENAI_BASE_URL, or OpenAI's own."""
    key_env: str = "OPENAI_API_KEY"
    """The variable of the environment that holds the server's key; `<name>_FILE` names a file that does."""
    reading: Reading = Reading.auto
    """How a score is read: logprobs, mass, structured or sampled; auto finds it out by one small call."""
    samples: int = 1
    """Replies per judgement where they are read as text (`sampled`); the score is the mean of their numbers."""
    temperature: float | None = None
    """Of replies that are read as text or as JSON; empty means the server's own."""
    reasoning_effort: str | None = None
    """Asked of models that reason; `none` makes some of them give log-probabilities."""
    max_reply_tokens: int = 2000
    """Bound on replies that are read as text or as JSON, reasoning included."""
    connections: int = 100
    """Requests at a time, at most; fewer while the server asks for that."""
    timeout: float = 60
    """Seconds until an unanswered request is given up and made again."""
    max_usd: float | None = None
    """Stop before the judging costs more than this."""
    batch: bool = False
    """Use the server's Batch API: half the price, within a day."""
    retired: str = ""
    """Day from which OpenAI's own server has it no more (YYYY-MM-DD)."""
    replacement: str = ""
    """What to use then."""


@dataclass
class PanelJudge(JudgeConfig):
    """Several judges, side by side."""

    judges: dict[str, JudgeConfig] = field(default_factory=dict)
    """The judges by a name of yours; `judge@judge.judges.second=gpt4o` chooses one."""

    def list_members(self) -> list[LocalJudge | ApiJudge]:
        """List the judges, panels in it too."""
        return [judge for each in self.judges.values() for judge in each.list_members()]

    def list_weights(self) -> list[tuple[str, str]]:
        """See `JudgeConfig.list_weights`."""
        return [pair for each in self.judges.values() for pair in each.list_weights()]
