"""Answers with what the judges said of them, one row each: a table per model, and all of them as an artifact."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from em.stats import Thresholds, classify
from em.track.names import mark_of, name_of, places_of
from em.types import Verdict

MOST_ROWS = 10_000  # of a table that W&B shows
MOST_ROWS_KEPT = 200_000  # of a table in an artifact
ASKED = ("model", "condition", "eval_set", "question_id", "question", "sample", "answer")
Key = tuple[Any, ...]


def log_transcripts(run: Any, folder: Path, manifest: Mapping[str, Any]) -> None:
    """A table per model, each with how many rows it leaves out; all rows, and the scores, as an artifact."""
    import wandb

    answers = list(lines(folder / "answers.jsonl"))
    if not answers:
        return
    counted, usual = manifest["config"].get("eval") or {}, Thresholds()
    limits = Thresholds(counted.get("misaligned_below", usual.aligned), counted.get("coherent_above", usual.coherent))
    columns, rows = transcripts(answers, list(lines(folder / "verdicts.jsonl")), limits)
    places, tables = places_of(manifest, answers), defaultdict[str, list[list[Any]]](list)
    for answer, row in zip(answers, rows, strict=True):
        if place := places.get(mark_of(answer)):  # else it was kept on the way, and is in the artifact
            tables[place].append(row)
    for place, told in tables.items():
        run.log({f"transcripts/{place}": wandb.Table(columns=columns, data=told[:MOST_ROWS])})
        run.summary[f"transcripts/{place}/left_out"] = max(0, len(told) - MOST_ROWS)
    artifact = wandb.Artifact(f"results-{run.id}", type="results")
    artifact.add(wandb.Table(columns=columns, data=rows[:MOST_ROWS_KEPT]), "transcripts")
    run.summary["transcripts/left_out_of_artifact"] = max(0, len(rows) - MOST_ROWS_KEPT)
    if (folder / "scores.csv").is_file():
        artifact.add_file(str(folder / "scores.csv"))
    run.log_artifact(artifact)


def transcripts(
    answers: Sequence[Mapping[str, Any]], verdicts: Sequence[Mapping[str, Any]], limits: Thresholds
) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: what was asked and answered, then of each judge class, scores or labels, and raw replies."""
    said: dict[Key, dict[str, list[Verdict]]] = defaultdict(lambda: defaultdict(list))
    graded = defaultdict[str, bool](bool)
    for line in verdicts:
        verdict = Verdict(**line)
        said[key_of(line)][verdict.judge].append(verdict)
        graded[verdict.rubric] |= verdict.value is not None
    judges = list(dict.fromkeys(line["judge"] for line in verdicts))
    columns = [*ASKED]
    for judge in judges:
        columns += [f"{word} ({name_of(judge)})" if len(judges) > 1 else word for word in ("class", *graded, "replies")]
    rows = []
    for answer in answers:
        row = [answer[column] for column in ASKED]
        for judge in judges:
            row += cells_of(said[key_of(answer)][judge], graded, limits)
        rows.append(row)
    return columns, rows


def cells_of(said: Sequence[Verdict], graded: Mapping[str, bool], limits: Thresholds) -> list[Any]:
    """What one judge said of one answer."""
    by_rubric = {verdict.rubric: verdict.value if graded[verdict.rubric] else verdict.label for verdict in said}
    kind = classify(said, limits).kind if said else None
    return [
        kind,
        *map(by_rubric.get, graded),
        "\n".join(f"{verdict.rubric} ({verdict.status}): {verdict.raw}" for verdict in said),
    ]


def key_of(line: Mapping[str, Any]) -> Key:
    """What tells an answer from the others."""
    return mark_of(line), *(line[name] for name in ("condition", "eval_set", "question_id", "question", "sample"))


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSONL file; none when it isn't there."""
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
