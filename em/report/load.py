"""Reading run folders into records.

A run folder is one with a `manifest.json`; each of its other files may be missing. Whatever can't be read is a
MissingFile or a DataError that names file and line.
"""

from __future__ import annotations

import csv
import json
import math
import os
import types
import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from em.errors import DataError, MissingFile
from em.report.manifest import Manifest, read_manifest
from em.types import Answer, Score, Verdict

Record = TypeVar("Record")

REPAIR = "repair that line, or run the run's command again to write the file anew"


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
    """All that a run folder holds. `number` counts the runs of a report from 1, failed ones first."""

    number: int
    path: Path
    manifest: Manifest
    answers: tuple[Answer, ...]
    verdicts: tuple[Verdict, ...]
    scores: tuple[Score, ...]
    losses: tuple[LossRow, ...]


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Run folders at or below the paths: each once, in the order given, below a folder in natural order."""
    found: dict[Path, Path] = {}
    for path in paths:
        if not os.path.exists(path):  # noqa: PTH110  # which, unlike Path.exists, is False below a folder that can't be entered
            raise MissingFile(f"There is no {path}: give a run folder, or a folder that holds some, such as outputs/.")
        runs = list(_runs_below(path))
        if not runs:
            raise MissingFile(
                f"There is no manifest.json in or below {path}: give the folder of a run that train.py or evaluate.py "
                "wrote, or a folder that holds some, such as outputs/ or multirun/."
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    return list(found.values())


def _runs_below(path: Path) -> Iterator[Path]:
    """Depth first; what lies inside a run folder belongs to that run."""
    for folder, subfolders, files in os.walk(path):
        if "manifest.json" in files:
            subfolders.clear()
            yield Path(folder)
        # A multirun numbers its jobs: 10 comes after 9.
        subfolders.sort(key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def read_runs(paths: Sequence[Path]) -> list[Run]:
    """Read the run folders, failed runs first, otherwise in the order given."""
    manifests = [(path, read_manifest(path / "manifest.json")) for path in paths]
    manifests.sort(key=lambda pair: pair[1].status != "failed")
    return [_read_run(number, path, manifest) for number, (path, manifest) in enumerate(manifests, 1)]


def _read_run(number: int, path: Path, manifest: Manifest) -> Run:
    return Run(
        number=number,
        path=path,
        manifest=manifest,
        answers=tuple(read_jsonl(path / "answers.jsonl", Answer)),
        verdicts=tuple(read_jsonl(path / "verdicts.jsonl", Verdict)),
        scores=tuple(read_csv(path / "scores.csv", Score)),
        losses=tuple(read_csv(path / "loss.csv", LossRow)),
    )


def read_jsonl(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Records of a JSON-lines file; none when there is no such file."""
    if not path.exists():
        return
    convert = _Converter(kind)
    try:
        with path.open("rb") as lines:  # as bytes: a line ends at \n alone, never at a U+2028 inside an answer
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield convert(_parse_line(line, path, number), f"{path}, line {number}")
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}): check its permissions.") from error


def _parse_line(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:  # bad JSON, or bytes that aren't UTF-8
        raise DataError(f"{path}, line {number} isn't JSON ({error}): {REPAIR}.") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}, line {number} isn't a JSON object: {REPAIR}.")
    return value


def read_csv(path: Path, kind: type[Record]) -> Iterator[Record]:
    """Records of a CSV file with a header; none when there is no such file. An empty field is None, or "" for text."""
    if not path.exists():
        return
    convert = _Converter(kind)
    number = 1
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for row in reader:
                number = reader.line_num
                where = f"{path}, line {number}"
                yield convert(convert.parse(row, where), where)
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}, line {number} or the one after isn't CSV in UTF-8 ({error}): {REPAIR}.") from error
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}): check its permissions.") from error


def _options(wanted: Any) -> tuple[Any, ...]:
    """The alternatives of a type: `int | None` gives int and NoneType."""
    return typing.get_args(wanted) if isinstance(wanted, types.UnionType) else (wanted,)


class _Converter(typing.Generic[Record]):
    """Turns a dict into a record after a check of every field; fields that we don't know are left out."""

    def __init__(self, kind: type[Record]) -> None:
        hints = typing.get_type_hints(kind)
        self.kind = kind
        self.wanted = {item.name: _options(hints[item.name]) for item in fields(kind)}  # type: ignore[arg-type]

    def parse(self, row: dict[str, str | None], where: str) -> dict[str, Any]:
        """The fields of a CSV row with numbers where the record wants numbers."""
        values: dict[str, Any] = {}
        for key in self.wanted.keys() & row.keys():
            text, options = row[key], self.wanted[key]
            try:
                values[key] = text if str in options or text is None else _number(text, int in options)
            except ValueError as error:
                raise DataError(f"{where}: `{key}` is {text!r}, not a number: {REPAIR}.") from error
        return values

    def __call__(self, row: dict[str, Any], where: str) -> Record:
        for name, options in self.wanted.items():
            if name not in row:
                raise DataError(f"{where} has no `{name}`: {REPAIR}.")
            if not any(_fits(row[name], option) for option in options):
                raise DataError(f"{where}: `{name}` is {str(row[name])[:80]!r}, which can't be used: {REPAIR}.")
        return self.kind(**{name: row[name] for name in self.wanted})


def _number(text: str, whole: bool) -> float | None:
    if not text:
        return None
    return int(text) if whole else float(text)


def _fits(value: object, option: Any) -> bool:
    if typing.get_origin(option) is typing.Literal:
        return value in typing.get_args(option)
    if isinstance(value, bool):
        return False
    if option is float:
        return isinstance(value, (int, float)) and math.isfinite(value)
    return isinstance(value, option)
