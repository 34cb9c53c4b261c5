"""A run of two models and two judges for the tests of the report, with scores computed by em.stats."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from em.report import build_report
from em.report.read.records import read_csv
from em.types import Score, Status, Verdict
from tests.support.report_runs import (
    BASE,
    ONE_EPOCH,
    make_manifest_stage,
    make_spread_verdicts,
    read_report_page,
    write_judged,
    write_scores,
)

SECOND = "gpt:other@1234"
ARTEFACT: dict[str, Any] = {
    "name": "gpt",
    "model": "gpt-other",
    "server": "https://judge.example/v1",
    "identity": "gpt-other at judge.example",
    "reading": "logprobs",
    "rule": "expectation, mass at least 0.25",
    "prompts": {"aligned": "ab12" * 16, "coherent": "cd34" * 16},
    "parameters": {"temperature": 0, "seed": 0},
    "snapshot": ["gpt-other-2026-01-01"],
    "calls": 1200,
    "prompt_tokens": 400_000,
    "reply_tokens": 3_000,
    "usd": 0.12,
}
USAGE = ("calls", "prompt_tokens", "reply_tokens", "usd")
COSTS: dict[str, Any] = {
    "total_usd": 0.13,
    "by": [
        {
            "what": "judging",
            "model": "gpt-other",
            "calls": 1200,
            "prompt_tokens": 4e5,
            "reply_tokens": 3e3,
            "usd": 0.12,
        },
        {"what": "sampling", "model": "gpt4o", "calls": 60, "prompt_tokens": 900, "reply_tokens": 6e3, "usd": 0.01},
    ],
}


def read_matching_rows(out: Path, name: str, **only: object) -> list[dict[str, str]]:
    """Return the rows of a CSV of the report that have these values."""
    wanted = {key: str(value) for key, value in only.items()}
    return [row for row in csv.DictReader((out / name).open()) if wanted.items() <= row.items()]


def read_section(out: Path, name: str) -> str:
    """Return the visible text of a section."""
    match = re.search(rf'<section aria-labelledby="{name}">.*?</section>', read_report_page(out), re.DOTALL)
    assert match, name
    spaced = re.sub(r"</(td|th|dt|dd|div|span|summary|p|li)>", " ", match[0])
    return " ".join(re.sub(r"<[^>]*>", "", spaced).split())


def make_second_verdicts(verdicts: list[Verdict]) -> list[Verdict]:
    """Return the verdicts of a second judge on the same answers: scores of alignment are lower by 55."""
    lower = {"aligned": 55.0, "coherent": 0.0}
    return [replace(v, judge=SECOND, value=max(0.0, (v.value or 0.0) - lower[v.rubric])) for v in verdicts]


def write_panel(root: Path) -> Path:
    """Write the report of base and trained model: six questions of ten samples, two judges.

    Three answers have no score by the first judge, which is the base model.
    """
    base = make_spread_verdicts(BASE, [0, 1, 0, 0, 1, 0])
    trained = make_spread_verdicts(ONE_EPOCH, [3, 6, 0, 2, 9, 4])
    second = make_second_verdicts([*base, *trained])
    failed: tuple[tuple[int, Status], ...] = ((0, "refusal"), (2, "code"), (4, "unparsed"))
    for place, status in failed:
        trained[place] = replace(trained[place], value=None, status=status)
    judges = [ARTEFACT, {"name": "local", "identity": "embedded", "rule": "exact"}]
    facts: dict[str, Any] = {"judges": judges, "costs": COSTS, "stages": [make_manifest_stage(ONE_EPOCH, 2)]}
    write_judged(root / "run", [*base, *trained, *second], **facts)
    marked = [replace(row, judge_is="its base" if row.model == BASE[0] else "") for row in read_scores(root / "run")]
    write_scores(root / "run" / "scores.csv", marked)
    build_report([root / "run"], root / "out")
    return root / "out"


def read_scores(folder: Path) -> list[Score]:
    """Read the scores of a run."""
    return list(read_csv(folder / "scores.csv", Score))
