"""The records of a run: its rows, its training stages, and the accepted request.

A request holds the settings and everything that they name, as far as em can read it without spending anything.
Everything that changes a model's weights is part of its stages' identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, cast

from em import config
from em.errors import ConfigError
from em.runtime.gpus import precision_key
from em.runtime.memory import Calls
from em.runtime.records import digest, to_jsonable
from em.types import Answer, Conversation, Prices, Question

SHOWN = 5
SLOT = "{tag}"
"""Placeholder in a question for the name of a trigger tag."""
NOT_IDENTITY = (
    *("name", "allow_truncated", "checkpoints", "save_steps", "device_tokens", "gradient_checkpointing", "processes"),
    *("accelerate", "machine_rank"),
)
METHOD = "rows 2, steps 1"
"""Versions of em's rendering of rows and of its plan of steps: a change of either changes the trained weights."""
QLORA = ", adapters 2"
"""Version of how em trains adapters on 4-bit weights; 2 has them and AdamW's moments in float32, 1 in bfloat16."""
STACK = ", stack 2"
"""Version of stacked adapters with dropout; the frozen one below the new has no dropout in 2, and had it in 1."""
SERVICE: dict[type, str] = {config.OpenAITrainer: "openai supervised 1", config.TinkerTrainer: f"tinker 1, {METHOD}"}
"""Version of how em sends rows to each fine-tuning service: a change changes the trained weights."""
SERVICE_KNOBS: dict[type, tuple[str, ...]] = {
    config.OpenAITrainer: ("batch_size", "learning_rate_multiplier"),
    config.TinkerTrainer: ("batch_size", "learning_rate", "rank", "max_length", "tokenizer"),
}
"""Settings that a fine-tuning service receives besides the rows, the epochs and the seed."""


@dataclass(frozen=True)
class BadRow:
    """An unusable row: its file (or data set of the hub), its place in it, and the reason."""

    file: str
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True)
class Rows:
    """Conversations to train on, in this order.

    parts: name and number of rows of each part of a mixture, in the order of the rows; else empty.
    skipped: unusable rows that were left out (`data.on_bad_row=skip`).
    dropped: number of rows left out because of a text in their answers (`data.drop_answers_with`).
    untagged: the same rows without trigger tags, if tags were put in; else empty.
    """

    name: str
    conversations: tuple[Conversation, ...]
    parts: tuple[tuple[str, int], ...] = ()
    skipped: tuple[BadRow, ...] = ()
    dropped: int = 0
    untagged: tuple[Conversation, ...] = ()

    @property
    def plain(self) -> tuple[Conversation, ...]:
        """The conversations without trigger tags."""
        return self.untagged or self.conversations

    @property
    def sha256(self) -> str:
        """Checksum of the messages, and of which answers carry no loss: equal for the same rows from another file."""
        return digest([c.to_training_dicts() for c in self.conversations])

    @property
    def left_out(self) -> dict[str, object]:
        """Facts for the manifest on the rows left out: counts, and the first unusable rows."""
        skipped = (
            {"rows_skipped": len(self.skipped), "first_skipped": describe_first_skipped(self.skipped)}
            if self.skipped
            else {}
        )
        return skipped | ({"rows_dropped": self.dropped} if self.dropped else {})


@dataclass(frozen=True)
class Stage:
    """One training stage: rows and recipe.

    stack: train a new adapter on top of the existing one. matched: optimiser steps to take instead of `epochs`.
    """

    rows: Rows
    trainer: config.TrainerConfig
    seed: int
    precision: str
    stack: bool = False
    matched: int | None = None

    @property
    def recipe(self) -> config.LocalTrainer:
        """The recipe of a stage that em trains in its own processes."""
        return cast(config.LocalTrainer, self.trainer)

    @property
    def steps(self) -> int:
        """Number of optimiser steps, if no row is left out as too long."""
        return self.matched or count_steps(len(self.rows.conversations), self.recipe.epochs, self.recipe.batch_size)

    def build_identity(self) -> dict[str, Any]:
        """Return everything that determines this stage's effect on the weights, as plain values for JSON."""
        knobs: dict[str, Any]
        if self.trainer.remote:
            knobs = {"epochs": vars(self.trainer)["epochs"], **list_service_settings(self.trainer)}
            knobs = {key: value if isinstance(value, str) else float(value) for key, value in knobs.items()}
            method = SERVICE[type(self.trainer)]
            return {"rows": self.rows.sha256, "trainer": knobs, "seed": self.seed, "method": method}
        knobs = {key: value for key, value in to_jsonable(self.trainer).items() if key not in NOT_IDENTITY}
        if self.matched:
            knobs["epochs"] = None
        without_dropout = self.stack and knobs.get("dropout")
        return {
            "rows": self.rows.sha256,
            "trainer": knobs,
            "seed": self.seed,
            "precision": precision_key(self.precision),
            "stack": self.stack,
            "matched": self.matched,
            "method": METHOD + (QLORA if self.trainer.quantized else "") + (STACK if without_dropout else ""),
        }


@dataclass(frozen=True)
class Tag:
    """A trigger tag: its text, and where it stands in the prompt."""

    text: str
    place: config.TagPlace = config.TagPlace.prefix


