"""The card in the distilled judge's file: its data, its settings, and its measured errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FORMAT = "1"


def read_metadata(file: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file; nothing if it is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(file), "numpy") as opened:
            return dict(opened.metadata() or {})
    except (OSError, SafetensorError):
        return {}


def read_card(file: Path) -> dict[str, Any]:
    """Return the card of a judge's file."""
    card: dict[str, Any] = json.loads(read_metadata(file).get("card", "{}"))
    return card
