"""Folders that em reads: its options (`conf/`) and its own texts and rows (`assets/`)."""

from __future__ import annotations

from pathlib import Path

CODE = Path(__file__).parents[1]
"""The package `em`."""
ASSETS = CODE / "assets"
"""Rows, questions, rubrics, prompts, prices and published figures that em brings along."""


def find_conf(package: Path) -> Path:
    """Find the option files: a wheel has them inside the package, a checkout beside it."""
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


CONF = find_conf(CODE)
"""The option files, one folder for each group."""