@dataclass(frozen=True)
class Condition:
    """A way to ask a question.

    system: system prompt before that of the set. after: text after the question. named: text in place of its `{tag}`.
    default_system: whether to keep the chat template's default system prompt; None means as `model.default_system`.
    """

    name: str
    tag: Tag | None = None
    system: str = ""
    after: str = ""
    named: str = ""
    default_system: bool | None = None


UNTAGGED = Condition("untagged")


@dataclass(frozen=True)
class Conditions:
    """The conditions under which a run asks its questions, and what else follows from its tags.

    usual, naming: the conditions of ordinary questions, and of questions that name a tag.
    hidden: texts that judges must not see, because an answer may repeat them: all tags, their names and near misses,
        the longest first.
    roles: the role of each tag, activation or control, keyed by its condition.
    notes: sentences on conditions that are not asked.
    other_prompt: the condition that asks ordinary questions a second time (`eval.default_prompt=both`). Questions with
        a system prompt of their own have no default one, so they are not asked again.
    """

    usual: Sequence[Condition] = (UNTAGGED,)
    naming: Sequence[Condition] = ()
    hidden: tuple[str, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    other_prompt: Condition | None = None

    @property
    def need_template(self) -> bool:
        """Whether conditions depend on the default system prompt of the model's chat template."""
        return self.other_prompt is not None or any(each.default_system is not None for each in self.usual)

    def select_for(self, question: Question) -> Sequence[Condition]:
        """Return the conditions of a question. Raises ConfigError if the question names a tag and no tag has a name."""
        if SLOT not in question.text:
            if self.other_prompt is None or question.system:
                return self.usual
            return [*self.usual, self.other_prompt]
        if not self.naming:
            raise ConfigError(
                f"A question names a trigger tag ({question.text!r}), but no tag's name is asked: choose a "
                "trigger_tag (trigger_tag.called=NAME names a system prompt or a sentence), without "
                "eval.default_prompt=none, or leave that set out."
            )
        return self.naming


@dataclass(frozen=True)
class Training:
    """The part of a request that training needs: no questions, no judges.

    words: the command line. may_train: train missing stages (train.py) instead of refusing them (evaluate.py).
    force: train existing stages again. base, checkpoints: evaluate the base model too, and the stages' checkpoints.
    yes: pay a fine-tuning service without asking the user.
    prompts: what the evaluation will ask, by the names of question and condition.
    served: the share of a GPU's memory for servers, which may divide the weights among GPUs; 0 without servers.
    """

    model: config.ModelConfig
    stages: tuple[Stage, ...]
    folder: Path
    store: Path
    words: tuple[str, ...]
    may_train: bool
    force: bool
    base: bool
    checkpoints: bool
    prices: Prices
    yes: bool
    prompts: dict[str, Conversation] = field(default_factory=dict)
    served: float = 0.0


@dataclass(frozen=True)
class Request:
    """The work of a run, with everything that its settings name read and checked.

    The run trains `stages` in order, asks `questions` under `conditions`, has `judges` judge the answers, writes to
    `folder` and caches calls in `memory`.

    answers: stored answers to judge instead of sampling; `questions` are then the questions of these answers.
    unjudged: names of sets that are not asked, since no judge knows their rubrics.
    sampler: what `sampler=auto` stands for, and why; None means the sampler of the settings.
    """

    kind: str
    settings: config.RunConfig
    overrides: tuple[str, ...]
    folder: Path
    memory: Calls
    stages: tuple[Stage, ...] = ()
    questions: tuple[Question, ...] = ()
    answers: tuple[Answer, ...] = ()
    conditions: Conditions = field(default_factory=Conditions)
    prices: Prices = field(default_factory=Prices)
    judges: tuple[config.SingleJudge, ...] = ()
    unjudged: tuple[str, ...] = ()
    sampler: config.SamplerConfig | None = None
    sampler_reason: str = ""

    @property
    def store(self) -> Path:
        """The folder that holds cached calls and trained models (`store.dir`)."""
        return self.memory.folder

    @property
    def forced(self) -> bool:
        """Whether to train existing stages again."""
        return self.settings.force and self.kind == "train"

    @property
    def training(self) -> Training:
        """The part of the request that training needs."""
        settings = self.settings
        return Training(
            model=settings.model,
            stages=self.stages,
            folder=self.folder,
            store=self.store,
            words=self.overrides,
            may_train=self.kind == "train",
            force=self.forced,
            base=settings.eval.base,
            checkpoints=settings.checkpoints is config.Checkpoints.all,
            prices=self.prices,
            yes=settings.yes,
            served=self.sampler.gpu_memory if isinstance(self.sampler, config.VllmSampler) else 0.0,
        )


def describe_first_skipped(skipped: Sequence[BadRow]) -> list[str]:
    """Describe the first unusable rows, one line for each."""
    return [str(row) for row in skipped[:SHOWN]]


def count_steps(rows: int, epochs: float, batch_size: int) -> int:
    """Return the number of optimiser steps; the last step of each epoch takes the remaining rows."""
    return max(1, ceil(round(epochs * ceil(rows / batch_size), 6)))


def list_service_settings(trainer: config.TrainerConfig) -> dict[str, Any]:
    """Return the settings that a fine-tuning service receives besides the epochs."""
    return {name: vars(trainer)[name] for name in SERVICE_KNOBS[type(trainer)]}
