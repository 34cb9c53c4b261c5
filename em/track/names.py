"""Name a run's numbers in W&B: the same metric names in every run, whatever it was trained on.

`final/SET/METRIC` belongs to the last model, `base/…` to the untrained model, `stage_1/…` to the model after the first
stage; each has `…/ci_low` and `…/ci_high`. A metric is a rate of all answers; another convention is appended
(`misaligned_coherent`). A condition follows the set (`probe@tagged`). With several judges, the judge comes last.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

BASE, FINAL = "base", "final"
LONGEST, LONGEST_TAG = 128, 64  # characters that W&B accepts in a name, and in a tag
Row = Mapping[str, str]
"""A row of `scores.csv`."""


def sanitise_name(text: str) -> str:
    """Replace the characters that a W&B name can't hold; a dot would start a nested name."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in text)[:100]


def shorten_text(text: str, most: int = LONGEST) -> str:
    """Cut a text to `most` characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def identify_model(record: Mapping[str, Any]) -> str:
    """Return the key of a model in a row of scores or in an answer: its fingerprint, else its name."""
    return str(record["fingerprint"] or record["model"])


def map_places(manifest: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Map each model to its place: `base`, `stage_1`, …, or its name if several models belong to no stage.

    Checkpoints have no place: they are points of a curve.
    """
    stages = {stage["fingerprint"]: f"stage_{number}" for number, stage in enumerate(manifest["stages"], 1)}
    placed = stages | map_checkpoints(manifest)
    others = {identify_model(r): str(r["model"]) for r in records if identify_model(r) not in placed}
    return stages | {mark: sanitise_name(name) if len(others) > 1 else BASE for mark, name in others.items()}


def map_checkpoints(manifest: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Map the fingerprint of each checkpoint to its place and step."""
    checkpoints: dict[str, tuple[str, int]] = {}
    for number, stage in enumerate(manifest["stages"], 1):
        for checkpoint in stage.get("checkpoints") or []:
            checkpoints[checkpoint["fingerprint"]] = (f"stage_{number}", int(checkpoint["step"]))
    return checkpoints


def select_whole_sets(rows: Iterable[Row]) -> list[Row]:
    """Return the rows with a rate of a whole set and of a single model, not of pooled seeds."""
    return [row for row in rows if row["question"] == "*" and row["rate"] and (row["fingerprint"] or row["seed"])]


def name_metric(row: Row, several_judges: bool) -> str:
    """Return the name of a rate within its place."""
    side = sanitise_name(row["eval_set"]) + (
        "" if row["condition"] == "untagged" else f"@{sanitise_name(row['condition'])}"
    )
    metric = row["metric"] if row["convention"] == "all" else f"{row['metric']}_{row['convention']}"
    return f"{side}/{sanitise_name(metric)}" + (f"/{sanitise_name(row['judge'])}" if several_judges else "")


def make_summary(manifest: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, float]:
    """Map metric names to all rates of whole sets and their intervals."""
    summary: dict[str, float] = {}
    rows, several = select_whole_sets(rows), len({row["judge"] for row in rows}) > 1
    places = map_places(manifest, rows)
    last = f"stage_{len(manifest['stages'])}" if manifest["stages"] else BASE
    for row in rows:
        place = places.get(identify_model(row))
        for prefix in filter(None, (place, FINAL if place == last else None)):
            key = f"{prefix}/{name_metric(row, several)}"
            summary |= {key: float(row["rate"])}
            summary |= {f"{key}/{bound}": float(row[bound]) for bound in ("ci_low", "ci_high") if row[bound]}
    return summary


def make_rate_points(manifest: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[dict[str, float]]:
    """Yield the rates of stages with scored checkpoints as points of curves, by place and step."""
    rows, checkpoints = select_whole_sets(rows), map_checkpoints(manifest)
    several = len({row["judge"] for row in rows}) > 1
    ends = {s["fingerprint"]: (f"stage_{n}", int(s["facts"]["steps"])) for n, s in enumerate(manifest["stages"], 1)
            if s["facts"].get("steps")}  # fmt: skip
    points: dict[tuple[str, int], dict[str, float]] = {}
    with_curve = {checkpoints[identify_model(row)][0] for row in rows if identify_model(row) in checkpoints}
    for row in rows:
        place, step = (checkpoints | ends).get(identify_model(row), ("", 0))
        if place in with_curve:
            points.setdefault((place, step), {})[f"{place}/{name_metric(row, several)}"] = float(row["rate"])
    for (place, step), rates in sorted(points.items()):
        yield {f"{place}/step": step} | rates


def make_loss_points(manifest: Mapping[str, Any], rows: Iterable[Row]) -> Iterator[dict[str, float]]:
    """Yield the loss curves of all stages as points, in the order of the rows."""
    places = {stage["fingerprint"]: f"stage_{number}" for number, stage in enumerate(manifest["stages"], 1)}
    for row in rows:
        if place := places.get(row["fingerprint"]):  # otherwise the row is left over from an earlier run
            values = {key: float(row[key]) for key in ("loss", "learning_rate", "epoch") if row.get(key)}
            yield {f"{place}/step": int(row["step"])} | {f"{place}/{key}": value for key, value in values.items()}
