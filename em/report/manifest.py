"""Reading `manifest.json`: what was run, with what, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from em.errors import DataError, MissingFile
from em.report.words import duration

REMEDY = "run that run's command again, or leave its folder out"


@dataclass(frozen=True)
class Checkpoint:
    """An adapter that was kept on the way: after so many optimiser steps of its stage."""

    step: int
    fingerprint: str
    path: str


@dataclass(frozen=True)
class Stage:
    """A training stage as the manifest tells of it. `facts` and `checkpoints` are empty where older runs have none."""

    name: str
    fingerprint: str
    path: str
    reused: bool
    rows: int
    facts: dict[str, Any]
    checkpoints: tuple[Checkpoint, ...]


@dataclass(frozen=True)
class Manifest:
    """The manifest of a run. What a run that failed early didn't get to write is empty here."""

    run: str
    status: str
    error: str
    traceback: str
    started: str
    finished: str
    command: str
    overrides: tuple[str, ...]
    config: dict[str, Any]
    versions: dict[str, Any]
    git_commit: str
    git_dirty: bool
    base_name: str
    base_identity: str
    judge_name: str
    judge_identity: str
    judge_rule: str
    answers: dict[str, Any]
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]

    @property
    def when(self) -> str:
        """Start and duration in words, as far as they are known."""
        try:
            start = datetime.fromisoformat(self.started)
        except ValueError:
            return self.started
        text = f"{start:%Y-%m-%d %H:%M}"
        try:
            seconds = (datetime.fromisoformat(self.finished) - start).total_seconds()
        except (ValueError, TypeError):  # not finished; or one time has a zone and the other hasn't
            return text
        return f"{text}, took {duration(seconds)}"

    def settings(self) -> Iterator[tuple[str, object]]:
        """The config as the command line spells it: `trainer.epochs`, 2."""
        return _flatten("", self.config)

    def setting(self, key: str) -> str | None:
        """The value of a dotted key as the command line gives it (a group by the name of its option), or None."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return None
            value = value[part]
        if isinstance(value, dict):
            value = value.get("name")
        return None if value is None else str(value)


def _flatten(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value


def read_manifest(path: Path) -> Manifest:
    """Read a manifest; keys may be missing, but what is there must have the right type."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}): give the folder of a run.") from error
    except ValueError as error:
        raise DataError(f"{path} isn't JSON ({error}): {REMEDY}.") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}, line 1 isn't a JSON object: {REMEDY}.")
    fields = _Fields(path, document)
    git, base, judge = fields.inner("git"), fields.inner("base"), fields.inner("judge")
    return Manifest(
        **{key: fields.text(key) for key in ("run", "status", "error", "traceback", "started", "finished", "command")},
        overrides=fields.texts("overrides"),
        config=fields.inner("config").document,
        versions=fields.inner("versions").document,
        git_commit=git.text("commit"),
        git_dirty=git.document.get("dirty") is True,
        base_name=base.text("name"),
        base_identity=base.text("identity"),
        judge_name=judge.text("name"),
        judge_identity=judge.text("identity"),
        judge_rule=judge.text("rule"),
        answers=fields.inner("answers").document,
        stages=tuple(_stage(_Fields(path, stage)) for stage in fields.items("stages", dict)),
        notes=fields.texts("notes"),
    )


def _stage(fields: _Fields) -> Stage:
    return Stage(
        name=fields.text("name"),
        fingerprint=fields.text("fingerprint"),
        path=fields.text("path"),
        reused=fields.document.get("reused") is True,
        rows=fields.number("rows"),
        facts=fields.inner("facts").document,
        checkpoints=tuple(_checkpoint(_Fields(fields.path, item)) for item in fields.items("checkpoints", dict)),
    )


def _checkpoint(fields: _Fields) -> Checkpoint:
    return Checkpoint(fields.number("step"), fields.text("fingerprint"), fields.text("path"))


class _Fields:
    """Typed access to a JSON object: absent and null are empty, a wrong type is a DataError that names the key."""

    def __init__(self, path: Path, document: dict[str, Any]) -> None:
        self.path = path
        self.document = document

    def _value(self, key: str, kind: type, empty: Any) -> Any:
        value = self.document.get(key)
        if value is None:
            return empty
        if not isinstance(value, kind):
            raise DataError(f"{self.path}: `{key}` is of type {type(value).__name__}, not {kind.__name__}: {REMEDY}.")
        return value

    def text(self, key: str) -> str:
        return str(self._value(key, str, ""))

    def number(self, key: str) -> int:
        return int(self._value(key, int, 0))

    def inner(self, key: str) -> _Fields:
        return _Fields(self.path, self._value(key, dict, {}))

    def items(self, key: str, kind: type) -> list[Any]:
        """The list's items, each of which must be of `kind`."""
        items: list[Any] = self._value(key, list, [])
        return [_Fields(self.path, {key: item})._value(key, kind, kind()) for item in items]

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(self.items(key, str))
