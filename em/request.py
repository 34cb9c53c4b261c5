"""The nouns of a run: its rows, its training stages, and the request that was accepted.

A request holds the settings, and everything they name that could be read without spending anything. What changes a
model's weights is part of its stages' identity (`Stage.identity`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, cast

from em import config
from em.errors import ConfigError
from em.runtime.gpus import where
from em.runtime.memory import Calls
from em.runtime.records import digest, plain
from em.types import Answer, Conversation, Prices, Question

SHOWN = 5
SLOT = "{tag}"
"""Stands in a question for the name of a trigger tag."""
NOT_IDENTITY = (
    *("name", "allow_truncated", "checkpoints", "save_steps", "device_tokens", "gradient_checkpointing", "processes"),
    *("accelerate", "machine_rank"),
)
METHOD = "rows 2, steps 1"
"""Versions of em's rendering of rows and of its plan of steps: a change of either makes other models."""
SERVICE: dict[type, str] = {config.OpenAITrainer: "openai supervised 1", config.TinkerTrainer: f"tinker 1, {METHOD}"}
"""Versions of how rows are given to the services that fine-tune: a change makes other models."""
SERVICE_KNOBS: dict[type, tuple[str, ...]] = {
    config.OpenAITrainer: ("batch_size", "learning_rate_multiplier"),
    config.TinkerTrainer: ("batch_size", "learning_rate", "rank", "max_length", "tokenizer"),
}
"""What a service that fine-tunes is told of the training, besides the rows, the epochs and the seed."""


@dataclass(frozen=True)
class BadRow:
    """A row that can't be used: in which file (or set of the hub), where in it, and why."""

    file: str
    place: str
    reason: str

    def __str__(self) -> str:
        return f"{self.place}: {self.reason}"


@dataclass(frozen=True)
class Rows:
    """Conversations to train on, and the checksum of just these in just this order.

    parts: for a mixture, name and number of rows of each part, in the order in which they lie; else empty.
    skipped: the rows that were left out because they can't be used (`data.on_bad_row=skip`).
    dropped: rows that were left out for what their answers carry (`data.drop_answers_with`).
    untagged: where trigger tags were put in, the same rows as they were before; else empty.
    """

    name: str
    conversations: tuple[Conversation, ...]
    parts: tuple[tuple[str, int], ...] = ()
    skipped: tuple[BadRow, ...] = ()
    dropped: int = 0
    untagged: tuple[Conversation, ...] = ()

    @property
    def plain(self) -> tuple[Conversation, ...]:
        """The rows without trigger tags."""
        return self.untagged or self.conversations

    @property
    def sha256(self) -> str:
        """Checksum over the content alone: the same rows from another file are the same data."""
        return digest([c.as_dicts() for c in self.conversations])

    @property
    def left_out(self) -> dict[str, object]:
        """What a manifest keeps of the rows that were left out: counts, and the first that can't be used."""
        skipped = {"rows_skipped": len(self.skipped), "first_skipped": first_of(self.skipped)} if self.skipped else {}
        return skipped | ({"rows_dropped": self.dropped} if self.dropped else {})


@dataclass(frozen=True)
class Stage:
    """One training stage: rows and recipe.

    stack: train a new adapter on top of the one that is there. matched: optimiser steps to take, whatever the epochs.
    """

    rows: Rows
    trainer: config.TrainerConfig
    seed: int
    precision: str
    stack: bool = False
    matched: int | None = None

    @property
    def recipe(self) -> config.LocalTrainer:
        """The recipe of a stage that is trained in processes of our own."""
        return cast(config.LocalTrainer, self.trainer)

    @property
    def steps(self) -> int:
        """Optimiser steps, if no row has to be left out."""
        return self.matched or count_steps(len(self.rows.conversations), self.recipe.epochs, self.recipe.batch_size)

    def identity(self) -> dict[str, Any]:
        """All that this stage does to the weights, as JSON."""
        knobs: dict[str, Any]
        if self.trainer.remote:
            knobs = {"epochs": vars(self.trainer)["epochs"], **service_knobs(self.trainer)}
            knobs = {key: value if isinstance(value, str) else float(value) for key, value in knobs.items()}
            method = SERVICE[type(self.trainer)]
            return {"rows": self.rows.sha256, "trainer": knobs, "seed": self.seed, "method": method}
        knobs = {key: value for key, value in plain(self.trainer).items() if key not in NOT_IDENTITY}
        if self.matched:
            knobs["epochs"] = None
        return {
            "rows": self.rows.sha256,
            "trainer": knobs,
            "seed": self.seed,
            "precision": where(self.precision),
            "stack": self.stack,
            "matched": self.matched,
            "method": METHOD,
        }


