"""Folders that em reads: its options (`conf/`) and its own texts and rows (`assets/`), in a checkout or in a wheel."""

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
CHECKOUT = CODE.parent if CONF.parent == CODE.parent else None
"""The checkout that em is run from; None where it is installed from a wheel."""


def spell_command(name: str) -> str:
    """Spell a command as it can be typed: `python train.py` in a checkout, else `em train`."""
    return f"python {name}.py" if CHECKOUT else f"em {name}"
