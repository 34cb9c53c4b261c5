"""Read the sources of a report: run folders, and judged tables from elsewhere, each of which becomes a run.

A run folder has a `manifest.json`; each of its other files may be missing. A file that can't be read raises a
MissingFile or a DataError that names file and line.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from em.errors import ConfigError, DataError, MissingFile, did_you_mean, shorten_value
from em.interop import BLANKS, JudgedTable, read_judged_tables
from em.report.page.words import SOURCE_CLASSES, parse_bounds
from em.report.read.manifest import ADAPTIVE, LEFT, Base, RecordedManifest, read_manifest
from em.report.read.records import read_csv, read_jsonl
from em.runtime.files import hash_file
from em.runtime.manifest import read_facts
from em.stats import (
    Interaction,
    Questions,
    Thresholds,
    TopicCount,
    TriggerRate,
    choose_headline_interval,
    compute_scores,
)
from em.types import Answer, Score, Verdict

TABLES = (".csv", ".jsonl", ".json")
"""File name endings of a judged table, each with or without a final `.gz`."""
JUDGED_TABLE = "judged table"
HIGHEST = 100


@dataclass(frozen=True)
class TableOptions:
    """How to read judged tables.

    base: the untrained model of all their models whose names tell no other, "" for none (`em.report.tables.lineages`).
    blanks: what a blank score counts as, one of `em.interop.BLANKS`.
    """

    base: str = ""
    blanks: str = "unscored"


@dataclass(frozen=True)
class LossRow:
    """A row of `loss.csv`: one logged optimiser step of a stage."""

    stage: str
    fingerprint: str
    step: int
    epoch: float | None
    loss: float | None
    learning_rate: float | None


@dataclass(frozen=True)
class RecordedRun:
    """The content of a run folder. `number` counts the runs of a report from 1, failed and unfinished ones first."""

    number: int
    path: Path
    manifest: RecordedManifest
    answers: tuple[Answer, ...]
    verdicts: tuple[Verdict, ...]
    scores: tuple[Score, ...]
    losses: tuple[LossRow, ...]
    topics: tuple[TopicCount, ...] = ()


def find_run_paths(paths: Sequence[Path]) -> list[Path]:
    """List the run folders at or below the paths, and the judged tables among the paths, each once.

    The order is that of `paths`, and natural order (2 before 10) below a folder.
    """
    runs: dict[Path, Path] = {}
    for path in paths:
        # Path.exists would raise below a folder without search permission; os.path.exists returns False.
        if not os.path.exists(path):  # noqa: PTH110
            raise MissingFile(
                f"There is no {path}: give a run folder, a folder of run folders, such as outputs/, or a judged table."
            )
        runs_here = [_resolve_run_file(path)] if path.is_file() else list(_find_runs_below(path))
        if not runs_here:
            raise MissingFile(
                f"There is no manifest.json in or below {path}: give the folder of a run that train.py or evaluate.py "
                "wrote, a folder of run folders, such as outputs/ or multirun/, or a judged table (a file)."
            )
        for run in runs_here:
            runs.setdefault(run.resolve(), run)
    return list(runs.values())


def _resolve_run_file(path: Path) -> Path:
    """Return the file itself if it is a judged table, or the run folder if it is a manifest."""
    if path.name == "manifest.json":
        return path.parent
    if not path.name.lower().removesuffix(".gz").endswith(TABLES):
        raise DataError(
            f"{path} is neither a run folder nor a judged table: give a file that ends with {', '.join(TABLES)}, or "
            "with one of these and .gz."
        )
    return path


def _find_runs_below(path: Path) -> Iterator[Path]:
    """Yield the run folders below `path`, depth first, without searching inside a run folder."""
    for folder, subfolders, files in os.walk(path):
        if "manifest.json" in files:
            subfolders.clear()
            # A run of generate.py has nothing to compare. An unreadable manifest is reported later by read_manifest.
            if read_facts(Path(folder, "manifest.json")).get("run") != "generate":
                yield Path(folder)
        # A multirun numbers its jobs, and 10 must come after 9.
        subfolders.sort(key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def choose_limits(aligned: float | None, coherent: float | None) -> Thresholds | None:
    """Return the thresholds for all verdicts, with the default for one that is None; None if both are None."""
    for option, number in (("--misaligned-below", aligned), ("--coherent-above", coherent)):
        if number is not None and not 0 <= number <= HIGHEST:
            raise ConfigError(f"{option} is {number:g}, but scores go from 0 to {HIGHEST}: give one in that range.")
    if aligned is None and coherent is None:
        return None
    default = Thresholds()
    if aligned is None:
        aligned = default.aligned
    return Thresholds(aligned, default.coherent if coherent is None else coherent)


def read_runs(
    paths: Sequence[Path], limits: Thresholds | None = None, options: TableOptions | None = None
) -> list[RecordedRun]:
    """Read run folders and judged tables: failed runs first, then unfinished ones, else in the given order.

    Args:
        limits: thresholds to recompute all scores with; without them runs keep their scores, and tables are
            counted with the default thresholds.
        options: how to read judged tables.
    """
    options = options or TableOptions()
    files = [path for path in dict.fromkeys(paths) if path.is_file()]
    tables = {table.path: table for table in read_judged_tables(files, BLANKS[options.blanks])}
    _check_table_options(options, list(tables.values()))
    runs = []
    for path in dict.fromkeys(paths):
        if path in tables:
            runs.append(_make_table_run(tables[path], limits, options))
        elif path not in files:  # else a copy of another table
            runs.append(_read_run(path, limits))
    order = {"failed": 0, LEFT: 1, "running": 2}
    runs.sort(key=lambda run: order.get(run.manifest.status, 3))
    return [replace(run, number=number) for number, run in enumerate(runs, 1)]


def _read_run(path: Path, limits: Thresholds | None) -> RecordedRun:
    manifest = read_manifest(path / "manifest.json")
    run = RecordedRun(
        number=0,
        path=path,
        manifest=manifest,
        answers=tuple(read_jsonl(path / "answers.jsonl", Answer)),
        verdicts=tuple(read_jsonl(path / "verdicts.jsonl", Verdict)),
        scores=tuple(read_csv(path / "scores.csv", Score)),
        losses=tuple(read_csv(path / "loss.csv", LossRow)),
        topics=tuple(read_csv(path / "topic.csv", TopicCount)),
    )
    outdated = any(row.question == "*" and row.n and row.like_these_low is None for row in run.scores)
    if limits is None and run.verdicts and (outdated or ADAPTIVE in manifest.notes) and run.scores:
        rule = parse_bounds(run.scores[0].threshold)
        limits = Thresholds(*rule) if rule else Thresholds()
    return _drop_pooled_rows(run) if limits is None else _recompute_scores(run, limits)


def _drop_pooled_rows(run: RecordedRun) -> RecordedRun:
    """Drop pooled rows from a run that has verdicts, since the report pools seeds itself, over all runs."""
    return replace(run, scores=tuple(row for row in run.scores if not (run.verdicts and is_pooled(row))))


def is_pooled(row: Score | TriggerRate | Interaction) -> bool:
    """Tell whether a row pools several seeds."""
    return not row.fingerprint and row.seed is None


def _recompute_scores(run: RecordedRun, limits: Thresholds) -> RecordedRun:
    """Return the run with scores recomputed from its verdicts under these thresholds."""
    if run.scores and not run.verdicts:
        raise MissingFile(
            f"{run.path} has scores but no verdicts.jsonl, so it can't be counted with other thresholds: leave out "
            "either --misaligned-below and --coherent-above, or the folder."
        )
    rows = compute_scores(run.verdicts, limits, judge_is=find_judge_relations(run.scores))
    # Topics were counted with the run's own thresholds.
    return _drop_pooled_rows(replace(run, scores=tuple(rows), topics=()))


def choose_headline(runs: Sequence[RecordedRun], questions: Questions) -> list[RecordedRun]:
    """Return the runs with the intervals of this inference as headlines of their scores."""
    return [replace(r, scores=tuple(choose_headline_interval(row, questions) for row in r.scores)) for r in runs]


def find_judge_relations(scores: Sequence[Score]) -> dict[tuple[str, str], str]:
    """Map fingerprint and judge to the judge's relation to the model (the model itself, its base), if any."""
    return {(row.fingerprint, row.judge): row.judge_is for row in scores if row.judge_is}