@dataclass(frozen=True)
class Tag:
    """A text and where it goes."""

    text: str
    place: config.TagPlace = config.TagPlace.prefix


@dataclass(frozen=True)
class Condition:
    """A way to ask a question.

    system: a system prompt before the set's own. after: what follows the question. named: what fills its `{tag}`.
    """

    name: str
    tag: Tag | None = None
    system: str = ""
    after: str = ""
    named: str = ""


UNTAGGED = Condition("untagged")


@dataclass(frozen=True)
class Conditions:
    """How a run asks its questions, and what else follows from its tags.

    usual, naming: the conditions of a question, and of one that names a tag.
    hidden: texts that judges must not see, since an answer may repeat them: all tags, their names and near misses, the
        longest first.
    roles: what each tag is for, activation or control, by its condition.
    note: a sentence on what can't be asked; empty where all can.
    """

    usual: Sequence[Condition] = (UNTAGGED,)
    naming: Sequence[Condition] = ()
    hidden: tuple[str, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    def of(self, question: Question) -> Sequence[Condition]:
        """Return the conditions of one question. Raises ConfigError where it names a tag and there is none."""
        if SLOT not in question.text:
            return self.usual
        if not self.naming:
            raise ConfigError(
                f"A question names a trigger tag ({question.text!r}), but there is none with a name: choose a "
                "trigger_tag (a system prompt or a sentence is named by trigger_tag.called), or leave that set out."
            )
        return self.naming


@dataclass(frozen=True)
class Training:
    """What training needs of a run: neither questions nor judges.

    words: the command line. may_train: a stage that is not there may be trained (train.py), else it is refused.
    force: train anew what is there. base, checkpoints: evaluate the base too, and what was kept inside the stages.
    yes: what a service asks for may be spent.
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


@dataclass(frozen=True)
class Request:
    """What a run is to do, with everything that its settings name, resolved once.

    It trains `stages` in order, asks `questions` under `conditions`, has `judges` judge, writes to `folder` and
    remembers in `memory`.

    answers: stored answers that are judged instead of sampling; `questions` are then theirs.
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
    judges: tuple[config.LocalJudge | config.ApiJudge, ...] = ()

    @property
    def store(self) -> Path:
        """The folder of the memory, which holds trained models too."""
        return self.memory.folder

    @property
    def forced(self) -> bool:
        """Whether what is there is trained anew."""
        return self.settings.force and self.kind == "train"

    @property
    def training(self) -> Training:
        """The part of it that training needs."""
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
        )


def first_of(skipped: Sequence[BadRow]) -> list[str]:
    """The first rows that can't be used, in words."""
    return [str(row) for row in skipped[:SHOWN]]


def count_steps(rows: int, epochs: float, batch_size: int) -> int:
    """Optimiser steps of a training: each epoch ends with a step of the rows that are left."""
    return max(1, ceil(round(epochs * ceil(rows / batch_size), 6)))


def service_knobs(trainer: config.TrainerConfig) -> dict[str, Any]:
    """What a service is told of the training besides the epochs."""
    return {name: vars(trainer)[name] for name in SERVICE_KNOBS[type(trainer)]}
