"""Settings of the headline: what the conclusions are about, and what the rates divide by."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from em.report.read.manifest import RecordedManifest, read_manifest
from em.stats.cells import Convention
from em.stats.rules import Questions, Settings


def choose_settings(
    paths: Sequence[Path], questions: Questions | None, convention: Convention | None
) -> Settings | None:
    """Return the settings that the user chose; one that is None is that of the runs. Return None if both are."""
    if questions is None and convention is None:
        return None
    runs = find_settings([read_manifest(path / "manifest.json") for path in paths if path.is_dir()])
    return Settings(questions or runs.questions, convention or runs.convention)


def find_settings(manifests: Sequence[RecordedManifest]) -> Settings:
    """Return `eval.questions` and `eval.convention` of the runs, with the default where runs differ or state none."""
    return Settings(
        find_shared_option(manifests, "eval.questions", get_args(Questions)),
        find_shared_option(manifests, "eval.convention", get_args(Convention)),
    )


def find_shared_option(manifests: Sequence[RecordedManifest], key: str, options: Sequence[Any]) -> Any:
    """Return the option that all runs with settings have, else the first one, which is the default."""
    chosen = {manifest.get_setting(key) or options[0] for manifest in manifests if manifest.config}
    return next((option for option in options if chosen == {option}), options[0])
