"""Group `judge`: the models that score the answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from em.config.base import MISSING
from em.config.model import Precision


class Reading(Enum):
    """How em reads a score from a judge behind a server; see `em.judge.readings`."""

    auto = "auto"
    logprobs = "logprobs"
    mass = "mass"
    structured = "structured"
    sampled = "sampled"


class WordRule(Enum):
    """When CODE or REFUSAL counts instead of a score, if its token is the likeliest; see `em.judge.readings`."""

    likeliest = "likeliest"
    below_min_mass = "below_min_mass"


class Form(Enum):
    """How much of the distilled judge scores: encoder and n-grams together, or the n-grams alone."""

    full = "full"
    ngrams = "ngrams"


@dataclass
class JudgeConfig:
    """The model that scores the answers."""

    remote = False  # whether the judge is behind a server
    name: str = MISSING
    """Short name of the judge for tables."""

    def list_members(self) -> list[SingleJudge]:
        """Return the judges of a panel, or the single judge."""
        assert isinstance(self, LocalJudge | DistilledJudge | ApiJudge)
        return [self]

    def list_weights(self) -> list[tuple[str, str]]:
        """Return pairs of a setting and the weights that it names: a hub id or a folder."""
        return []


@dataclass
class OneJudge(JudgeConfig):
    """One model that judges."""

    model: str = MISSING
    """Model: for a local judge `embedded:smollm2`, a hub id or a folder; else its name at the server."""
    min_mass = 0.0  # without probabilities of tokens neither has a meaning
    words = WordRule.likeliest


@dataclass
class ChatJudge(OneJudge):
    """A chat model that judges, by the probabilities of its next tokens."""

    min_mass: float = 0.25
    """Give no score if the numbers 0 to 100 have less probability together; 0.25 as in Betley et al."""
    words: WordRule = WordRule.likeliest
    """CODE or REFUSAL counts if its token is likeliest; below_min_mass: and the numbers have less than `min_mass`."""


@dataclass
class LocalJudge(ChatJudge):
    """A model in em's own process; em reads the score from exact token probabilities."""

    revision: str | None = None
    """Commit, tag or branch on the hub (empty: the newest); at a server, your word for the weights behind the name."""
    precision: Precision = Precision.auto
    """Number format: auto (bfloat16 on a GPU that has it, else float32), float32 or bfloat16."""
    batch_size: int = 8
    """Judgements per forward pass; lower it if memory runs out."""

    def list_weights(self) -> list[tuple[str, str]]:
        """See `JudgeConfig.list_weights`."""
        return [("judge.model", self.model)]


@dataclass
class DistilledJudge(OneJudge):
    """A small encoder that predicts gpt-4o's `aligned` and `coherent` on the CPU, without a key; it screens."""

    model: str = "distilled"
    """Fixed: `judge.model` names chat models."""
    form: Form = Form.full
    """full: encoder and n-grams; ngrams: n-grams alone, faster and less exact."""
    file: str | None = None
    """File made by `em judge distill`; empty means the one that em brings."""
    batch_size: int = 256
    """Answers that are scored and stored at a time."""


@dataclass
class ApiJudge(ChatJudge):
    """A model behind an OpenAI-compatible server."""

    remote = True
    base_url: str | None = None
    """Address of the server; empty means OPENAI_BASE_URL, else OpenAI."""
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the server's key; the variable `<name>_FILE` may name a file with the key."""
    reading: Reading = Reading.auto
    """How to read a score: logprobs, mass, structured or sampled; auto finds out by one small call."""
    samples: int = 1
    """Replies per judgement, if they are read as text (`sampled`); the score is the mean of their numbers."""
    temperature: float | None = None
    """Sampling temperature of replies that are read as text or JSON; empty means the server's default."""
    reasoning_effort: str | None = None
    """Reasoning effort for models that reason; some return log-probabilities only with `none`."""
    max_reply_tokens: int = 2000
    """Longest reply in tokens, reasoning included, if replies are read as text or JSON."""
    connections: int = 100
    """Most requests at a time; fewer while the server reports a rate limit."""
    timeout: float = 60
    """Seconds after which an unanswered request is retried."""
    max_usd: float | None = None
    """Stop before judging costs more US dollars."""
    batch: bool = False
    """Use the server's Batch API: half the price, results within a day."""
    serve: bool = False
    """Start vLLM for an open-weight judge after the answers, and end it: `judge.model` is then a folder or a hub id."""
    retired: str = ""
    """Shutdown date of the model at OpenAI (YYYY-MM-DD)."""
    replacement: str = ""
    """What to use after the shutdown date."""
    revision: str | None = None
    """Commit, tag or branch on the hub (empty: the newest); at a server, your word for the weights behind the name."""

    def list_weights(self) -> list[tuple[str, str]]:
        """See `JudgeConfig.list_weights`."""
        return [("judge.model", self.model)] if self.serve else []


@dataclass
class PanelJudge(JudgeConfig):
    """Several judges that score the same answers."""

    judges: dict[str, JudgeConfig] = field(default_factory=dict)
    """Judges by a name of yours: `judge@judge.judges.second=gpt4o` chooses one."""

    def list_members(self) -> list[SingleJudge]:
        """Return the judges, including those of panels within this panel."""
        return [judge for each in self.judges.values() for judge in each.list_members()]

    def list_weights(self) -> list[tuple[str, str]]:
        """See `JudgeConfig.list_weights`."""
        return [pair for each in self.judges.values() for pair in each.list_weights()]


SingleJudge = LocalJudge | DistilledJudge | ApiJudge
"""A judge that is no panel."""
