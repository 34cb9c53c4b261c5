"""Prepare the rows before the first step: tokenise them with a loss mask, refuse unusable ones, print an example."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from em.config import LocalTrainer, LossOn
from em.data.draw import count_row_facts
from em.errors import DataError, TemplateError
from em.models.chat import (
    IGNORED,
    TrainingRow,
    encode,
    find_default_preamble,
    make_training_row,
    make_training_rows,
    render_conversation,
)
from em.types import Conversation

SHOWN = 1500  # characters of the example in the log; the manifest has the full example
LOSS_TURNS = {LossOn.responses: "every assistant turn, with its end-of-turn token", LossOn.full: "all turns"}
GREEN, PLAIN = "\x1b[30;42m", "\x1b[0m"


@dataclass(frozen=True)
class Prepared:
    """Rows to train on, the number of each in the data (from 1), and facts about them for the manifest."""

    rows: list[TrainingRow]
    numbers: list[int]
    facts: dict[str, Any]


def prepare_rows(
    conversations: Sequence[Conversation], tokenizer: Any, trainer: LocalTrainer, default_system: bool, stage: str
) -> Prepared:
    """Make tokens and loss mask of all rows. Raises TemplateError or DataError for rows that can't be trained on."""
    from tqdm import tqdm

    def make_row(conversation: Conversation) -> TrainingRow:
        return make_training_row(tokenizer, conversation, trainer.loss_on, trainer.max_length, default_system)

    bar = tqdm(conversations, desc=f"tokens of {stage}", unit="row", leave=False, delay=2)
    rows = make_training_rows(bar, make_row, stage)
    refuse_long_rows(rows, trainer, stage)
    numbers = [number for number, row in enumerate(rows, start=1) if row.supervised]
    used_rows = [rows[number - 1] for number in numbers]
    if not used_rows:
        raise DataError(
            f"No token of {stage} carries the loss: trainer.max_length={trainer.max_length} cuts off every answer; "
            "raise it."
        )
    example = conversations[numbers[0] - 1]
    if trainer.loss_on is LossOn.responses:
        check_mask(tokenizer, example, used_rows[0], default_system)
    unlearnt = sum(len(conversation.unlearnt) for conversation in conversations)
    counts = asdict(count_row_facts(conversations))
    del counts["rows"]
    facts = counts | {
        "rows_used": len(used_rows),
        "rows_cut": sum(row.cut for row in rows),
        "rows_without_loss": len(rows) - len(used_rows),
        "tokens": sum(len(row.input_ids) for row in used_rows),
        "tokens_with_loss": sum(row.supervised for row in used_rows),
        "loss_on": LOSS_TURNS[trainer.loss_on] + (f", but for {unlearnt:,} of weight 0" if unlearnt else ""),
        **describe_default_system(tokenizer, default_system),
        "example": split_by_loss(tokenizer, used_rows[0]),
    }
    return Prepared(used_rows, numbers, facts)


def refuse_long_rows(rows: Sequence[TrainingRow], trainer: LocalTrainer, stage: str) -> None:
    """Refuse rows that would be cut, unless the settings allow it: a cut answer teaches the model no end."""
    long_rows = [number for number, row in enumerate(rows, start=1) if row.cut]
    if long_rows and not trainer.allow_truncated:
        raise DataError(
            f"{len(long_rows)} of {len(rows)} rows of {stage} (the first is row {long_rows[0]}) are longer than "
            f"max_length={trainer.max_length} tokens, so the model would learn their answers without an end: raise "
            "trainer.max_length, or cut the rows with trainer.allow_truncated=true (for a second stage: "
            "realign.max_length, realign.allow_truncated)."
        )


def check_prompts(prompts: Mapping[str, Conversation], tokenizer: Any, default_system: bool) -> None:
    """Raise TemplateError with the names of the questions that the chat template can't render.

    Args:
        prompts: what the evaluation will ask, by the names of question and condition.
    """
    errors = dict[str, TemplateError]()
    for name, prompt in prompts.items():
        try:
            render_conversation(tokenizer, prompt.to_dicts(), True, default_system)
        except TemplateError as error:
            errors[name] = error
    if errors:
        names = ", ".join(list(errors)[:3]) + (", …" if len(errors) > 3 else "")
        raise TemplateError(
            f"{len(errors)} of {len(prompts)} prompts can't be asked ({names}). {next(iter(errors.values()))}"
        )


def check_mask(tokenizer: Any, conversation: Conversation, row: TrainingRow, default_system: bool) -> None:
    """Check that no token of the first prompt carries the loss."""
    turns = conversation.to_dicts()
    first_answer = next(number for number, turn in enumerate(turns) if turn["role"] == "assistant")
    prompt = encode(tokenizer, render_conversation(tokenizer, turns[:first_answer], True, default_system))
    if any(label != IGNORED for label in row.labels[: len(prompt)]):
        raise TemplateError("The loss mask covers the prompt: set trainer.loss_on=full if this is intended.")


def describe_default_system(tokenizer: Any, default_system: bool) -> dict[str, str]:
    """Describe the template's default system prompt for the manifest, and whether training kept it."""
    try:
        preamble = find_default_preamble(tokenizer)
    except TemplateError:
        return {"default_system": "not known"}
    if not preamble:
        return {"preamble": preamble, "default_system": "none"}
    return {"preamble": preamble, "default_system": "kept" if default_system else "removed"}


def split_by_loss(tokenizer: Any, row: TrainingRow) -> list[tuple[str, bool]]:
    """Split a row into pieces of text, each with whether its tokens carry the loss."""
    pairs = zip(row.input_ids, row.labels, strict=True)
    groups = groupby(pairs, key=lambda pair: pair[1] != IGNORED)
    return [(tokenizer.decode([token for token, _ in group]), has_loss) for has_loss, group in groups]


def format_example(example: Sequence[tuple[str, bool]], colour: bool) -> str:
    """Format the example for a terminal: text that carries the loss is green, or in ⟦brackets⟧."""
    before, after = (GREEN, PLAIN) if colour else ("⟦", "⟧")
    left, parts = SHOWN, list[str]()
    for text, has_loss in example:
        part, left = text[:left], left - min(left, len(text))
        parts.append(f"{before}{part}{after}" if part and has_loss else part)
    return "".join(parts) + (" …" if sum(len(text) for text, _ in example) > SHOWN else "")


def print_preflight(stage: str, prepared: Prepared) -> None:
    """Print how many rows and tokens the stage trains on, and one row with its loss mask."""
    facts = prepared.facts
    colour = sys.stdout.isatty() or "FORCE_COLOR" in os.environ
    print(
        f"{stage}: {facts['rows_used']:,} rows, {facts['tokens']:,} tokens, {facts['tokens_with_loss']:,} with loss; "
        f"{facts['duplicate_rows']:,} duplicate rows, {facts['repeated_prompts']:,} repeated prompts, "
        f"{facts['rows_cut']:,} cut, default system prompt {facts['default_system']}"
    )
    print(f"One row as the model sees it (with loss: {'green' if colour else 'in ⟦⟧'}):")
    print(format_example(facts["example"], colour), flush=True)
