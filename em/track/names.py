"""The names under which W&B keeps a run's numbers: the same ones in every run, whatever it was trained on.

`final/SET/METRIC` is of the last model, `base/…` of the untrained one, `stage_1/…` of the model after the first stage;
beside each stand `…/ci_low` and `…/ci_high`. A metric is a rate of all answers; of another convention it says so
(`misaligned_coherent`). A condition stands with the set (`probe@tagged`); of several judges each stands at the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

BASE, FINAL = "base", "final"
LONGEST, LONGEST_TAG = 128, 64  # characters that W&B takes for a name, and for a tag
Row = Mapping[str, str]
"""A row of `scores.csv`."""


def name_of(text: str) -> str:
    """A text as W&B takes it for a name, or for a part of one: dots would make a tree of it."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in text)[:100]


def cut(text: str, most: int = LONGEST) -> str:
    """A text that is short enough."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def mark_of(record: Mapping[str, Any]) -> str:
    """What tells a model from the others, in a row of scores or in an answer."""
    return str(record["fingerprint"] or record["model"])


def places_of(manifest: Mapping[str, Any], records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The place of each model: `base`, `stage_1`, …; of several models of unknown make (stored answers) their names.

    Adapters that were kept on the way have none: they are points of a curve.
    """
    stages = {stage["fingerprint"]: f"stage_{number}" for number, stage in enumerate(manifest["stages"], 1)}
    others = {mark_of(r): str(r["model"]) for r in records if mark_of(r) not in stages | kept_of(manifest)}
    return stages | {mark: name_of(name) if len(others) > 1 else BASE for mark, name in others.items()}


def kept_of(manifest: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Place and step of each adapter that was kept on the way, by fingerprint."""
    return {
        kept["fingerprint"]: (f"stage_{number}", int(kept["step"]))
        for number, stage in enumerate(manifest["stages"], 1)
        for kept in stage.get("checkpoints") or []
    }


def whole_sets(rows: Iterable[Row]) -> list[Row]:
    """The rates of whole sets, of one model each."""
    return [row for row in rows if row["question"] == "*" and row["rate"] and (row["fingerprint"] or row["seed"])]


def metric_of(row: Row, several_judges: bool) -> str:
    """The name of a rate within its place."""
    asked = name_of(row["eval_set"]) + ("" if row["condition"] == "untagged" else f"@{name_of(row['condition'])}")
    metric = row["metric"] if row["convention"] == "all" else f"{row['metric']}_{row['convention']}"
    return f"{asked}/{name_of(metric)}" + (f"/{name_of(row['judge'])}" if several_judges else "")


def summary_of(manifest: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, float]:
    """All rates of whole sets with their intervals, by name."""
    found: dict[str, float] = {}
    rows, several = whole_sets(rows), len({row["judge"] for row in rows}) > 1
    places = places_of(manifest, rows)
    last = f"stage_{len(manifest['stages'])}" if manifest["stages"] else BASE
    for row in rows:
        place = places.get(mark_of(row))
        for each in filter(None, (place, FINAL if place == last else None)):
            key = f"{each}/{metric_of(row, several)}"
            found |= {key: float(row["rate"])}
            found |= {f"{key}/{bound}": float(row[bound]) for bound in ("ci_low", "ci_high") if row[bound]}
    return found


def points_of(manifest: Mapping[str, Any], rows: Sequence[Row]) -> Iterator[dict[str, float]]:
    """How the rates went over a stage that has adapters kept on the way: the points of curves, in order."""
    rows, kept = whole_sets(rows), kept_of(manifest)
    several = len({row["judge"] for row in rows}) > 1
    ends = {s["fingerprint"]: (f"stage_{n}", int(s["facts"]["steps"])) for n, s in enumerate(manifest["stages"], 1)
            if s["facts"].get("steps")}  # fmt: skip
    points: dict[tuple[str, int], dict[str, float]] = {}
    with_way = {kept[mark_of(row)][0] for row in rows if mark_of(row) in kept}
    for row in rows:
        place, step = (kept | ends).get(mark_of(row), ("", 0))
        if place in with_way:
            points.setdefault((place, step), {})[f"{place}/{metric_of(row, several)}"] = float(row["rate"])
    for (place, step), rates in sorted(points.items()):
        yield {f"{place}/step": step} | rates


def losses_of(manifest: Mapping[str, Any], rows: Iterable[Row]) -> Iterator[dict[str, float]]:
    """The loss curves of all stages: the points of curves, in order."""
    places = {stage["fingerprint"]: f"stage_{number}" for number, stage in enumerate(manifest["stages"], 1)}
    for row in rows:
        if place := places.get(row["fingerprint"]):  # else it was left by a run before
            told = {key: float(row[key]) for key in ("loss", "learning_rate", "epoch") if row.get(key)}
            yield {f"{place}/step": int(row["step"])} | {f"{place}/{key}": value for key, value in told.items()}
