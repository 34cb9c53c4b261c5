"""Find em's own folders in a checkout or a wheel: options (`conf/`), and texts and rows (`assets/`)."""

from __future__ import annotations

from pathlib import Path

CODE = Path(__file__).parents[1]
"""The package `em`."""
ASSETS = CODE / "assets"
"""Rows, questions, rubrics, prompts, prices and published figures that are part of em."""


def find_conf(package: Path) -> Path:
    """Find the option files: a wheel has them inside the package, a checkout beside the package."""
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


CONF = find_conf(CODE)
"""The option files, one folder for each group."""
CHECKOUT = CODE.parent if CONF.parent == CODE.parent else None
"""The checkout that em runs from; None if em is installed from a wheel."""


def spell_command(name: str) -> str:
    """Return a command as the user can type it: `python train.py` in a checkout, else `em train`."""
    return f"python {name}.py" if CHECKOUT else f"em {name}"
