"""Reading what a report is made of: run folders, and judged tables of others, each of which becomes a run.

A run folder is one with a `manifest.json`; each of its other files may be missing. Whatever can't be read is a
MissingFile or a DataError that names file and line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from em.errors import ConfigError, DataError, MissingFile
from em.report.page.words import bounds
from em.report.read.manifest import ADAPTIVE, LEFT, Manifest, read_manifest
from em.report.read.records import read_csv, read_jsonl
from em.runtime.files import sha256_of
from em.runtime.manifest import read_facts
from em.stats import Thresholds, TriggerRate, score
from em.types import Answer, Score, Verdict

TABLES = (".csv", ".jsonl", ".json")
"""What a judged table's name ends with, `.gz` behind it or not."""
JUDGED_TABLE = "judged table"
HIGHEST = 100


@dataclass(frozen=True)
class LossRow:
    """A row of `loss.csv`: one logged optimiser step of one stage."""

    stage: str
    fingerprint: str
    step: int
    epoch: float | None
    loss: float | None
    learning_rate: float | None


@dataclass(frozen=True)
class Run:
    """All that a run folder holds. `number` counts the runs of a report from 1, failed and unfinished ones first."""

    number: int
    path: Path
    manifest: Manifest
    answers: tuple[Answer, ...]
    verdicts: tuple[Verdict, ...]
    scores: tuple[Score, ...]
    losses: tuple[LossRow, ...]


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Run folders at or below the paths, and the files among them, which are judged tables.

    Each once, in the order given, below a folder in natural order.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not os.path.exists(path):  # noqa: PTH110  # which, unlike Path.exists, is False below a folder that can't be entered
            raise MissingFile(
                f"There is no {path}: give a run folder, a folder that holds some, such as outputs/, or a judged table."
            )
        runs = [_table(path)] if path.is_file() else list(_runs_below(path))
        if not runs:
            raise MissingFile(
                f"There is no manifest.json in or below {path}: give the folder of a run that train.py or evaluate.py "
                "wrote, a folder that holds some, such as outputs/ or multirun/, or a judged table (a file)."
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _table(path: Path) -> Path:
    """The file of a judged table; of a run folder's manifest the folder."""
    if path.name == "manifest.json":
        return path.parent
    if not path.name.lower().removesuffix(".gz").endswith(TABLES):
        raise DataError(
            f"{path} is neither a run folder nor a judged table: give a file that ends with {', '.join(TABLES)}, or "
            "one of them with .gz."
        )
    return path


def _runs_below(path: Path) -> Iterator[Path]:
    """Depth first; what lies inside a run folder belongs to that run."""
    for folder, subfolders, files in os.walk(path):
        if "manifest.json" in files:
            subfolders.clear()
            # A run of generate.py has a card and nothing to compare. Of what can't be read, read_manifest says why.
            if read_facts(Path(folder, "manifest.json")).get("run") != "generate":
                yield Path(folder)
        # A multirun numbers its jobs: 10 comes after 9.
        subfolders.sort(key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def choose_limits(aligned: float | None, coherent: float | None) -> Thresholds | None:
    """Thresholds to count all verdicts with, the default one for a number that isn't given; None where none is."""
    for option, number in (("--misaligned-below", aligned), ("--coherent-above", coherent)):
        if number is not None and not 0 <= number <= HIGHEST:
            raise ConfigError(f"{option} is {number:g}, but scores go from 0 to {HIGHEST}: give a number from there.")
    if aligned is None and coherent is None:
        return None
    usual = Thresholds()
    return Thresholds(usual.aligned if aligned is None else aligned, usual.coherent if coherent is None else coherent)


def read_runs(paths: Sequence[Path], limits: Thresholds | None = None) -> list[Run]:
    """Read run folders and judged tables, failed runs first and then those not finished, otherwise in the order given.

    Args:
        limits: count all verdicts anew with these thresholds; without them runs keep the scores that they have, and
            tables are counted with the default ones.
    """
    runs = [_read_table(path, limits) if path.is_file() else _read_run(path, limits) for path in paths]
    first = {"failed": 0, LEFT: 1, "running": 2}
    runs.sort(key=lambda run: first.get(run.manifest.status, 3))
    return [replace(run, number=number) for number, run in enumerate(runs, 1)]


def _read_run(path: Path, limits: Thresholds | None) -> Run:
    manifest = read_manifest(path / "manifest.json")
    run = Run(
        number=0,
        path=path,
        manifest=manifest,
        answers=tuple(read_jsonl(path / "answers.jsonl", Answer)),
        verdicts=tuple(read_jsonl(path / "verdicts.jsonl", Verdict)),
        scores=tuple(read_csv(path / "scores.csv", Score)),
        losses=tuple(read_csv(path / "loss.csv", LossRow)),
    )
    if limits is None and ADAPTIVE in manifest.notes and run.verdicts and run.scores:
        rule = bounds(run.scores[0].threshold)
        limits = Thresholds(*rule) if rule else Thresholds()
    return _without_pools(run) if limits is None else _count_anew(run, limits)


def _without_pools(run: Run) -> Run:
    """Without rows of several seeds where there are verdicts: the report makes such rows itself, over all runs."""
    return replace(run, scores=tuple(row for row in run.scores if not (run.verdicts and is_pooled(row))))


def is_pooled(row: Score | TriggerRate) -> bool:
    """Whether a row is of several seeds."""
    return not row.fingerprint and row.seed is None


def _count_anew(run: Run, limits: Thresholds) -> Run:
    """The run with the scores that its verdicts have under other thresholds."""
    if run.scores and not run.verdicts:
        raise MissingFile(
            f"{run.path} has scores but no verdicts.jsonl, so it can't be counted with other thresholds: leave "
            "--misaligned-below and --coherent-above out, or the folder."
        )
    rows = score(run.verdicts, limits, judge_is=judges_of(run.scores))
    return _without_pools(replace(run, scores=tuple(rows)))


def judges_of(scores: Sequence[Score]) -> dict[tuple[str, str], str]:
    """What the judge is to the model, by fingerprint and judge, where it is the model itself or its base."""
    return {(row.fingerprint, row.judge): row.judge_is for row in scores if row.judge_is}


def roles_of(runs: Sequence[Run]) -> dict[tuple[str, str], str]:
    """What the tags that a model was asked with are for, by fingerprint and condition; of several runs the first."""
    found: dict[tuple[str, str], str] = {}
    for run in runs:
        for fingerprint in dict.fromkeys(verdict.fingerprint for verdict in run.verdicts):
            for condition, role in run.manifest.roles.items():
                if role in ("activation", "control"):
                    found.setdefault((fingerprint, condition), role)
    return found


def _read_table(path: Path, limits: Thresholds | None) -> Run:
    """A judged table of others as a run that is done."""
    from em.interop import read_judged

    verdicts = tuple(read_judged(path))
    content = {"judgements": len(verdicts), "bytes": path.stat().st_size, "sha256": sha256_of(path)}
    manifest = Manifest(run=JUDGED_TABLE, status="done", answers=content)
    scores = tuple(score(verdicts, limits or Thresholds()))
    return _without_pools(Run(0, path, manifest, (), verdicts, scores, ()))
