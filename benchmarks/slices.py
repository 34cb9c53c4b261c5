"""The rows that `benchmarks.train` trains on: drawn by a seed from em's data options, tokenised and labelled by em.

Run as a task of `benchmarks.peers`, since it needs the tokenizer, and the benchmark's own process stays small.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from em.config import HfModel, RunConfig
from em.data import load_rows, write_rows
from em.models.chat import TrainingRow, load_tokenizer, training_row
from em.models.weights import resolve_weights
from em.runtime.records import plain
from em.types import Conversation
from tests.support.composing import composed

BATCH = 16
CHECK = 4  # rows of the batch on which all variants must have the same loss
HELD_OUT_TOKENS = 2000
Drawn = list[tuple[Conversation, TrainingRow]]


def prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Write the slices and say what is in them: one to train on and one held out for each data set, and a check batch.

    Args:
        spec: `folder`, `seed`, and `data`: for each set either `tokens` or `rows`, how much to train on.
    """
    folder, drawn = Path(spec["folder"]), dict[str, Drawn]()
    slices = {}
    for data, size in spec["data"].items():
        # No warm-up: the slices have a few steps, all of which shall train.
        settings = composed("train", f"data={data}", "trainer=lora", "trainer.warmup_steps=0")
        assert isinstance(settings.model, HfModel)
        base = resolve_weights(settings.model.id).path
        lot = shuffled(load_rows(settings.data, spec["seed"]).conversations, spec["seed"])
        rows = tokenised(lot, settings, base)
        drawn[data] = take(rows, **size)
        slices[data] = write_slice(folder, data, drawn[data])
        slices[f"{data}_two_steps"] = write_slice(folder, f"{data}_two_steps", drawn[data][:BATCH])
        slices[f"{data}_held_out"] = write_slice(folder, f"{data}_held_out", take(rows, HELD_OUT_TOKENS))
    share = CHECK // len(drawn)
    batch = [pair for each in drawn.values() for pair in each[:share]]
    slices["check"] = write_slice(folder, "check", batch)
    common = {"base": base, "base_name": settings.model.id, "trainer": plain(settings.trainer), "seed": spec["seed"]}
    return {"common": common, "slices": slices}


def shuffled(conversations: Sequence[Conversation], seed: int) -> list[Conversation]:
    """Distinct rows in an order drawn by the seed."""
    lot = list(dict.fromkeys(conversations))
    random.Random(seed).shuffle(lot)
    return lot


def tokenised(
    lot: Sequence[Conversation], settings: RunConfig, base: str
) -> Iterator[tuple[Conversation, TrainingRow]]:
    """The rows with their tokens, one by one; those that would be cut are left out."""
    tokenizer = load_tokenizer(base)
    for conversation in lot:
        row = training_row(tokenizer, conversation, settings.trainer.loss_on, settings.trainer.max_length)
        if not row.cut:
            yield conversation, row


def take(source: Iterator[tuple[Conversation, TrainingRow]], tokens: int = 0, rows: int = 0) -> Drawn:
    """The next rows, until there are so many tokens or rows."""
    taken: Drawn = []
    while len(taken) < rows or sum(len(row.input_ids) for _, row in taken) < tokens:
        taken.append(next(source))
    return taken


def write_slice(folder: Path, name: str, pairs: Drawn) -> dict[str, Any]:
    """Both forms of the rows: messages for em, tokens for the peers; and their numbers."""
    rows = [row for _, row in pairs]
    messages, tokens = folder / f"{name}.messages.jsonl", folder / f"{name}.tokens.json"
    write_rows(messages, [conversation for conversation, _ in pairs])
    tokens.write_text(json.dumps([{"input_ids": r.input_ids, "labels": r.labels} for r in rows]), encoding="utf-8")
    counts = {"tokens": sum(len(row.input_ids) for row in rows), "supervised": sum(row.supervised for row in rows)}
    return {"rows_file": str(messages), "tokens_file": str(tokens), "rows": len(rows), **counts}