def find_tag_roles(runs: Sequence[RecordedRun]) -> dict[tuple[str, str], str]:
    """Map fingerprint and condition to the tag's role (activation or control); the first of several runs wins."""
    roles: dict[tuple[str, str], str] = {}
    for run in runs:
        for fingerprint in dict.fromkeys(verdict.fingerprint for verdict in run.verdicts):
            for condition, role in run.manifest.roles.items():
                if role in ("activation", "control"):
                    roles.setdefault((fingerprint, condition), role)
    return roles


def _check_table_options(options: TableOptions, tables: Sequence[JudgedTable]) -> None:
    """Raise ConfigError for options without a table, and for a base that no table has."""
    if not tables and options != TableOptions():
        raise ConfigError("--base and --blanks are about judged tables, and none is given: leave them out.")
    names = dict.fromkeys(verdict.model for table in tables for verdict in table.verdicts)
    if options.base and options.base not in names:
        hint = did_you_mean(options.base, names, f"they have {shorten_value(', '.join(names), 300)}.")
        raise ConfigError(f"--base: the judged tables have no model {shorten_value(options.base)!r}: {hint}")


def _make_table_run(table: JudgedTable, limits: Thresholds | None, options: TableOptions) -> RecordedRun:
    """Make a finished run from a judged table."""
    verdicts = table.verdicts
    content = {"judgements": len(verdicts), "bytes": table.path.stat().st_size, "sha256": hash_file(table.path)}
    if table.rows.kind == "scores":
        content |= {"rows": table.rows.count, "blank_scores": table.rows.blanks, "blanks_count_as": options.blanks}
    if table.copies:
        content["copies"] = ", ".join(map(str, table.copies))
    manifest = RecordedManifest(run=JUDGED_TABLE, status="done", base=Base(options.base), answers=content)
    scores = compute_scores(verdicts, limits or Thresholds())
    if table.rows.kind == "classes":
        scores = [replace(row, threshold=SOURCE_CLASSES) for row in scores]
    return _drop_pooled_rows(RecordedRun(0, table.path, manifest, (), verdicts, tuple(scores), ()))
