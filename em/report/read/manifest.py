"""Reading `manifest.json`: what was run, with what, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from em.errors import DataError, MissingFile
from em.report.read.calls import Costs, Judge, read_costs, read_judges
from em.report.read.records import REMEDY, Fields, duration
from em.runtime.manifest import is_left

LEFT = "not finished"
"""The status of a run that was killed before it could say how it ended."""
ADAPTIVE = (
    "An older version of em sampled adaptively here (eval.stop=ci): how often a question was asked depended on its "
    "answers. This version counts k of n as they are, so low rates are a little too low."
)
"""The note on such a run, which is recognised by it."""


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
    data_sha256: str
    facts: dict[str, Any]
    checkpoints: tuple[Checkpoint, ...]


@dataclass(frozen=True)
class Manifest:
    """The manifest of a run. What a run that failed early didn't get to write is empty here.

    roles: what each tag is for, activation or control, by its condition.
    """

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
    judges: tuple[Judge, ...]
    costs: Costs
    answers: dict[str, Any]
    stages: tuple[Stage, ...]
    notes: tuple[str, ...]
    roles: dict[str, str]

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
    return parse_manifest(document, path)


def parse_manifest(document: dict[str, Any], path: Path) -> Manifest:
    """The manifest that a JSON object holds; `path` is named where it can't be used."""
    fields = Fields(path, document)
    git, base = fields.inner("git"), fields.inner("base")
    adaptive = fields.inner("sampling").text("stop") not in ("", "none")
    return Manifest(
        **{key: fields.text(key) for key in ("run", "error", "traceback", "started", "finished", "command")},
        status=LEFT if is_left(document) else fields.text("status"),
        overrides=fields.texts("overrides"),
        config=fields.inner("config").document,
        versions=fields.inner("versions").document,
        git_commit=git.text("commit"),
        git_dirty=git.document.get("dirty") is True,
        base_name=base.text("name"),
        base_identity=base.text("identity"),
        judges=read_judges(fields),
        costs=read_costs(fields.inner("costs")),
        answers=fields.inner("answers").document,
        stages=tuple(_stage(Fields(path, stage)) for stage in fields.items("stages", dict)),
        notes=(*fields.texts("notes"), *([ADAPTIVE] if adaptive else [])),
        roles={name: fields.inner("roles").text(name) for name in fields.inner("roles").document},
    )


def _stage(fields: Fields) -> Stage:
    return Stage(
        name=fields.text("name"),
        fingerprint=fields.text("fingerprint"),
        path=fields.text("path"),
        reused=fields.document.get("reused") is True,
        rows=fields.number("rows"),
        data_sha256=fields.text("data_sha256"),
        facts=fields.inner("facts").document,
        checkpoints=tuple(_checkpoint(Fields(fields.path, item)) for item in fields.items("checkpoints", dict)),
    )


def _checkpoint(fields: Fields) -> Checkpoint:
    return Checkpoint(fields.number("step"), fields.text("fingerprint"), fields.text("path"))
