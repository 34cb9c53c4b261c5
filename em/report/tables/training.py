"""Training details of each stage, read from the manifests: rows, tokens, loss, machine and one example.

Manifests may come from other versions of em: absent facts are left out, facts of an unknown form are shown unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from em.report.page.numbers import format_duration
from em.report.read.runs import RecordedRun
from em.report.tables.models import Model, group_by
from em.types import StageRecord

ROWS = {
    "rows_used": "{} used",
    "rows_cut": "{} cut at the length limit",
    "rows_dropped": "{} dropped",
    "rows_without_loss": "{} without loss",
    "duplicate_rows": "{} duplicates",
    "repeated_prompts": "{} repeated prompts",
    "multi_turn_rows": "{} with several turns",
}
"""Counts of rows with their wording."""


@dataclass(frozen=True)
class TrainedStage:
    """A training stage of the report.

    gist: the parts of its one-line summary. facts: lists of short texts, by label.
    preamble: the text that the chat template inserts before the first turn, None if the manifest has none.
    example: a row as the model saw it, in pieces, each with whether its tokens carry the loss (None if unknown).
    example_taught: the part of the example that carries the loss, in manifests of older versions.
    """

    model: Model
    stage: StageRecord
    trained_in: tuple[int, ...]
    reused_in: tuple[int, ...]
    gist: Sequence[str]
    facts: dict[str, list[str]]
    preamble: str | None
    example: Sequence[tuple[str, bool | None]]
    example_taught: str

    @property
    def marked(self) -> bool:
        """Whether the example marks the tokens that carry the loss."""
        return any(taught is not None for _, taught in self.example)


def list_trained_stages(runs: Sequence[RecordedRun], models: dict[str, Model]) -> list[TrainedStage]:
    """Return every stage of the runs once, in the order of tables, from a run that trained it rather than reused it."""
    numbered = ((run.number, stage) for run in runs for stage in run.manifest.stages)
    records = group_by(numbered, lambda pair: pair[1].fingerprint)
    return [_make_trained_stage(model, records[key]) for key, model in models.items() if key in records]


def _make_trained_stage(model: Model, records: Sequence[tuple[int, StageRecord]]) -> TrainedStage:
    """Describe a stage from its records, each with its run number."""
    stage = min((stage for _, stage in records), key=lambda stage: stage.reused)
    facts = _Facts(stage.facts)
    rows = [f"{stage.rows:,}"] if stage.rows else []
    row_texts = [f"{count} in total" for count in rows]
    for key, words in ROWS.items():
        row_texts += facts.say(key, words)
    seconds, example = facts.take("seconds", _is_number), facts.take("example", _is_example)
    time = [] if seconds is None else [format_duration(seconds)]
    steps, loss = facts.say("steps", "{} steps"), _format_losses(facts)
    lines = {
        "Rows": row_texts,
        "Parts": facts.name_items("parts"),
        "Tokens": _format_token_counts(facts),
        "Training": [*steps, *loss, *_list_steps("interrupted, and resumed at", facts.take("resumed_from", _is_steps))],
        "Checkpoints": _list_steps("saved at", sorted({checkpoint.step for checkpoint in stage.checkpoints})),
        "Machine": [*_describe_machine(facts), *time, *facts.say("tokens_per_second", "{} tokens a second")],
        "Switches": facts.name_items("switches"),
        "Template": facts.say("default_system", "default system prompt {}", _is_text),
    }
    preamble, taught = facts.take("preamble", _is_text), facts.take("example_with_loss", _is_text)
    others = [f"{name.replace('_', ' ')} {_format_value(value)}" for name, value in facts.left.items()]
    return TrainedStage(
        model=model,
        stage=stage,
        trained_in=tuple(number for number, stage in records if not stage.reused),
        reused_in=tuple(number for number, stage in records if stage.reused),
        gist=[*(f"{count} rows" for count in rows), *steps, *loss, *time],
        preamble=preamble,
        example=[(example, None)] if isinstance(example, str) else example or (),
        example_taught=taught or "",
        facts={label: texts for label, texts in (lines | {"Other": others}).items() if texts},
    )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


class _Facts:
    """The facts of a stage. Facts of a known form are taken out; `left` holds the others, which are shown last."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.left = {key: value for key, value in facts.items() if value is not None}

    def take(self, key: str, fits: Callable[[Any], bool]) -> Any:
        """Remove a fact that has the expected form and return it; return None if it is absent or of another form."""
        return self.left.pop(key) if key in self.left and fits(self.left[key]) else None

    def say(self, key: str, words: str, fits: Callable[[Any], bool] = _is_number) -> list[str]:
        """Return a fact in words, or no text if it is absent. Zeros count: that no row was cut is worth knowing."""
        value = self.take(key, fits)
        return [] if value is None else [words.format(_format_value(value))]

    def name_items(self, key: str) -> list[str]:
        """Return the items of an object as texts: `attention: sdpa`."""
        items = self.take(key, lambda value: isinstance(value, dict)) or {}
        return [f"{name}: {_format_value(value)}" for name, value in items.items()]


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_steps(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(step, int) for step in value)


def _is_example(value: object) -> bool:
    """Check that an example is a list of pairs (text, whether it carries the loss), or a text as in older manifests."""
    if not isinstance(value, list):
        return isinstance(value, str)
    return all(isinstance(pair, list) and list(map(type, pair)) == [str, bool] for pair in value)


def _format_value(value: object) -> str:
    """Format any value: `1,234`, `0.0312`, `on`."""
    match value:
        case bool():
            return "on" if value else "off"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case _:
            return str(value)


def _format_losses(facts: _Facts) -> list[str]:
    losses = [facts.take(key, _is_number) for key in ("loss_first", "loss_last")]
    if losses == [None, None]:
        return []
    first, last = ("–" if loss is None else f"{loss:.4g}" for loss in losses)
    return [f"loss {first} → {last}"]


def _format_token_counts(facts: _Facts) -> list[str]:
    tokens, taught = facts.take("tokens", _is_number), facts.take("tokens_with_loss", _is_number)
    texts = [] if tokens is None else [f"{_format_value(tokens)} tokens"]
    if taught is not None:
        percent = f" ({100 * taught / tokens:.0f}%)" if tokens else ""
        texts.append(f"{_format_value(taught)} carrying the loss{percent}")
    return texts


def _describe_machine(facts: _Facts) -> list[str]:
    processes = "{} process" if facts.left.get("processes") == 1 else "{} processes"
    texts = [text for key in ("device", "precision") for text in facts.say(key, "{}", _is_text)]
    return [*texts, *facts.say("processes", processes), *facts.say("peak_memory_mb", "{} MB of memory at most")]


def _list_steps(words: str, steps: Sequence[int] | None) -> list[str]:
    if not steps:
        return []
    return [f"{words} {'step' if len(steps) == 1 else 'steps'} {', '.join(map(str, steps))}"]
