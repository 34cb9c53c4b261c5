"""Log answers with their verdicts to W&B, one row per answer: a table per model, and one artifact of all rows."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from em.stats import Thresholds, classify_answer
from em.track.names import identify_model, map_places, sanitise_name
from em.types import Verdict

MOST_ROWS = 10_000  # in a table that W&B shows
MOST_ROWS_KEPT = 200_000  # in a table in an artifact
ANSWER_COLUMNS = ("model", "condition", "eval_set", "question_id", "question", "sample", "answer")
Key = tuple[Any, ...]


def log_transcripts(run: Any, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Log a table per model with the number of rows left out, and an artifact of all rows and the scores."""
    import wandb

    answers = list(read_json_records(folder / "answers.jsonl"))
    if not answers:
        return
    config, default = manifest["config"].get("eval") or {}, Thresholds()
    limits = Thresholds(config.get("misaligned_below", default.aligned), config.get("coherent_above", default.coherent))
    columns, rows = make_transcript_table(answers, list(read_json_records(folder / "verdicts.jsonl")), limits)
    places, tables = map_places(manifest, answers), defaultdict[str, list[list[Any]]](list)
    for answer, row in zip(answers, rows, strict=True):
        if place := places.get(identify_model(answer)):  # answers of checkpoints are only in the artifact
            tables[place].append(row)
    for place, place_rows in tables.items():
        run.log({f"transcripts/{place}": wandb.Table(columns=columns, data=place_rows[:MOST_ROWS])})
        run.summary[f"transcripts/{place}/left_out"] = max(0, len(place_rows) - MOST_ROWS)
    artifact = wandb.Artifact(f"results-{run.id}", type="results")
    artifact.add(wandb.Table(columns=columns, data=rows[:MOST_ROWS_KEPT]), "transcripts")
    run.summary["transcripts/left_out_of_artifact"] = max(0, len(rows) - MOST_ROWS_KEPT)
    if (folder / "scores.csv").is_file():
        artifact.add_file(str(folder / "scores.csv"))
    run.log_artifact(artifact)


def make_transcript_table(
    answers: Sequence[Mapping[str, Any]], verdicts: Sequence[Mapping[str, Any]], limits: Thresholds
) -> tuple[list[str], list[list[Any]]]:
    """Return columns and rows: question and answer, then per judge the class, scores or labels, and raw replies."""
    verdicts_by_answer: dict[Key, dict[str, list[Verdict]]] = defaultdict(lambda: defaultdict(list))
    graded = defaultdict[str, bool](bool)
    for line in verdicts:
        verdict = Verdict(**line)
        verdicts_by_answer[make_answer_key(line)][verdict.judge].append(verdict)
        graded[verdict.rubric] |= verdict.value is not None
    judges = list(dict.fromkeys(line["judge"] for line in verdicts))
    columns = [*ANSWER_COLUMNS]
    for judge in judges:
        suffix = f" ({sanitise_name(judge)})" if len(judges) > 1 else ""
        columns += [f"{column}{suffix}" for column in ("class", *graded, "replies")]
    rows = []
    for answer in answers:
        row = [answer[column] for column in ANSWER_COLUMNS]
        for judge in judges:
            row += make_cells(verdicts_by_answer[make_answer_key(answer)][judge], graded, limits)
        rows.append(row)
    return columns, rows


def make_cells(verdicts: Sequence[Verdict], graded: Mapping[str, bool], limits: Thresholds) -> list[Any]:
    """Return the cells of one judge's verdicts on one answer: class, a value per rubric, raw replies."""
    by_rubric = {verdict.rubric: verdict.value if graded[verdict.rubric] else verdict.label for verdict in verdicts}
    kind = classify_answer(verdicts, limits).kind if verdicts else None
    replies = [f"{verdict.rubric} ({verdict.status}): {verdict.raw}" for verdict in verdicts]
    return [kind, *map(by_rubric.get, graded), "\n".join(replies)]


def make_answer_key(line: Mapping[str, Any]) -> Key:
    """Return the key of an answer, shared by its verdicts."""
    names = ("condition", "eval_set", "question_id", "question", "sample")
    return identify_model(line), *(line[name] for name in names)


def read_json_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a JSONL file; none if the file doesn't exist."""
    if path.is_file():
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
