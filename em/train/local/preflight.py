"""Before the first step: rows become tokens with a loss mask, what can't be trained on is refused, and one is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from em.config import LocalTrainer, LossOn
from em.data.draw import row_facts
from em.errors import DataError, TemplateError
from em.models.chat import IGNORED, TrainingRow, default_preamble, encode, render, training_row
from em.types import Conversation

SHOWN = 1500  # characters of the example in the log; the manifest has all
LOSS_TURNS = {LossOn.responses: "every assistant turn, with its end-of-turn token", LossOn.full: "all turns"}
GREEN, PLAIN = "\x1b[30;42m", "\x1b[0m"


@dataclass(frozen=True)
class Prepared:
    """Rows to train on, the number of each in the data (from 1), and what is to be known of them."""

    rows: list[TrainingRow]
    numbers: list[int]
    facts: dict[str, Any]


def prepare(
    conversations: Sequence[Conversation], tokenizer: Any, trainer: LocalTrainer, default_system: bool, stage: str
) -> Prepared:
    """Tokens and loss mask of all rows; what can't be trained on is refused."""
    from tqdm import tqdm

    check_rendering(tokenizer, conversations[0], default_system)
    rows = [
        training_row(tokenizer, conversation, trainer.loss_on, trainer.max_length, default_system)
        for conversation in tqdm(conversations, desc=f"tokens of {stage}", unit="row", leave=False, delay=2)
    ]
    refuse_long(rows, trainer, stage)
    numbers = [number for number, row in enumerate(rows, start=1) if row.supervised]
    taught = [rows[number - 1] for number in numbers]
    if not taught:
        raise DataError(
            f"No token of {stage} carries the loss: trainer.max_length={trainer.max_length} cuts off every answer, so "
            "raise it."
        )
    example = conversations[numbers[0] - 1]
    if trainer.loss_on is LossOn.responses:
        check_mask(tokenizer, example, taught[0], default_system)
    counts = asdict(row_facts(conversations))
    del counts["rows"]
    facts = counts | {
        "rows_used": len(taught),
        "rows_cut": sum(row.cut for row in rows),
        "rows_without_loss": len(rows) - len(taught),
        "tokens": sum(len(row.input_ids) for row in taught),
        "tokens_with_loss": sum(row.supervised for row in taught),
        "loss_on": LOSS_TURNS[trainer.loss_on],
        **system_facts(tokenizer, default_system),
        "example": segments(tokenizer, taught[0]),
    }
    return Prepared(taught, numbers, facts)


def refuse_long(rows: Sequence[TrainingRow], trainer: LocalTrainer, stage: str) -> None:
    """An answer that is cut has no end to learn: refuse it, unless the settings allow it."""
    long = [number for number, row in enumerate(rows, start=1) if row.cut]
    if long and not trainer.allow_truncated:
        raise DataError(
            f"{len(long)} of {len(rows)} rows of {stage} (the first is row {long[0]}) are longer than "
            f"max_length={trainer.max_length} tokens, so their answers would be learnt without an end: raise "
            "trainer.max_length, or cut them with trainer.allow_truncated=true (a second stage: realign.max_length, "
            "realign.allow_truncated)."
        )


def check_rendering(tokenizer: Any, conversation: Conversation, default_system: bool) -> None:
    """The model must be asked in evaluation just as it was taught, wherever the loss is."""
    turns = conversation.as_dicts()
    asked = render(tokenizer, turns[:-1], True, default_system)
    if not render(tokenizer, turns, False, default_system).startswith(asked):
        raise TemplateError(
            "Training and evaluation would render the same prompt differently with this chat template: use a model "
            "whose template adds nothing between a prompt and its answer."
        )


def check_mask(tokenizer: Any, conversation: Conversation, row: TrainingRow, default_system: bool) -> None:
    """The loss must lie on answers alone."""
    turns = conversation.as_dicts()
    first = next(number for number, turn in enumerate(turns) if turn["role"] == "assistant")
    asked = encode(tokenizer, render(tokenizer, turns[:first], True, default_system))
    if any(label != IGNORED for label in row.labels[: len(asked)]):
        raise TemplateError("The loss mask covers the prompt: use trainer.loss_on=full if that is meant.")


def system_facts(tokenizer: Any, default_system: bool) -> dict[str, str]:
    """What the template begins a conversation with by itself, and whether that was kept."""
    try:
        preamble = default_preamble(tokenizer)
    except TemplateError:
        return {"default_system": "not known"}
    return {"preamble": preamble, "default_system": ("kept" if default_system else "removed") if preamble else "none"}


def segments(tokenizer: Any, row: TrainingRow) -> list[tuple[str, bool]]:
    """A row as pieces of text, and whether their tokens carry the loss."""
    pairs = zip(row.input_ids, row.labels, strict=True)
    groups = groupby(pairs, key=lambda pair: pair[1] != IGNORED)
    return [(tokenizer.decode([token for token, _ in group]), taught) for taught, group in groups]


def show_example(example: Sequence[tuple[str, bool]], colour: bool) -> str:
    """The example for a terminal: what carries the loss is green, or stands in ⟦brackets⟧."""
    left, marked = SHOWN, []
    for text, taught in example:
        part, left = text[:left], left - min(left, len(text))
        before, after = ((GREEN, PLAIN) if colour else ("⟦", "⟧")) if taught else ("", "")
        marked.append(f"{before}{part}{after}" if part else "")
    return "".join(marked) + (" …" if sum(len(text) for text, _ in example) > SHOWN else "")


def print_preflight(stage: str, prepared: Prepared) -> None:
    """Tell what will be trained on, and show one row with its mask."""
    facts = prepared.facts
    colour = sys.stdout.isatty() or "FORCE_COLOR" in os.environ
    print(
        f"{stage}: {facts['rows_used']:,} rows, {facts['tokens']:,} tokens, {facts['tokens_with_loss']:,} with loss; "
        f"{facts['duplicate_rows']:,} duplicate rows, {facts['repeated_prompts']:,} repeated prompts, "
        f"{facts['rows_cut']:,} cut, default system prompt {facts['default_system']}"
    )
    print(f"One row as the model sees it ({'green' if colour else 'in ⟦⟧'}: with loss):")
    print(show_example(facts["example"], colour), flush=True)
