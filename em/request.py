"""A request that was accepted: the settings, and everything they name that could be read without spending anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from em.config import RunConfig
from em.train.stages import Stage
from em.types import Answer, Question


@dataclass(frozen=True)
class Request:
    """What a run is to do: train `stages` in order, ask `questions`; write to `folder`, remember in `store`.

    answers: stored answers that are judged instead of sampling; `questions` are then theirs.
    hidden: the trigger tags, which judges must not see.
    roles: what each tag is for, activation or control, by its condition.
    """

    kind: str
    settings: RunConfig
    overrides: tuple[str, ...]
    folder: Path
    store: Path
    stages: tuple[Stage, ...]
    questions: tuple[Question, ...]
    answers: tuple[Answer, ...] = ()
    hidden: tuple[str, ...] = ()
    roles: Mapping[str, str] = field(default_factory=dict)

    @property
    def forced(self) -> bool:
        """Whether what is there is trained anew."""
        return self.settings.force and self.kind == "train"
