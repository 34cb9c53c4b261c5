"""Folders that em reads: its options (`conf/`) and its own texts and rows (`assets/`)."""

from __future__ import annotations

from pathlib import Path

CODE = Path(__file__).parents[1]
"""The package `em`."""
ASSETS = CODE / "assets"
CONF = CODE.parent / "conf"
