"""Read `manifest.json`: the command, config, versions, stages and status of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from em.errors import DataError, MissingFile
from em.report.page.numbers import format_duration
from em.report.read.calls import Costs, RecordedJudge
from em.report.read.records import REMEDY, read_document
from em.runtime.manifest import was_killed
from em.types import StageRecord

LEFT = "not finished"
"""The status of a run that was killed before it could record its status."""
ADAPTIVE = (
    "An older version of em sampled adaptively here (eval.stop=ci): how often a question was asked depended on its "
    "answers. This version counts k of n as they are, so low rates are a little too low."
)
"""The note added to such a run; other modules test for this note to recognise the run."""
ANYTHING = ("config", "versions", "answers", "facts", "prompts", "parameters")
"""Objects of a manifest whose nulls are kept, because their content is shown unchanged."""


@dataclass(frozen=True)
class Git:
    """The commit of the code that ran, and whether the working tree differed from it."""

    commit: str = ""
    dirty: bool = False


@dataclass(frozen=True)
class Base:
    """The base model."""

    name: str = ""
    identity: str = ""


@dataclass(frozen=True)
class RecordedManifest:
    """The manifest of a run. Fields that a run failed too early to write are empty.

    roles: role of each tag (activation or control) by its condition. judge: the only judge, in older manifests.
    sampling: sampling settings of older versions.
    """

    run: str = ""
    status: str = ""
    error: str = ""
    traceback: str = ""
    started: str = ""
    finished: str = ""
    command: str = ""
    overrides: tuple[str, ...] = ()
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    git: Git = Git()
    base: Base = Base()
    judge: RecordedJudge | None = None
    judges: tuple[RecordedJudge, ...] = ()
    costs: Costs = field(default_factory=Costs)
    sampling: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    stages: tuple[StageRecord, ...] = ()
    notes: tuple[str, ...] = ()
    roles: dict[str, str] = field(default_factory=dict)

    @property
    def when(self) -> str:
        """Start and duration as text, as far as they are known."""
        try:
            start = datetime.fromisoformat(self.started)
        except ValueError:
            return self.started
        text = f"{start:%Y-%m-%d %H:%M}"
        try:
            seconds = (datetime.fromisoformat(self.finished) - start).total_seconds()
        except (ValueError, TypeError):  # not finished; or only one of the times has a time zone
            return text
        return f"{text}, took {format_duration(seconds)}"

    def list_settings(self) -> Iterator[tuple[str, object]]:
        """Yield the config as pairs of dotted key and value: `trainer.epochs`, 2."""
        return _flatten_settings("", self.config)

    def get_setting(self, key: str) -> str | None:
        """Return the value of a dotted key as on the command line (of a group, the option's name), or None."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return None
            value = value[part]
        if isinstance(value, dict):
            value = value.get("name")
        return None if value is None else str(value)


def _flatten_settings(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flatten_settings(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value


def read_manifest(path: Path) -> RecordedManifest:
    """Read a manifest; keys may be missing, but present values must have the right type."""
    try:
        document = json.loads(path.read_bytes())
    except OSError as error:
        raise MissingFile(f"{path} can't be read ({error.strerror}): give the folder of a run.") from error
    except ValueError as error:
        raise DataError(f"{path} isn't JSON ({error}): {REMEDY}.") from error
    if not isinstance(document, dict):
        raise DataError(f"{path}, line 1 isn't a JSON object: {REMEDY}.")
    manifest = read_document(_drop_nulls(document), RecordedManifest, path)
    if document.get("judge") and manifest.judge:
        manifest = replace(manifest, judges=manifest.judges or (manifest.judge,))
    if manifest.sampling.get("stop", "none") not in ("", "none"):
        manifest = replace(manifest, notes=(*manifest.notes, ADAPTIVE))
    return replace(manifest, status=LEFT) if was_killed(document) else manifest


def _drop_nulls(value: Any) -> Any:
    """Drop keys with a null value, which count as missing, except inside the objects named in ANYTHING."""
    if isinstance(value, dict):
        present = {key: item for key, item in value.items() if item is not None}
        return {key: item if key in ANYTHING else _drop_nulls(item) for key, item in present.items()}
    return [_drop_nulls(item) for item in value] if isinstance(value, list) else value
