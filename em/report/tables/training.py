"""What was trained: for each stage its rows, tokens, loss, machine and one example, as the manifests tell of them.

Facts are of other versions and other people: what is absent is left out, what has another form is shown as it is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from em.report.page.numbers import duration
from em.report.read.runs import Run
from em.report.tables.models import Model
from em.types import StageRecord

ROWS = {
    "rows_used": "used",
    "rows_cut": "cut at the length limit",
    "rows_dropped": "dropped",
    "rows_without_loss": "without loss",
    "duplicate_rows": "duplicates",
    "repeated_prompts": "repeated prompts",
    "multi_turn_rows": "with several turns",
}
"""Counts of rows, and what is said behind them."""


@dataclass(frozen=True)
class Segment:
    """A piece of the example, and whether its tokens carry the loss: None where the manifest doesn't tell."""

    text: str
    taught: bool | None


@dataclass(frozen=True)
class Trained:
    """A stage: one line of the gist, then facts as labels with what is said there, piece by piece.

    preamble: what the chat template puts before the first turn by itself, None where that isn't known.
    example: a row as the model saw it. `example_taught`: the text of it that carries the loss, of older runs.
    """

    model: Model
    stage: StageRecord
    trained_in: tuple[int, ...]
    reused_in: tuple[int, ...]
    gist: tuple[str, ...]
    facts: dict[str, tuple[str, ...]]
    preamble: str | None
    example: tuple[Segment, ...]
    example_taught: str

    @property
    def marked(self) -> bool:
        """Whether the example tells which of its tokens carry the loss."""
        return any(segment.taught is not None for segment in self.example)


def find_trained(runs: Sequence[Run], models: dict[str, Model]) -> list[Trained]:
    """Every stage of the runs once, in the order of tables; of the runs that have it one that trained it is quoted."""
    found: dict[str, list[tuple[int, StageRecord]]] = {}
    for run in runs:
        for stage in run.manifest.stages:
            found.setdefault(stage.fingerprint, []).append((run.number, stage))
    return [_trained(model, found[fingerprint]) for fingerprint, model in models.items() if fingerprint in found]


def _trained(model: Model, told: Sequence[tuple[int, StageRecord]]) -> Trained:
    stage = min((stage for _, stage in told), key=lambda stage: stage.reused)
    facts = _Facts(stage.facts)
    rows = (f"{stage.rows:,}",) if stage.rows else ()
    steps, loss, time = facts.counts({"steps": "steps"}), _loss(facts), _time(facts)
    lines = {
        "Rows": (*(f"{count} in all" for count in rows), *facts.counts(ROWS)),
        "Parts": facts.named("parts"),
        "Tokens": _tokens(facts),
        "Training": (*steps, *loss, *_resumed(facts)),
        "Checkpoints": _checkpoints(stage),
        "Machine": (*_machine(facts), *time),
        "Switches": facts.named("switches"),
        "Template": tuple(f"default system prompt {word}" for word in facts.texts("default_system")),
    }
    preamble, example = facts.texts("preamble"), _example(facts)
    return Trained(
        model=model,
        stage=stage,
        trained_in=tuple(number for number, stage in told if not stage.reused),
        reused_in=tuple(number for number, stage in told if stage.reused),
        gist=(*(f"{count} rows" for count in rows), *steps, *loss, *time[:1]),
        preamble=preamble[0] if preamble else None,
        example=example,
        example_taught="".join(facts.texts("example_with_loss")),
        facts={label: said for label, said in (lines | {"Other": facts.others()}).items() if said},
    )


class _Facts:
    """Facts of a form that we know, each taken once, so that the others can be told too."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.left = {key: value for key, value in facts.items() if value is not None}

    def number(self, key: str) -> float | None:
        """A finite number, or None."""
        value = self.left.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        del self.left[key]
        return value

    def counts(self, words: dict[str, str]) -> tuple[str, ...]:
        """`64 used` for each of the keys that is there, zeros too: that nothing was cut is worth knowing."""
        found = {word: self.number(key) for key, word in words.items()}
        return tuple(f"{_figure(number)} {word}" for word, number in found.items() if number is not None)

    def texts(self, key: str) -> tuple[str, ...]:
        """The text at a key, or none."""
        return (self.left.pop(key),) if isinstance(self.left.get(key), str) else ()

    def named(self, key: str) -> tuple[str, ...]:
        """An object's items: `attention: sdpa`."""
        if not isinstance(self.left.get(key), dict):
            return ()
        return tuple(f"{name}: {_figure(value)}" for name, value in self.left.pop(key).items())

    def others(self) -> tuple[str, ...]:
        """What nobody took."""
        return tuple(f"{name.replace('_', ' ')} {_figure(value)}" for name, value in self.left.items())


def _figure(value: object) -> str:
    """Any value for people: `1,234`, `0.0312`, `on`."""
    match value:
        case bool():
            return "on" if value else "off"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case _:
            return str(value)


def _loss(facts: _Facts) -> tuple[str, ...]:
    first, last = facts.number("loss_first"), facts.number("loss_last")
    if first is None and last is None:
        return ()
    return (f"loss {' → '.join('–' if loss is None else f'{loss:.4g}' for loss in (first, last))}",)


def _tokens(facts: _Facts) -> tuple[str, ...]:
    tokens, taught = facts.number("tokens"), facts.number("tokens_with_loss")
    said = () if tokens is None else (f"{_figure(tokens)} tokens",)
    if taught is None:
        return said
    share = f" ({100 * taught / tokens:.0f}%)" if tokens else ""
    return (*said, f"{_figure(taught)} with loss{share}")


def _machine(facts: _Facts) -> tuple[str, ...]:
    processes = facts.number("processes")
    several = () if processes is None else (f"{_figure(processes)} {'process' if processes == 1 else 'processes'}",)
    peak = facts.counts({"peak_memory_mb": "MB of memory at most"})
    return (*facts.texts("device"), *facts.texts("precision"), *several, *peak)


def _time(facts: _Facts) -> tuple[str, ...]:
    seconds, speed = facts.number("seconds"), facts.number("tokens_per_second")
    said = () if seconds is None else (duration(seconds),)
    return said if speed is None else (*said, f"{_figure(speed)} tokens a second")


def _resumed(facts: _Facts) -> tuple[str, ...]:
    steps = facts.left.get("resumed_from")
    if not isinstance(steps, list) or not all(isinstance(step, int) for step in steps):
        return ()
    del facts.left["resumed_from"]
    return (f"stopped, and resumed at {_at(steps)}",) if steps else ()


def _checkpoints(stage: StageRecord) -> tuple[str, ...]:
    steps = sorted({checkpoint.step for checkpoint in stage.checkpoints})
    return (f"kept at {_at(steps)}",) if steps else ()


def _at(steps: Sequence[int]) -> str:
    return f"{'step' if len(steps) == 1 else 'steps'} {', '.join(map(str, steps))}"


def _example(facts: _Facts) -> tuple[Segment, ...]:
    """Pairs of a text and whether it carries the loss; one text in older manifests."""
    match facts.left.get("example"):
        case str(text):
            segments = [Segment(text, None)]
        case [*pairs] if all(_is_pair(pair) for pair in pairs):
            segments = [Segment(text, taught) for text, taught in pairs]
        case _:
            return ()
    del facts.left["example"]
    return tuple(segments)


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], bool)
