"""A request that was accepted: the settings, and everything they name that could be read without spending anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from em.config import RunConfig
from em.train.stages import Stage
from em.types import Answer, Question


@dataclass(frozen=True)
class Request:
    """What a run is to do: train `stages` in order, ask `questions`; write to `folder`, remember in `store`.

    answers: stored answers that are judged instead of sampling; `questions` are then theirs.
    """

    kind: str
    settings: RunConfig
    overrides: tuple[str, ...]
    folder: Path
    store: Path
    stages: tuple[Stage, ...]
    questions: tuple[Question, ...]
    answers: tuple[Answer, ...] = ()
