"""Draw the rows for `benchmarks.train`, by a seed, from em's data options; tokenise and label the rows by em.

A task of `benchmarks.peers` does this, so that the benchmark's main process stays small without a tokenizer.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from em.config import HfModel, RunConfig
from em.data import load_rows, write_training_rows
from em.models.chat import TrainingRow, load_tokenizer, make_training_row
from em.models.weights import resolve_weights
from em.runtime.records import to_jsonable
from em.types import Conversation
from tests.support.composing import compose_settings

BATCH = 16
CHECK = 4  # rows of a batch that must give the same loss for all variants
HELD_OUT_TOKENS = 2000
Drawn = list[tuple[Conversation, TrainingRow]]


def write_slices(spec: dict[str, Any]) -> dict[str, Any]:
    """Write a slice for training and a held-out slice of each data set, and a check batch; return their descriptions.

    Args:
        spec: `folder`, `seed`, and `data`: for each data set the size of its slice, in `tokens` or `rows`.
    """
    folder, drawn = Path(spec["folder"]), dict[str, Drawn]()
    slices = {}
    for data, size in spec["data"].items():
        # No warm-up: the slices have only a few steps, and all steps must train.
        settings = compose_settings("train", f"data={data}", "trainer=lora", "trainer.warmup_steps=0")
        assert isinstance(settings.model, HfModel)
        base = resolve_weights(settings.model.id).path
        lot = shuffle_distinct_rows(load_rows(settings.data, spec["seed"]).conversations, spec["seed"])
        rows = tokenise_rows(lot, settings, base)
        drawn[data] = take_rows(rows, **size)
        slices[data] = write_slice(folder, data, drawn[data])
        slices[f"{data}_two_steps"] = write_slice(folder, f"{data}_two_steps", drawn[data][:BATCH])
        slices[f"{data}_held_out"] = write_slice(folder, f"{data}_held_out", take_rows(rows, HELD_OUT_TOKENS))
    share = CHECK // len(drawn)
    batch = [pair for each in drawn.values() for pair in each[:share]]
    slices["check"] = write_slice(folder, "check", batch)
    common = {
        "base": base,
        "base_name": settings.model.id,
        "trainer": to_jsonable(settings.trainer),
        "seed": spec["seed"],
    }
    return {"common": common, "slices": slices}


def shuffle_distinct_rows(conversations: Sequence[Conversation], seed: int) -> list[Conversation]:
    """Return the distinct rows in an order drawn by the seed."""
    lot = list(dict.fromkeys(conversations))
    random.Random(seed).shuffle(lot)
    return lot


def tokenise_rows(
    lot: Sequence[Conversation], settings: RunConfig, base: str
) -> Iterator[tuple[Conversation, TrainingRow]]:
    """Yield the rows with their tokens, except rows that would be truncated."""
    tokenizer = load_tokenizer(base)
    for conversation in lot:
        row = make_training_row(tokenizer, conversation, settings.trainer.loss_on, settings.trainer.max_length)
        if not row.cut:
            yield conversation, row


def take_rows(source: Iterator[tuple[Conversation, TrainingRow]], tokens: int = 0, rows: int = 0) -> Drawn:
    """Take the next rows until the number of tokens or rows is reached."""
    taken: Drawn = []
    while len(taken) < rows or sum(len(row.input_ids) for _, row in taken) < tokens:
        taken.append(next(source))
    return taken


def write_slice(folder: Path, name: str, pairs: Drawn) -> dict[str, Any]:
    """Write the rows as messages for em and as tokens for the peers; return the files and counts."""
    rows = [row for _, row in pairs]
    messages, tokens = folder / f"{name}.messages.jsonl", folder / f"{name}.tokens.json"
    write_training_rows(messages, [conversation for conversation, _ in pairs])
    tokens.write_text(json.dumps([{"input_ids": r.input_ids, "labels": r.labels} for r in rows]), encoding="utf-8")
    counts = {"tokens": sum(len(row.input_ids) for row in rows), "supervised": sum(row.supervised for row in rows)}
    return {"rows_file": str(messages), "tokens_file": str(tokens), "rows": len(rows), **counts}
